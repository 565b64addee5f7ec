"""How findings write figures."""

from __future__ import annotations

from collections.abc import Sequence

MASKED = (
    "Gradients are probably masked: trust --attacks thorough and a surrogate (--surrogate auto) rather than white-box "
    "attacks, and look for rounding, saturation, randomness or catastrophic overfitting in the model."
)
NO_GRADIENTS = "The model gives no gradients, so it was attacked as a black box only."
NO_RADIUS = "No attack was run, so there is no radius."


def percent(value: float) -> str:
    """Write a share in [0, 1] as "5.7 %"; a share that is not 0 never reads "0.0 %"."""
    return "less than 0.1 %" if 0 < value < 0.0005 else f"{100 * value:.1f} %"


def of(count: int, total: int, noun: str = "images") -> str:
    """Write "57 of 1,000 images (5.7 %)"."""
    return f"{count:,} of {total:,} {noun} ({percent(count / total if total else 0.0)})"


def listed(names: Sequence[str], shown: int = 4) -> str:
    """Write "a, b, c and 7 more"."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
