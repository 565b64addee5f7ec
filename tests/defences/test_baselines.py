"""EAT, ATDA and PAT against twins written from their papers, and any defence with several source attacks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harden.adaptation import coral, mmd
from harden.attacks import FGSM, NFGSM, craft
from harden.defences import DEFENCES, SOURCES, Craft, DefenceContext, DefenceSettings
from harden.defences.atda import ATDA
from harden.models.tap import Tap
from tests.attacks.nets import as_classifier, gen

from .test_defences import CLASSES, WIDTH, batch, by_fgsm, classifier, fgsm_alone, network_gradients, split, step


def two_attacks(model, images, labels):
    noisy = craft(NFGSM(eps=0.1), model, images, labels, generator=gen(4))
    return by_fgsm(model, images, labels), noisy


def build(name, *, sources=1, statics=(), settings=None):
    context = DefenceContext(CLASSES, WIDTH, gen(), sources=sources, statics=statics)
    return DEFENCES[name](context, settings or DefenceSettings(beta=0.7, gamma=0.3, grl_warmup=0.0)).double()


def test_eat_counts_every_set_of_examples_the_same_and_crafts_all_from_the_clean_image():
    model, statics = classifier(), (classifier(1), classifier(2))
    images, labels = batch()
    asked = []

    def watch(network, clean, targets):
        assert torch.equal(clean, images)
        asked.append(network)
        return (by_fgsm(network, clean, targets),)

    result = step(build("eat", statics=statics), model, images, labels, watch)
    assert [network is other for network, other in zip(asked, (model, *statics), strict=True)] == [True] * 3
    terms = [F.cross_entropy(model(by_fgsm(network, images, labels)), labels) for network in (model, *statics)]
    torch.testing.assert_close(result.loss, F.cross_entropy(model(images), labels) + sum(terms) / 3)
    torch.testing.assert_close(result.scalars["ce_adv"], (sum(terms) / 3).detach())


def test_eat_neither_trains_nor_keeps_its_static_networks():
    statics = (classifier(1),)
    before = {name: value.clone() for name, value in statics[0].state_dict().items()}
    defence, model = build("eat", statics=statics), classifier()
    assert list(defence.parameters()) == []
    assert defence.state_dict() == {}
    step(defence, model, *batch()).loss.backward()
    assert all(p.grad is None for p in statics[0].parameters())
    assert all(torch.equal(value, before[name]) for name, value in statics[0].state_dict().items())


def test_eat_without_static_networks_is_sat():
    torch.testing.assert_close(
        step(build("eat"), classifier(), *batch()).loss, step(build("sat"), classifier(), *batch()).loss
    )


def test_atda_is_the_sum_of_its_terms_and_its_centres_then_follow():
    model, defence = classifier(), build("atda")
    images, labels = batch()
    centres = torch.randn(CLASSES, CLASSES, generator=gen(8), dtype=torch.float64)
    defence.centres.centres.copy_(centres)
    result = step(defence, model, images, labels)
    adversarial = craft(FGSM(eps=0.1), model, images, model(images).argmax(1), generator=gen())
    clean_logits, adversarial_logits = model(images), model(adversarial)
    logits, both = torch.cat([clean_logits, adversarial_logits]), torch.cat([labels, labels])
    margins = [
        F.softplus((z - centres[y]).abs().sum() - (z - centres[k]).abs().sum())
        for z, y in zip(logits, both.tolist(), strict=True)
        for k in range(CLASSES)
        if k != y
    ]
    terms = (
        coral(clean_logits, adversarial_logits) + mmd(clean_logits, adversarial_logits) + sum(margins) / len(margins)
    )
    expected = F.cross_entropy(clean_logits, labels) + F.cross_entropy(adversarial_logits, labels) + terms / 3
    torch.testing.assert_close(result.loss, expected)
    for ours, theirs in zip(network_gradients(result.loss, model), network_gradients(expected, model), strict=True):
        torch.testing.assert_close(ours, theirs)
    moved = centres.clone()
    for k in range(CLASSES):
        own = logits[both == k].detach()
        moved[k] -= 0.1 * (centres[k] - own).sum(0) / (1 + len(own))
    torch.testing.assert_close(defence.centres.centres, moved)


def test_atda_crafts_from_what_the_model_predicts():
    """Labels that are all wrong change its loss, but not its examples."""
    asked = []

    def watch(network, clean, targets):
        asked.append(targets)
        return fgsm_alone(network, clean, targets)

    step(build("atda"), classifier(), *batch(), watch)
    assert asked == [None]
    images, labels = batch()
    predicted = classifier()(images).argmax(1)
    alone = craft(FGSM(eps=0.1), classifier(), images, None, generator=gen())
    assert torch.equal(alone, craft(FGSM(eps=0.1), classifier(), images, predicted, generator=gen()))
    assert not torch.equal(alone, craft(FGSM(eps=0.1), classifier(), images, labels, generator=gen()))


def test_atda_in_eval_mode_leaves_its_centres_alone():
    defence = ATDA(CLASSES).double().eval()
    step(defence, classifier(), *batch())
    assert (defence.centres.centres == 0).all()


def test_pat_is_sat_from_pgd():
    assert SOURCES["pat"] == ("pgd",)
    torch.testing.assert_close(
        step(build("pat"), classifier(), *batch()).loss, step(build("sat"), classifier(), *batch()).loss
    )


# -- several source attacks --------------------------------------------------------------------------------------------


def test_the_adversarial_cross_entropy_is_the_mean_over_source_attacks():
    model = classifier()
    images, labels = batch()
    first, second = two_attacks(model, images, labels)
    ce_adv = (F.cross_entropy(model(first), labels) + F.cross_entropy(model(second), labels)) / 2
    for name in ("sat", "pat", "eat"):
        result = step(build(name, sources=2), model, images, labels, two_attacks)
        torch.testing.assert_close(result.loss, F.cross_entropy(model(images), labels) + ce_adv)


@pytest.mark.parametrize("name", ["adv4adv", "adv4adv-star"])
def test_discriminators_tell_as_many_domains_apart_as_there_are(name):
    defence, model = build(name, sources=2), classifier()
    images, labels = batch()
    result = step(defence, model, images, labels, two_attacks)
    extractor, predictor = split(model)
    domains = (images, *two_attacks(model, images, labels))
    feature, logit, count = 0.0, 0.0, 0
    for domain, pixels in zip((2, 0, 1), domains, strict=True):  # the clean domain is the last one
        phi = extractor(pixels)
        for values, module, space in ((phi, defence.on_features, "f"), (predictor(phi), defence.on_logits, "l")):
            for value, label in zip(values, labels.tolist(), strict=True):
                term = F.cross_entropy(run(module, value, label), torch.tensor(domain))
                feature, logit = (feature + term, logit) if space == "f" else (feature, logit + term)
        count += len(images)
    torch.testing.assert_close(result.scalars["bce_feature"], (feature / count).detach())
    torch.testing.assert_close(result.scalars["bce_logit"], (logit / count).detach())
    ces = [F.cross_entropy(model(pixels), labels) for pixels in domains]
    classification = (ces[1] + ces[2]) / 2 + (ces[0] if name == "adv4adv" else 0)
    torch.testing.assert_close(result.loss, classification + (feature + logit) / count)
    expected = network_gradients(classification - (0.7 * feature + 0.3 * logit) / count, model)
    for ours, theirs in zip(network_gradients(result.loss, model), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def run(module, value, label):
    """The logits of one sample's domain, through the discriminator of its class."""
    hidden = value
    for i, (w, b) in enumerate(zip(module.weights, module.biases, strict=True)):
        hidden = hidden @ w[label] + b[label, 0]
        hidden = hidden if i == len(module.weights) - 1 else hidden.relu()
    return hidden


def test_the_moments_of_atda_are_means_over_source_attacks():
    model, defence = classifier(), build("atda", sources=2)
    images, labels = batch()

    def attacks(network, clean, targets):
        return two_attacks(network, clean, labels)

    scalars = step(defence, model, images, labels, attacks).scalars
    clean, first, second = (model(x) for x in (images, *two_attacks(model, images, labels)))
    torch.testing.assert_close(scalars["coral"], ((coral(clean, first) + coral(clean, second)) / 2).detach())
    torch.testing.assert_close(scalars["mmd"], ((mmd(clean, first) + mmd(clean, second)) / 2).detach())


def test_one_forward_pass_sees_all_domains():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, CLASSES))
    model = as_classifier(net, classes=tuple("abcd"), size=(3, 2, 2)).double().train()
    for name in ("sat", "eat", "atda", "adv4adv"):
        net[2].reset_running_stats()
        with Tap(model, "2") as tapped:
            build(name, sources=2).step_loss(tapped, *batch(), Craft(two_attacks_of(batch()[1])), gen())
        assert net[2].num_batches_tracked.item() == 1


def two_attacks_of(labels):
    return lambda model, images, targets: two_attacks(model, images, labels)
