from __future__ import annotations

import math

import pytest

from harden.training.canary import Collapse, Vitals, diagnose

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
        pytest.param(
            Vitals(0.9, 0.74, 0.54, 0.5), GOOD, OVERFIT, id="six points are enough where the gap says the same"
        ),
        pytest.param(Vitals(0.9, 0.63, 0.51, 0.5), GOOD, Collapse.NONE, id="nine points that FGSM fell by too"),
        pytest.param(Vitals(0.9, 0.79, 0.57, 0.5), GOOD, Collapse.NONE, id="FGSM rose, but PGD hardly fell"),
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
    assert diagnose(now, best, classes=10, samples=500, full_eps=False) is expected


def test_few_images_need_a_larger_fall() -> None:
    now, best = Vitals(0.9, 0.6, 0.32, 1.0), Vitals(0.9, 0.5, 0.5, 1.0)
    assert diagnose(now, best, classes=10, samples=500, full_eps=False) is OVERFIT
    assert diagnose(now, best, classes=10, samples=25, full_eps=False) is Collapse.NONE


@pytest.mark.parametrize("best", [None, Vitals(0.9, 0.4, 0.0, 0.5)])
def test_a_gap_from_the_start_is_overfitting_once_eps_is_full(best: Vitals | None) -> None:
    now = Vitals(0.95, 0.4, 0.0, 0.5)
    assert diagnose(now, best, classes=10, samples=500, full_eps=True) is OVERFIT
    assert diagnose(now, best, classes=10, samples=500, full_eps=False) is Collapse.NONE
    narrow = Vitals(0.95, 0.4, 0.25, 0.5)
    assert diagnose(narrow, best, classes=10, samples=500, full_eps=True) is Collapse.NONE
