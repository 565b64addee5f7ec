"""How numbers are written."""

from __future__ import annotations

import pytest

from harden.audit.metrics import wilson
from harden.report.figures import counted, percent, points, radius, with_interval


def test_percent_and_points_have_one_decimal_and_no_negative_zero() -> None:
    assert percent(0.6624) == "66.2 %"
    assert points(0.6624) == "+66.2 points"
    assert points(-0.012) == "-1.2 points"
    assert points(-0.0001) == points(0.0) == "0.0 points"


def test_a_proportion_is_written_with_its_interval() -> None:
    assert with_interval(wilson(6620, 10_000)) == "66.2 % [65.3, 67.1]"


@pytest.mark.parametrize(
    ("eps", "text"),
    [(0.1, "0.1"), (8 / 255, "8/255"), (0.3, "0.3"), (0.0125, "0.0125"), (1 / 255, "1/255"), (0.02, "0.02")],
)
def test_a_radius_is_written_as_it_is_quoted(eps: float, text: str) -> None:
    assert radius(eps) == text


def test_one_is_singular() -> None:
    assert (counted(1, "attack"), counted(1000, "image")) == ("1 attack", "1,000 images")
