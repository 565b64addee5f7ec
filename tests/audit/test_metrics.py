from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harden.audit.metrics import paired_difference, share_of, wilson


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 2, 0.0945, 0.9055),
        (500, 1000, 0.4691, 0.5309),
    ],
)
def test_wilson_against_published_values(count, total, low, high):
    found = wilson(count, total)
    assert (found.value, found.count, found.total) == (count / total, count, total)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


@given(total=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_bounds_solve_the_score_equation(total, share):
    """Each bound p satisfies |count/total - p| = z sqrt(p (1 - p) / total), the definition of the interval."""
    count = round(share * total)
    found = wilson(count, total)
    assert 0 <= found.low <= found.value <= found.high <= 1
    for bound in (found.low, found.high):
        if 0 < bound < 1:
            distance = 1.959963984540054 * math.sqrt(bound * (1 - bound) / total)
            assert abs(found.value - bound) == pytest.approx(distance, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("truth", [0.05, 0.4, 0.93])
def test_wilson_covers_the_truth_about_as_often_as_it_says(truth):
    rng = np.random.default_rng(0)
    hits = [wilson(int(k), 200) for k in rng.binomial(200, truth, 3000)]
    covered = np.mean([p.low <= truth <= p.high for p in hits])
    assert 0.93 < covered < 0.975


@pytest.mark.parametrize(("count", "total"), [(0, 0), (1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(count, total):
    with pytest.raises(ValueError, match="need 0 <= count"):
        wilson(count, total)


def test_share_of_flags():
    assert share_of(np.array([True, False, True, True])).value == 0.75


flags = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(flags)
def test_paired_difference_against_a_count_sample_by_sample(pairs):
    after, before = (np.array(side, dtype=bool) for side in zip(*pairs, strict=True))
    gained = sum(1 for a, b in pairs if a and not b)
    lost = sum(1 for a, b in pairs if b and not a)
    n = len(pairs)
    found = paired_difference(after, before)
    assert found.value == pytest.approx((gained - lost) / n)
    # Agresti and Min (2005): half an observation in each of the four cells, then the Wald interval of paired data.
    g, b, m = gained + 0.5, lost + 0.5, n + 2
    half = 1.959963984540054 * math.sqrt((g + b) - (g - b) ** 2 / m) / m
    assert found.low == pytest.approx(min(found.value, max(-1, (g - b) / m - half)))
    assert found.high == pytest.approx(max(found.value, min(1, (g - b) / m + half)))
    assert -1 <= found.low <= found.value <= found.high <= 1
    swapped = paired_difference(before, after)
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_paired_difference_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        draw = rng.random(150)  # 10 % gained, 4 % lost: the true difference is 0.06
        before = draw > 0.5
        after = before.copy()
        flip = rng.random(150)
        after[~before & (flip < 0.2)] = True
        after[before & (flip < 0.08)] = False
        found = paired_difference(after, before)
        covered.append(found.low <= 0.06 <= found.high)
    assert 0.93 < np.mean(covered) < 0.98


def test_pairing_is_narrower_than_two_separate_intervals():
    before = np.arange(400) < 200
    after = before.copy()
    after[200:220] = True
    found = paired_difference(after, before)
    assert found.low > 0  # 20 gained, none lost, is no accident
    assert share_of(after).low < share_of(before).high  # and the two intervals overlap all the same


@pytest.mark.parametrize(("a", "b"), [([True], [True, False]), ([], [])])
def test_unequal_or_empty_arrays_are_refused(a, b):
    with pytest.raises(ValueError, match="equally long"):
        paired_difference(np.array(a, dtype=bool), np.array(b, dtype=bool))
