"""The radii of the other norms, the attacks there, and how far seen and unseen changes lie apart."""

from __future__ import annotations

import sys
from dataclasses import replace
from subprocess import run

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harden.attacks import PGD, Norm, Planned
from harden.audit.corruptions import CorruptionOutcome
from harden.audit.metrics import clustered, wilson
from harden.audit.other_norms import audit_other_norms, comparable_radius, other_norm_attacks
from harden.audit.result import Exposure
from harden.audit.runner import audit
from harden.audit.spread import Family, spread
from harden.data.dataset import ImageSet
from harden.models.black_box import BlackBox, Program
from harden.models.classifier import Normalisation

from ..attacks.nets import as_classifier, digits, trained_cnn
from ..report.builders import build_incomplete, build_result


@pytest.mark.parametrize(
    ("eps", "size", "l2", "l1"),
    [(8 / 255, (3, 32, 32), 0.5, 12), (4 / 255, (3, 224, 224), 1.8, 300), (0.3, (1, 28, 28), 2.4, 29)],
)
def test_radii_are_near_those_of_the_literature(eps, size, l2, l1):
    assert comparable_radius(Norm.L2, eps, size) == pytest.approx(l2, rel=0.02)
    assert comparable_radius(Norm.L1, eps, size) == pytest.approx(l1, rel=0.02)
    assert comparable_radius(Norm.LINF, 0.3, size) == 0.3


def test_radii_are_the_stated_shares_of_uniform_noise():
    noise = torch.rand(50, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.2 - 0.1
    assert comparable_radius(Norm.L2, 0.1, (3, 32, 32)) == pytest.approx(float(Norm.L2.of(noise).mean()) / 2, rel=0.02)
    assert comparable_radius(Norm.L1, 0.1, (3, 32, 32)) == pytest.approx(float(Norm.L1.of(noise).mean()) / 4, rel=0.03)


def test_the_attacks_are_of_their_norm_and_radius_and_have_names_of_their_own():
    for norm, attacks in other_norm_attacks(0.1, (1, 28, 28)).items():
        assert {(a.norm, a.eps) for a in attacks} == {(norm, comparable_radius(norm, 0.1, (1, 28, 28)))}
        assert len({a.name for a in attacks}) == len(attacks)
    blind = other_norm_attacks(0.1, (1, 28, 28), gradients=False)
    assert all(a.access.black_box for attacks in blind.values() for a in attacks)


def few_digits():
    images, labels = digits()
    pixels = images[1500:1512].mul(255).round().to(torch.uint8)
    return ImageSet(pixels, labels[1500:1512], tuple(f"{k}.png" for k in range(12)))


def audited(classifier, images):
    planned = [Planned(PGD(eps=0.08, iterations=5))] if isinstance(classifier, torch.nn.Module) else []
    return audit(classifier, images, planned, model="net", dataset="digits", exposures={})


def test_auditing_the_other_norms_attacks_what_still_stands_in_each():
    trained_cnn()
    classifier, images = as_classifier(trained_cnn()), few_digits()
    result = audited(classifier, images)
    heard = []
    found = audit_other_norms(classifier, images, result, eps=0.08, progress=lambda *told: heard.append(told))
    assert [outcome.norm for outcome in found] == ["l2"] * 4 + ["l1"] * 4
    for norm in ("l2", "l1"):
        standing = result.clean_correct
        for nth, outcome in enumerate(one for one in found if one.norm == norm):
            assert np.array_equal(outcome.attacked, standing)
            assert outcome.complete == (nth == 0) or standing.sum() == result.clean_correct.sum()
            standing = standing & (outcome.predictions == result.labels)
            assert outcome.distances.max() <= outcome.eps * (1 + 1e-5)
    assert found[0].attacked.sum() > found[1].attacked.sum() > 0
    assert {name.split()[0] for name, _, _ in heard} == {"l_2", "l_1"}
    assert all(done <= total for _, done, total in heard)
    shifted = spread(replace(result, shifts=found))
    by_name = {shift.name: shift.accuracy.value for shift in shifted.of(Family.NORMS)}
    assert set(by_name) == {"l2 eps 0.18", "l1 eps 0.64"}
    assert by_name["l1 eps 0.64"] == standing.mean()


def test_a_black_box_meets_square_alone():
    trained_cnn()
    box = BlackBox(
        Program("net", "function", trained_cnn(), "x"),
        normalisation=Normalisation("none", (0.0,), (1.0,)),
        classes=tuple("0123456789"),
        input_size=(1, 8, 8),
        probabilities=False,
    )
    images = few_digits().subset(torch.arange(4))
    found = audit_other_norms(box, images, audited(box, images), eps=0.2)
    assert [(outcome.norm, outcome.name) for outcome in found] == [("l2", "Square"), ("l1", "Square")]
    assert (found[0].predictions != images.labels.numpy()).any()


def corrupted(result, name, severity, share):
    """An outcome in which the last `share` of the images is wrong."""
    predictions = result.labels.copy()
    predictions[round((1 - share) * len(predictions)) :] += 1
    return CorruptionOutcome(name, severity, f"{name} at {severity}", predictions)


def test_the_spread_by_hand():
    result = build_result(images=200)
    found = spread(result)
    assert [s.name for s in found.of(Family.TRAINING)] == ["R+FGSM"]
    assert [s.name for s in found.of(Family.SELECTION)] == ["PGD-20"]
    assert [s.name for s in found.of(Family.UNSEEN)][-1] == "worst case"
    assert not found.of(Family.NORMS)
    assert not found.of(Family.CORRUPTIONS)
    values = [result.robust_accuracy(o).value for o in result.outcomes] + [result.worst_case().value]
    assert found.range() == pytest.approx(max(values) - min(values))
    shifts = tuple(replace(result.outcomes[k], norm=norm, eps=0.5) for k, norm in ((0, "l2"), (5, "l2"), (5, "l1")))
    corruptions = tuple(corrupted(result, n, s, 0.1 * s) for n in ("fog", "snow") for s in (1, 3))
    full = spread(replace(result, shifts=shifts, corruptions=corruptions))
    both = result.survived(result.outcomes[0]) & result.survived(result.outcomes[5])
    assert [(s.name, s.accuracy.count) for s in full.of(Family.NORMS)] == [
        ("l2 eps 0.5", both.sum()),
        ("l1 eps 0.5", result.survived(result.outcomes[5]).sum()),
    ]
    assert [(s.name, s.accuracy.value) for s in full.of(Family.CORRUPTIONS)] == [
        ("severity 1", pytest.approx(0.9)),
        ("severity 3", pytest.approx(0.7)),
    ]
    assert full.range() == pytest.approx(max(values) - min(values))  # corruptions and clean are no adversaries


def test_members_of_an_ensemble_stand_in_the_worst_case_alone():
    result = build_incomplete(build_result(images=200))
    found = spread(result)
    assert result.outcomes[3].name not in {s.name for s in found.shifts}
    assert found.lowest(Family.UNSEEN).name == "worst case"


def test_the_worst_case_is_unseen_only_if_something_was():
    result = build_result(images=50, attacks=2)
    seen = tuple(replace(outcome, exposure=Exposure.TRAINING) for outcome in result.outcomes)
    assert not spread(replace(result, outcomes=seen)).of(Family.UNSEEN)
    assert spread(build_result(images=50, attacks=0)).range() is None


@given(st.integers(1, 6), st.integers(2, 60), st.integers(0, 2**31))
def test_the_interval_of_a_mean_lies_between_those_of_few_and_of_many_samples(conditions, images, seed):
    generator = np.random.default_rng(seed)
    flags = generator.random((conditions, images)) < generator.random(images)
    found = clustered(flags)
    assert found.value == pytest.approx(flags.mean())
    assert found.low <= found.value <= found.high
    most = wilson(int(flags.sum()), flags.size)
    assert found.high - found.low >= most.high - most.low - 1e-9


def test_conditions_that_agree_tell_no_more_than_one_of_them():
    one = np.arange(50) < 30
    same = clustered(np.stack([one] * 10))
    assert (same.low, same.high) == pytest.approx((wilson(30, 50).low, wilson(30, 50).high))
    assert clustered(one[None]).low == pytest.approx(wilson(30, 50).low)
    every = clustered(np.ones((10, 50), dtype=bool))
    assert (every.low, every.high) == pytest.approx((wilson(50, 50).low, 1.0))
    with pytest.raises(ValueError, match="conditions by images"):
        clustered(np.ones((0, 5), dtype=bool))


def test_the_interval_of_a_mean_covers_as_often_as_it_says():
    """Images of very different difficulty under ten conditions: 95 of 100 intervals hold the true mean."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        ease = generator.beta(0.7, 0.5, 80)
        found = clustered(generator.random((10, 80)) < ease)
        held += found.low <= 0.7 / 1.2 <= found.high
    assert 0.93 <= held / 1000 <= 0.97


def test_the_spread_needs_no_torch():
    code = "import sys, harden.audit.spread, harden.report; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
