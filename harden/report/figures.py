"""How numbers are written: one decimal in percent, thousands with commas, the same in every format."""

from __future__ import annotations

from collections.abc import Iterable

from harden.audit.metrics import Difference, Proportion
from harden.audit.result import AttackOutcome

MISSING = "–"
"""Stands where a model was not attacked in this way."""


def percent(value: float) -> str:
    """Write a share in [0, 1] as "66.2 %"."""
    return f"{_tenths(value)} %"


def interval(proportion: Proportion | Difference) -> str:
    """Write the interval of a share in percent, or of a difference in points, as "[65.3, 67.1]"."""
    return f"[{_tenths(proportion.low)}, {_tenths(proportion.high)}]"


def with_interval(proportion: Proportion) -> str:
    """Write a share with its interval as "66.2 % [65.3, 67.1]"."""
    return f"{percent(proportion.value)} {interval(proportion)}"


def points(value: float) -> str:
    """Write a difference of two shares as "+66.2 points"; a difference is in points, never in percent."""
    text = _tenths(value)
    return f"{text} points" if text.startswith("-") or text == "0.0" else f"+{text} points"


def count(number: int) -> str:
    """Write a whole number as "10,000"."""
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """Write "1 attack" or "7 attacks"."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def radius(eps: float) -> str:
    """Write eps on the [0, 1] scale as it is usually quoted: "0.1", or "8/255" where that is what it is."""
    if abs(eps - round(eps, 3)) < 1e-9:
        return f"{eps:g}"
    levels = eps * 255
    if abs(levels - round(levels)) < 1e-4:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def threat(outcomes: Iterable[AttackOutcome]) -> str:
    """Write the norm and radius of these attacks as "linf eps 0.1"; several of them are joined with "and"."""
    return " and ".join(dict.fromkeys(f"{outcome.norm} eps {radius(outcome.eps)}" for outcome in outcomes))


def _tenths(value: float) -> str:
    text = f"{100 * value:.1f}"
    return "0.0" if text == "-0.0" else text
