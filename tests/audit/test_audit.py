from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from harden.attacks import APGD, FGSM, MIM, PGD, RFGSM, Planned, Transfer, frozen
from harden.audit.keeping import Keeping
from harden.audit.result import AuditResult, Exposure
from harden.audit.runner import audit, exposures_of
from harden.data.dataset import ImageSet
from tests.attacks.nets import DIGITS, Counting, as_classifier, digits, modal, trained_cnn

EPS = 0.08
ATTACKS = (FGSM(eps=EPS), PGD(eps=EPS, iterations=5, random_start=True, tries=2), MIM(eps=EPS), RFGSM(eps=EPS))


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """297 unseen digits, made harder with noise so that some are wrong from the start; two batches of the audit."""
    pixels, labels = digits()
    noise = torch.rand(pixels[1500:].shape, generator=torch.Generator().manual_seed(0))
    harder = (0.6 * pixels[1500:] + 0.4 * noise).mul(255).round().to(torch.uint8)
    return ImageSet(harder, labels[1500:], tuple(f"digit-{i}" for i in range(297)))


def run(images, attacks=ATTACKS, module=None, **kwargs):
    arguments = {"model": "net", "dataset": "digits, test", "exposures": {}} | kwargs
    planned = [attack if isinstance(attack, Planned) else Planned(attack) for attack in attacks]
    return audit(as_classifier(module or trained_cnn()), images, planned, **arguments)


@pytest.fixture(scope="module")
def result(images) -> AuditResult:
    return run(images, exposures=exposures_of(training=["FGSM"], selection=["MIM", "FGSM"]), seed=3)


def test_clean_facts_are_those_of_the_model(images, result):
    with torch.no_grad():
        scores = trained_cnn()(images.batch(slice(None))[0])
    assert np.array_equal(result.clean_predictions, scores.argmax(1).numpy())
    assert np.array_equal(result.labels, images.labels.numpy())
    rivals = scores.clone()
    rivals[torch.arange(297), images.labels] = -torch.inf
    own = scores[torch.arange(297), images.labels]
    np.testing.assert_allclose(result.clean_margins, (own - rivals.amax(1)).numpy(), atol=1e-4)
    assert 0.3 < result.clean_accuracy().value < 0.99


def test_only_images_that_are_right_are_attacked_and_the_others_keep_their_clean_facts(result):
    wrong = ~result.clean_correct
    assert wrong.any()
    for outcome in result.outcomes:
        assert np.array_equal(outcome.attacked, result.clean_correct)
        assert np.array_equal(outcome.predictions[wrong], result.clean_predictions[wrong])
        assert np.array_equal(outcome.margins[wrong], result.clean_margins[wrong])
        assert (outcome.distances[wrong] == 0).all()
        assert outcome.complete


def test_per_sample_facts_agree_with_each_other(result):
    for outcome in result.outcomes:
        fooled = outcome.predictions != result.labels
        assert np.array_equal(outcome.margins < 0, fooled)
        assert (outcome.distances <= EPS + 1e-6).all()
        assert (outcome.distances[fooled & result.clean_correct] > 0).all()
        assert outcome.eps == EPS
        assert outcome.norm == "linf"
        assert (outcome.margins[result.clean_correct] <= result.clean_margins[result.clean_correct] + 1e-4).all()


def test_the_worst_case_is_the_and_over_attacks(result):
    standing = [
        all(
            [result.clean_predictions[i] == result.labels[i]]
            + [o.predictions[i] == result.labels[i] for o in result.outcomes]
        )
        for i in range(len(result))
    ]
    assert result.standing().tolist() == standing
    assert result.worst_case().count == sum(standing)
    assert result.worst_case().value <= min(result.robust_accuracy(o).value for o in result.outcomes)
    assert result.worst_case().value < result.clean_accuracy().value
    weakest_first = sorted(result.outcomes, key=lambda o: result.robust_accuracy(o).count)
    assert result.robust_accuracy(result.strongest()).count == result.robust_accuracy(weakest_first[0]).count


def test_per_class_worst_cases_add_up(result):
    per_class = result.per_class_worst_case()
    assert sum(p.count for p in per_class) == result.worst_case().count
    assert sum(p.total for p in per_class) == len(result)


def test_a_class_without_images_has_no_share(images):
    some = images.subset(torch.nonzero(images.labels != 7).squeeze(1))
    per_class = run(some, [FGSM(eps=EPS)]).per_class_worst_case()
    assert [k for k, p in enumerate(per_class) if p is None] == [7]


def test_exposures(result):
    assert [o.exposure for o in result.outcomes] == [
        Exposure.TRAINING,  # training outweighs selection
        Exposure.UNSEEN,
        Exposure.SELECTION,
        Exposure.UNSEEN,
    ]


def test_the_attacks_are_reported_in_order_with_their_definitions(result):
    assert [(o.name, o.definition) for o in result.outcomes] == [(a.name, a.definition) for a in ATTACKS]
    assert result.outcome("MIM") is result.outcomes[2]
    with pytest.raises(KeyError):
        result.outcome("PGD-21")


def test_json_round_trip(result):
    again = AuditResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    for field in dataclasses.fields(AuditResult):
        if field.name == "outcomes":
            continue
        _assert_same(getattr(again, field.name), getattr(result, field.name))
    for ours, theirs in zip(again.outcomes, result.outcomes, strict=True):
        for field in dataclasses.fields(theirs):
            _assert_same(getattr(ours, field.name), getattr(theirs, field.name))
        assert np.array_equal(ours.margins < 0, theirs.margins < 0)  # rounding never changes a verdict
    assert again.to_json() == result.to_json()


def _assert_same(ours, theirs):
    if isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=1e-3)
    else:
        assert ours == theirs


def test_the_same_seed_gives_the_same_result_and_another_does_not(images, result):
    def facts(r):
        return [(o.predictions.tolist(), o.margins.tolist(), o.distances.tolist()) for o in r.outcomes]

    assert facts(run(images, seed=3)) == facts(result)
    other = facts(run(images, seed=4))
    assert other[0] == facts(result)[0]  # FGSM draws nothing
    assert other[1] != facts(result)[1]


def test_an_attack_is_the_same_alone_or_after_others(images, result):
    alone = run(images, [ATTACKS[1]], seed=3).outcomes[0]
    assert alone.margins.tolist() == result.outcomes[1].margins.tolist()


def test_passes_are_those_that_the_model_saw(images):
    counting = Counting(trained_cnn())
    result = run(images, module=counting)
    assert sum(o.forwards for o in result.outcomes) + len(images) == counting.images
    assert all(o.backwards <= o.forwards for o in result.outcomes)


def test_a_model_in_training_comes_back_in_training(images):
    net = modal(channels=1, classes=10)
    modes = {n: m.training for n, m in net.named_modules()}
    state = {k: v.clone() for k, v in net.state_dict().items()}
    rng = torch.get_rng_state()
    first = run(images.subset(torch.arange(40)), [FGSM(eps=EPS)], module=net)
    assert net.training
    assert {n: m.training for n, m in net.named_modules()} == modes
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not net.conv.weight.requires_grad
    assert net.head.weight.requires_grad
    with frozen(net), torch.no_grad():  # and it was scored in eval mode
        scores = net(images.batch(slice(0, 40))[0])
    assert np.array_equal(first.clean_predictions, scores.argmax(1).numpy())


def test_progress_reaches_the_work_that_was_done(images):
    heard = []
    result = run(images, ATTACKS, progress=lambda *what: heard.append(what))
    costs = [attack.pass_cost for attack in ATTACKS]
    work = sum(cost * (o.forwards + o.backwards) for cost, o in zip(costs, result.outcomes, strict=True))
    assert heard[-1][:2] == (ATTACKS[-1].name, round(work))
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)
    assert all(done <= total for _, done, total in heard)
    assert list(dict.fromkeys(name for name, _, _ in heard)) == [attack.name for attack in ATTACKS]
    assert heard[-1][2] < 1.3 * work  # little was expected that did not come


def test_members_of_an_ensemble_attack_only_what_still_stands(images):
    first, second = PGD(eps=EPS, iterations=5), APGD(eps=EPS, iterations=10)
    result = run(images, [first, Planned(second, member=True)])
    stands = result.survived(result.outcomes[0])
    assert np.array_equal(result.outcomes[1].attacked, stands)
    assert 0 < stands.sum() < result.clean_correct.sum()
    assert not result.outcomes[1].complete
    assert (result.outcomes[1].queries[~stands] == 0).all()


def test_an_interrupted_audit_goes_on_where_it_was(images, tmp_path):
    """The attacks that were finished are not run again, and the result is that of an audit in one go."""

    def keeping(subject=images, seed=0):
        return Keeping(tmp_path, model=trained_cnn(), name="net", images=subject, seed=seed)

    class StopError(Exception):
        pass

    def stop_in_mim(name, done, total):
        if name == "MIM":
            raise StopError

    with pytest.raises(StopError):
        run(images, keeping=keeping(), progress=stop_in_mim)
    counting = Counting(trained_cnn())
    again = run(images, module=counting, keeping=keeping())
    whole = run(images)
    finished = sum(o.forwards for o in whole.outcomes[:2])
    assert counting.images == len(images) + sum(o.forwards for o in whole.outcomes) - finished
    for ours, theirs in zip(again.outcomes, whole.outcomes, strict=True):
        assert ours.predictions.tolist() == theirs.predictions.tolist()
    everything = torch.ones(len(images), dtype=torch.bool)
    right = torch.from_numpy(whole.clean_correct)
    nets = {"a": trained_cnn(), "b": copy.deepcopy(trained_cnn())}
    with torch.no_grad():
        next(nets["b"].parameters()).add_(0.01)
    assert keeping().find(ATTACKS[0], right, 1) is not None
    assert keeping().find(ATTACKS[0], everything, 1) is None
    assert keeping().find(FGSM(eps=EPS / 2), right, 1) is None
    assert keeping(seed=1).find(ATTACKS[0], right, 1) is None
    over = {
        name: Transfer(eps=EPS, inner=FGSM(eps=EPS), surrogates=(net,), names=("net",)) for name, net in nets.items()
    }
    keeping().keep(over["a"], right, 1, whole.outcomes[0])
    assert keeping().find(over["a"], right, 1) is not None
    assert keeping().find(over["b"], right, 1) is None  # the same name, other weights
    next(tmp_path.glob("*.json")).write_text("{cut off")
    assert run(images, keeping=keeping()).worst_case() == whole.worst_case()


def test_the_smallest_distance_is_that_of_the_closest_example(result):
    smallest = result.smallest_distances()
    assert (smallest[~result.clean_correct] == 0).all()
    assert np.isinf(smallest[result.standing()]).all()
    fell = result.clean_correct & ~result.standing()
    assert (smallest[fell] > 0).all()
    assert (smallest[fell] <= EPS + 1e-6).all()


def test_confusions_count_every_fallen_image_once(result):
    confusions = result.confusions()
    assert sum(count for _, _, count in confusions) == int((result.clean_correct & ~result.standing()).sum())
    assert all(true != guess for true, guess, _ in confusions)
    assert [count for *_, count in confusions] == sorted((count for *_, count in confusions), reverse=True)


class Constant(nn.Module):
    """Always the same scores, with a gradient of zero."""

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, images):
        return self.scores + 0 * images.flatten(1).sum(1, keepdim=True)


def test_a_model_that_is_always_wrong_can_be_audited(images):
    others = images.subset(torch.nonzero(images.labels != 3).squeeze(1))
    result = run(others, module=Constant([0.0, 0, 0, 5, 0, 0, 0, 0, 0, 0]))
    assert result.clean_accuracy().count == result.worst_case().count == 0
    assert all(o.forwards == 0 for o in result.outcomes)


def test_a_collapsed_model_whose_scores_all_tie_is_audited_completely(images):
    """argmax of a tie is class 0: images of other classes are wrong, their margin says so, and nothing is missing."""
    result = run(images, module=Constant([0.0] * 10))
    assert np.array_equal(result.clean_correct, images.labels.numpy() == 0)
    assert np.array_equal(result.clean_margins < 0, ~result.clean_correct)
    assert all(o.complete for o in result.outcomes)
    assert result.strongest() is not None
    again = AuditResult.from_json(json.loads(json.dumps(result.to_json())))
    assert np.array_equal(again.clean_margins < 0, ~result.clean_correct)
    assert all(o.complete for o in again.outcomes)


def test_a_model_that_answers_no_number_is_right_nowhere(images):
    result = run(images, module=Constant([float("nan")] * 10))
    assert result.clean_accuracy().count == 0
    json.dumps(result.to_json(), allow_nan=False)


def test_complete_is_false_when_an_ensemble_left_images_out(result):
    first = result.outcomes[0]
    stands = first.attacked & (first.margins >= 0)
    left_out = first.attacked.copy()
    left_out[np.flatnonzero(stands)[0]] = False
    partial = dataclasses.replace(first, attacked=left_out)
    assert not partial.complete
    only = dataclasses.replace(result, outcomes=(partial,))
    assert only.strongest() is None
    # An image that was wrong from the start need not be attacked.
    assert dataclasses.replace(first, attacked=first.attacked & result.clean_correct).complete


def test_worst_case_gain_is_paired(images, result):
    weaker = run(images, [PGD(eps=EPS, iterations=1)])
    gain = weaker.worst_case_gain(result)
    expected = weaker.standing().mean() - result.standing().mean()
    assert gain.value == pytest.approx(expected)
    assert gain.low <= gain.value <= gain.high
    assert result.worst_case_gain(result).value == 0


def test_worst_case_gain_refuses_other_images(images, result):
    fewer = run(images.subset(torch.arange(100)), [FGSM(eps=EPS)])
    renamed = dataclasses.replace(result, files=tuple(reversed(result.files)))
    relabelled = dataclasses.replace(result, labels=(result.labels + 1) % 10)
    for other in (fewer, renamed, relabelled):
        with pytest.raises(ValueError, match="same images"):
            result.worst_case_gain(other)


def test_the_result_names_what_was_audited(result):
    assert (result.model, result.dataset, result.classes, result.seed) == ("net", "digits, test", DIGITS, 3)
    assert "torch" in result.machine
    assert result.seconds >= sum(o.seconds for o in result.outcomes) * 0.99
