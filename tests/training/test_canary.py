from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harden.training.canary import Collapse, Vitals, Watch, diagnose

GOOD = Vitals(clean=0.9, source=0.7, canary=0.6, loss=1.0)
OVERFIT, CHANCE, BROKEN = Collapse.CATASTROPHIC_OVERFITTING, Collapse.TO_CHANCE, Collapse.NOT_FINITE


@pytest.mark.parametrize(
    ("now", "best", "expected"),
    [
        pytest.param(Vitals(0.9, 0.95, 0.02, 0.5), GOOD, OVERFIT, id="the textbook case: FGSM rises, PGD falls to 0"),
        pytest.param(Vitals(0.9, 0.65, 0.30, 0.5), GOOD, OVERFIT, id="half of it is enough"),
        pytest.param(Vitals(0.9, 0.60, 0.45, 0.5), GOOD, Collapse.NONE, id="a fall above two thirds is a wobble"),
        pytest.param(Vitals(0.9, 0.35, 0.25, 0.5), GOOD, Collapse.NONE, id="both attacks fell together"),
        pytest.param(Vitals(0.9, 0.76, 0.48, 0.5), GOOD, OVERFIT, id="it creeps: FGSM has risen while PGD fell"),
        pytest.param(Vitals(0.9, 0.78, 0.59, 0.5), GOOD, OVERFIT, id="a wider gap and no record is enough"),
        pytest.param(Vitals(0.9, 0.80, 0.61, 0.5), GOOD, Collapse.NONE, id="a wider gap with a record is not"),
        pytest.param(Vitals(0.9, 0.63, 0.51, 0.5), GOOD, Collapse.NONE, id="nine points that FGSM fell by too"),
        pytest.param(Vitals(0.9, 0.74, 0.57, 0.5), GOOD, Collapse.NONE, id="FGSM rose, but the gap hardly grew"),
        pytest.param(Vitals(0.9, 0.70, 0.61, 0.5), GOOD, Collapse.NONE, id="an ordinary epoch"),
        pytest.param(Vitals(0.1, 0.05, 0.05, 2.3), GOOD, CHANCE, id="clean accuracy at chance"),
        pytest.param(Vitals(0.1, 0.1, 0.1, 2.3), Vitals(0.12, 0.1, 0.1, 2.3), Collapse.NONE, id="never above chance"),
        pytest.param(Vitals(0.9, 0.7, 0.6, math.nan), GOOD, BROKEN, id="NaN"),
        pytest.param(Vitals(0.1, 0.1, 0.0, math.inf), GOOD, BROKEN, id="infinity comes before the rest"),
        pytest.param(Vitals(0.9, 0.9, 0.0, math.nan), None, BROKEN, id="NaN in the first epoch"),
        pytest.param(Vitals(0.1, 0.9, 0.0, 1.0), None, Collapse.NONE, id="nothing to fall from in the first epoch"),
        pytest.param(
            Vitals(0.9, 0.5, 0.02, 1.0), Vitals(0.9, 0.5, 0.09, 1.0), Collapse.NONE, id="less than ten points"
        ),
    ],
)
def test_diagnosis(now: Vitals, best: Vitals | None, expected: Collapse) -> None:
    watch = Watch(best, narrowest=best.gap if best else math.inf)
    assert diagnose(now, watch, classes=10, samples=500, full_eps=best is GOOD) is expected


def test_few_images_need_a_larger_fall() -> None:
    now, best = Vitals(0.9, 0.6, 0.32, 1.0), Vitals(0.9, 0.5, 0.5, 1.0)
    assert diagnose(now, Watch(best), classes=10, samples=500, full_eps=False) is OVERFIT
    assert diagnose(now, Watch(best), classes=10, samples=25, full_eps=False) is Collapse.NONE


def test_few_images_need_a_wider_gap() -> None:
    now, watch = Vitals(0.9, 0.72, 0.58, 1.0), Watch(Vitals(0.9, 0.62, 0.60, 1.0), narrowest=0.02)
    assert diagnose(now, watch, classes=10, samples=500, full_eps=True) is OVERFIT
    assert diagnose(now, watch, classes=10, samples=50, full_eps=True) is Collapse.NONE
    assert diagnose(now, watch, classes=10, samples=500, full_eps=False) is Collapse.NONE  # the ramp moves the gap


@pytest.mark.parametrize("best", [None, Vitals(0.9, 0.4, 0.0, 0.5)])
def test_a_gap_from_the_start_is_overfitting_once_eps_is_full(best: Vitals | None) -> None:
    now = Vitals(0.95, 0.4, 0.0, 0.5)
    assert diagnose(now, Watch(best), classes=10, samples=500, full_eps=True) is OVERFIT
    assert diagnose(now, Watch(best), classes=10, samples=500, full_eps=False) is Collapse.NONE
    narrow = Vitals(0.95, 0.4, 0.25, 0.5)
    assert diagnose(narrow, Watch(best), classes=10, samples=500, full_eps=True) is Collapse.NONE


def test_the_watch_keeps_the_best_epoch_that_is_sound() -> None:
    """A real run that crept: the canary still rose while the gap was widening."""
    watch = Watch()
    for source, canary in ((0.53, 0.41), (0.65, 0.60), (0.67, 0.61), (0.73, 0.62)):
        watch = watch.after(Vitals(0.85, source, canary, 1.8), full_eps=source > 0.6)
    assert watch.narrowest == pytest.approx(0.05)
    assert watch.best is not None
    assert watch.best.canary == 0.61
    assert diagnose(Vitals(0.84, 0.75, 0.595, 1.7), watch, classes=10, samples=500, full_eps=True) is OVERFIT
    assert watch.after(Vitals(0.85, 0.68, 0.62, 1.7), full_eps=True).best.canary == 0.62  # type: ignore[union-attr]


@pytest.mark.parametrize("samples", [8, 12, 16, 30, 60, 500])
@pytest.mark.parametrize(("classes", "best"), [(2, 1.0), (2, 0.95), (10, 0.8), (100, 0.6)])
def test_a_fall_to_chance_is_seen_with_few_images_and_two_classes(classes: int, best: float, samples: int) -> None:
    """A constant answer withstands both attacks alike, so nothing else would tell."""
    good = Vitals(best, 0.4, 0.3, 0.5, chance=1 / classes)
    constant = Vitals(1 / classes, 1 / classes, 1 / classes, 0.7, chance=1 / classes)
    for now, before in ((constant, good), (replace(constant, chance=None), replace(good, chance=None))):
        watch = Watch(before, narrowest=before.gap)
        assert diagnose(now, watch, classes=classes, samples=samples, full_eps=True) is CHANCE


@pytest.mark.parametrize(
    ("now", "best", "samples"),
    [
        pytest.param(0.75, 0.95, 16, id="four images of sixteen changed sides"),
        pytest.param(0.70, 0.90, 10, id="two images of ten"),
        pytest.param(0.55, 0.60, 60, id="a model that never knew much"),
        pytest.param(0.80, 1.00, 5, id="one image of five"),
        pytest.param(0.70, 0.95, 500, id="a heavy loss that is far above chance"),
    ],
)
def test_a_loss_of_clean_accuracy_is_no_fall_to_chance(now: float, best: float, samples: int) -> None:
    watch = Watch(Vitals(best, 0.4, 0.3, 0.5), narrowest=0.1)
    found = diagnose(Vitals(now, 0.4, 0.3, 0.5), watch, classes=2, samples=samples, full_eps=True)
    assert found is Collapse.NONE


def test_chance_is_that_of_the_answers_and_not_of_the_number_of_classes() -> None:
    """Of nine images in ten of one class, a constant answer is right on nine in ten."""
    good = Vitals(0.99, 0.9, 0.9, 0.5, chance=0.82)
    constant = Vitals(0.9, 0.9, 0.9, 0.5, chance=0.9)
    assert good.lead(2) == pytest.approx(0.17)
    assert constant.lead(2) == 0
    assert diagnose(constant, Watch(good, narrowest=0), classes=2, samples=50, full_eps=True) is Collapse.NONE
    assert diagnose(constant, Watch(good, narrowest=0), classes=2, samples=500, full_eps=True) is CHANCE
