from __future__ import annotations

import pytest

from harden.cli.pace import Pace


def test_nothing_is_said_before_a_step_was_seen():
    pace = Pace(100.0, 5)
    assert pace.left(100.0, 5, 50) is None
    assert pace.left(103.0, 5, 50) is None
    assert pace.left(104.0, 6, 50) == pytest.approx(4.0 * 44)


def test_a_steady_task_ends_when_it_was_said_to():
    pace = Pace(0.0, 0)
    for second in range(1, 1000):
        assert pace.left(float(second), 3 * second, 3000) == pytest.approx(1000 - second)


def test_the_pace_is_that_of_late():
    pace = Pace(0.0, 0)
    for second in range(1, 401):
        pace.left(float(second), second, 10_000)
    for second in range(401, 601):
        left = pace.left(float(second), 400 + 10 * (second - 400), 10_000)
    assert left == pytest.approx((10_000 - 2400) / 10)


def test_more_than_expected_leaves_nothing():
    pace = Pace(0.0, 0)
    assert pace.left(1.0, 12, 10) == 0
