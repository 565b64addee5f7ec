from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harden.attacks import FGSM, craft
from harden.defences import DEFENCES, FEATURE_DEFENCES, Craft, DefenceContext, DefenceSettings
from harden.models.tap import Tap, as_representation
from tests.attacks.nets import as_classifier, gen

CLASSES = 4
WIDTH = 6
LAYER = "2"
STRONG = DefenceSettings(beta=0.7, gamma=0.3, grl_warmup=0.0)


def classifier(seed=0):
    """Extractor up to layer "2" (6 features), predictor after it; float64, no BatchNorm."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 5), nn.Tanh())
        net.append(nn.Linear(5, CLASSES))
    return as_classifier(net, classes=tuple("abcd"), size=(3, 2, 2)).double()


def build(name, settings=STRONG, seed=0):
    return DEFENCES[name](DefenceContext(CLASSES, WIDTH, gen(seed)), settings).double()


def batch(n=7, seed=1):
    g = gen(seed)
    return torch.rand(n, 3, 2, 2, generator=g, dtype=torch.float64), torch.randint(CLASSES, (n,), generator=g)


def by_fgsm(model, images, labels):
    return craft(FGSM(eps=0.1), model, images, labels, generator=gen(2))


def fgsm_alone(model, images, labels):
    return (by_fgsm(model, images, labels),)


def step(defence, model, images, labels, make=fgsm_alone):
    with Tap(model, LAYER) as tapped:
        return defence.step_loss(tapped, images, labels, Craft(make), gen())


def network_gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)


def split(net):
    return net.module[:3], net.module[3:]


def domain_term(discriminators, values_clean, values_adversarial, labels):
    """Class by class, sample by sample: the mean over all samples of the binary cross-entropy of the domain."""
    total, count = 0.0, 0
    for k in range(CLASSES):
        group = k if discriminators.classes > 1 else 0
        for values, clean in ((values_clean, True), (values_adversarial, False)):
            for value in values[labels == k]:
                hidden = value
                for i, (w, b) in enumerate(zip(discriminators.weights, discriminators.biases, strict=True)):
                    hidden = hidden @ w[group] + b[group, 0]
                    hidden = hidden if i == len(discriminators.weights) - 1 else hidden.relu()
                probability = torch.sigmoid(hidden[0])
                total = total - torch.log(probability if clean else 1 - probability)
                count += 1
    return total / count


def twin_terms(defence, model, images, labels):
    """Eq. 7 written from the paper, without reversal: CE(clean), CE(adv), BCE_feature, BCE_logit."""
    extractor, predictor = split(model)
    adversarial = by_fgsm(model, images, labels)
    phi_clean, phi_adversarial = extractor(images), extractor(adversarial)
    logits_clean, logits_adversarial = predictor(phi_clean), predictor(phi_adversarial)
    feature = logit = torch.zeros((), dtype=torch.float64)
    if defence.on_features is not None:
        feature = domain_term(defence.on_features, phi_clean, phi_adversarial, labels)
    if defence.on_logits is not None:
        logit = domain_term(defence.on_logits, logits_clean, logits_adversarial, labels)
    return F.cross_entropy(logits_clean, labels), F.cross_entropy(logits_adversarial, labels), feature, logit


every = pytest.mark.parametrize("name", DEFENCES)


@every
def test_the_loss_is_a_finite_scalar_whose_gradient_reaches_the_whole_network(name):
    defence, model = build(name), classifier()
    result = step(defence, model, *batch())
    assert result.loss.shape == ()
    assert torch.isfinite(result.loss)
    result.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in defence.parameters())


@every
def test_scalars_are_detached_single_numbers(name):
    scalars = step(build(name), classifier(), *batch()).scalars
    assert "ce_clean" in scalars
    assert "train_accuracy_clean" in scalars
    for value in scalars.values():
        assert value.shape == ()
        assert not value.requires_grad
        assert torch.isfinite(value)
    for key in (k for k in scalars if "accuracy" in k):
        assert 0 <= scalars[key] <= 1


@every
def test_says_truly_whether_it_needs_features(name):
    assert build(name).uses_features == (name in FEATURE_DEFENCES)
    if name in FEATURE_DEFENCES:
        assert not build(name, DefenceSettings(beta=0.0, gamma=1.0)).uses_features


@every
def test_the_same_step_twice_is_the_same(name):
    one, two = (step(build(name), classifier(), *batch()) for _ in range(2))
    assert torch.equal(one.loss, two.loss)


@every
def test_no_randomness_of_the_global_generator(name):
    rng = torch.get_rng_state()
    step(build(name), classifier(), *batch())
    assert torch.equal(torch.get_rng_state(), torch.as_tensor(rng))


def test_nt_is_the_cross_entropy_of_clean_images_and_makes_no_example():
    def never(model, images, labels):
        raise AssertionError("NT crafted an example")

    model = classifier()
    images, labels = batch()
    result = step(build("nt"), model, images, labels, never)
    torch.testing.assert_close(result.loss, F.cross_entropy(model.module(images), labels))
    assert result.scalars["train_accuracy_clean"] == (model(images).argmax(1) == labels).float().mean()


def test_sat_is_the_sum_of_both_cross_entropies():
    model = classifier()
    images, labels = batch()
    defence = build("sat")
    result = step(defence, model, images, labels)
    ce_clean = F.cross_entropy(model(images), labels)
    ce_adv = F.cross_entropy(model(by_fgsm(model, images, labels)), labels)
    torch.testing.assert_close(result.loss, ce_clean + ce_adv)
    torch.testing.assert_close(result.scalars["ce_clean"], ce_clean.detach())
    torch.testing.assert_close(result.scalars["ce_adv"], ce_adv.detach())
    assert ce_adv > ce_clean
    assert list(defence.parameters()) == []


@pytest.mark.parametrize("name", ["adv4adv", "adv4adv-star"])
@pytest.mark.parametrize(("beta", "gamma"), [(0.7, 0.0), (0.0, 0.3), (0.7, 0.3), (0.0, 0.0)])
@pytest.mark.parametrize("classwise", [True, False])
def test_loss_and_every_gradient_are_those_of_eq_7(name, beta, gamma, classwise):
    settings = DefenceSettings(beta=beta, gamma=gamma, classwise=classwise, grl_warmup=0.0)
    defence, model = build(name, settings), classifier()
    images, labels = batch()
    assert len(set(labels.tolist())) < CLASSES  # one class is absent
    result = step(defence, model, images, labels)
    ce_clean, ce_adv, feature, logit = twin_terms(defence, model, images, labels)
    classification = ce_adv + ce_clean if name == "adv4adv" else ce_adv
    torch.testing.assert_close(result.loss, classification + feature + logit)

    # The network descends the cross-entropies and ascends beta * feature + gamma * logit.
    expected = network_gradients(classification - beta * feature - gamma * logit, model)
    for ours, theirs in zip(network_gradients(result.loss, model), expected, strict=True):
        torch.testing.assert_close(ours, theirs)

    # The discriminators descend their own terms at full strength, whatever beta and gamma are.
    discriminators = list(defence.parameters())
    if discriminators:
        ours = torch.autograd.grad(result.loss, discriminators)
        theirs = torch.autograd.grad(feature + logit, discriminators)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def only_domain(beta, gamma, seed=0):
    """Gradients of the loss less both cross-entropies: (extractor, predictor, discriminators)."""
    defence, model = build("adv4adv", DefenceSettings(beta=beta, gamma=gamma, grl_warmup=0.0)), classifier(seed)
    images, labels = batch()
    adversarial = by_fgsm(model, images, labels)
    with Tap(model, LAYER) as tapped:
        result = defence.step_loss(tapped, images, labels, Craft(fgsm_alone), gen())
    plain = F.cross_entropy(model(images), labels) + F.cross_entropy(model(adversarial), labels)
    parts = [list(m.parameters()) for m in (*split(model), defence)]
    return [
        torch.autograd.grad(result.loss - (plain if part is not parts[2] else 0), part, retain_graph=True)
        for part in parts
    ]


def test_the_predictor_gets_a_reversed_gradient_from_the_logit_term_only():
    extractor, predictor, _ = only_domain(beta=1.0, gamma=0.0)
    assert max(g.abs().max() for g in extractor) > 1e-4
    assert max(g.abs().max() for g in predictor) < 1e-12
    extractor, predictor, _ = only_domain(beta=0.0, gamma=1.0)
    assert max(g.abs().max() for g in extractor) > 1e-4
    assert max(g.abs().max() for g in predictor) > 1e-4


def test_the_reversed_gradient_is_proportional_to_beta_and_the_discriminators_is_not():
    weak, _, own_weak = only_domain(beta=0.1, gamma=0.0)
    strong, _, own_strong = only_domain(beta=2.0, gamma=0.0)
    for a, b in zip(weak, strong, strict=True):
        torch.testing.assert_close(20 * a, b, rtol=1e-6, atol=1e-12)
    for a, b in zip(own_weak, own_strong, strict=True):
        torch.testing.assert_close(a, b)


def test_the_star_differs_by_the_clean_cross_entropy_alone():
    model = classifier()
    full, star = step(build("adv4adv"), model, *batch()), step(build("adv4adv-star"), model, *batch())
    torch.testing.assert_close(full.loss - star.loss, full.scalars["ce_clean"])
    assert full.scalars.keys() == star.scalars.keys()


def test_clean_is_domain_one_and_adversarial_domain_zero():
    defence, model = build("adv4adv", DefenceSettings(beta=1.0)), classifier()
    with torch.no_grad():  # discriminators that always say "clean", and are sure of it
        defence.on_features.weights[-1].zero_()
        defence.on_features.biases[-1].fill_(2.0)
    images, labels = batch()
    scalars = step(defence, model, images, labels).scalars
    assert scalars["domain_accuracy_feature"].item() == 0.5
    mean = 0.5 * (F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(2.0)))
    assert scalars["bce_feature"].item() == pytest.approx(mean.item(), rel=1e-6)
    # Examples that are the clean images again, in a wrong class: nothing to tell apart but the order.
    halves = step(defence, model, images, labels, lambda m, x, y: (x,)).scalars
    assert halves["domain_accuracy_feature"].item() == 0.5


@pytest.mark.parametrize(
    ("warmup", "progress", "expected"), [(0.2, 0.0, 0.0), (0.2, 0.1, 0.5), (0.2, 0.2, 1.0), (0.2, 0.9, 1.0), (0, 0, 1)]
)
def test_the_reversal_warms_up_linearly(warmup, progress, expected):
    defence = build("adv4adv", DefenceSettings(beta=1.0, grl_warmup=warmup))
    defence.set_progress(progress)
    assert defence.reversal == pytest.approx(expected)


def test_at_the_start_of_the_warm_up_the_network_is_trained_as_by_sat():
    model = classifier()
    defence = build("adv4adv", DefenceSettings(beta=1.0, gamma=1.0, grl_warmup=0.5))
    defence.set_progress(0.0)
    result = step(defence, model, *batch())
    sat = step(build("sat"), model, *batch())
    for a, b in zip(network_gradients(result.loss, model), network_gradients(sat.loss, model), strict=True):
        torch.testing.assert_close(a, b)
    assert all(p.grad is None for p in defence.parameters())
    result.loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in defence.parameters())  # these learn from the first step on


def test_halfway_through_the_warm_up_beta_counts_half():
    def gradient(settings, progress):
        defence, model = build("adv4adv", settings), classifier()
        defence.set_progress(progress)
        return network_gradients(step(defence, model, *batch()).loss, model)

    halfway = gradient(DefenceSettings(beta=1.0, grl_warmup=0.5), 0.25)
    half = gradient(DefenceSettings(beta=0.5, grl_warmup=0.0), 0.25)
    for a, b in zip(halfway, half, strict=True):
        torch.testing.assert_close(a, b)


def test_strength_scales_the_reversal_on_top_of_the_warmup():
    defence = build("adv4adv")
    values = []
    for strength in (1.0, 0.5, 0.25):
        defence.set_progress(1.0, strength)
        values.append(defence.reversal)
    assert values == [1.0, 0.5, 0.25]


def test_feature_maps_are_represented_by_the_stated_rule():
    """The split is a map: the discriminators see it flattened, clean half first."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(8, CLASSES))
    model = as_classifier(net, classes=tuple("abcd"), size=(3, 2, 2)).double()
    settings = DefenceSettings(beta=1.0, grl_warmup=0.0)
    defence = DEFENCES["adv4adv"](DefenceContext(CLASSES, 8, gen()), settings).double()
    images, labels = batch()
    with Tap(model, "1") as tapped:
        result = defence.step_loss(tapped, images, labels, Craft(fgsm_alone), gen())
    adversarial = by_fgsm(model, images, labels)
    term = domain_term(
        defence.on_features, as_representation(net[:2](images)), as_representation(net[:2](adversarial)), labels
    )
    torch.testing.assert_close(result.scalars["bce_feature"], term.detach())


def test_batchnorm_sees_the_mixture_once_per_step_and_never_the_crafting():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, CLASSES))
    for name, expected in itertools.product(("sat", "eat", "atda", "adv4adv"), (1,)):
        model = as_classifier(net, classes=tuple("abcd"), size=(3, 2, 2)).double().train()
        net[2].reset_running_stats()
        step(build(name), model, *batch())
        assert net[2].num_batches_tracked.item() == expected
        assert net[2].training


def test_a_defence_that_needs_no_features_runs_on_a_tap_of_nothing():
    model = classifier()
    for name, settings in (("nt", STRONG), ("sat", STRONG), ("adv4adv", DefenceSettings(beta=0.0, gamma=1.0))):
        with Tap(model, None) as tapped:
            result = build(name, settings).step_loss(tapped, *batch(), Craft(fgsm_alone), gen())
        assert torch.isfinite(result.loss)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", [name for name in DEFENCES if name != "nt"])
def test_the_smallest_batches(name, n):
    assert torch.isfinite(step(build(name), classifier(), *batch(n)).loss)
