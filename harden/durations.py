"""Times as people type and read them: `15m` and `1h30m` in, "5 min 12 s" and "2 h 5 min" out."""

from __future__ import annotations

import math
import re

from harden.errors import UsageError

_TYPED = re.compile(r"\s*(?:(\d+(?:\.\d+)?)\s*h)?\s*(?:(\d+(?:\.\d+)?)\s*m(?:in)?)?\s*(?:(\d+(?:\.\d+)?)\s*s)?\s*")
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*")


def parse_duration(text: str) -> float:
    """Return the seconds in "90s", "15m" or "1h30m".

    Raises:
        UsageError: the text is none of these, or has no unit.
    """
    match = _TYPED.fullmatch(text)
    if match and any(match.groups()):
        hours, minutes, seconds = (float(part) if part else 0.0 for part in match.groups())
        return hours * 3600 + minutes * 60 + seconds
    number = _NUMBER.fullmatch(text)
    if number is not None:
        raise UsageError(
            f"--budget {text} needs a unit: {number[1]}s, {number[1]}m or {number[1]}h",
            hint=f"write --budget {number[1]}m for minutes",
        )
    raise UsageError(
        f"invalid --budget {text!r}: expected hours, minutes or seconds",
        hint="write --budget 15m, 90s or 1h30m",
    )


def duration(seconds: float) -> str:
    """Write seconds as "8.3 s", "5 min 12 s" or "2 h 5 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def as_typed(seconds: float) -> str:
    """Return the shortest duration of at least `seconds` that one would type: "50s", "9m", "2h15m"."""
    if seconds <= 90:
        return f"{10 * math.ceil(seconds / 10)}s"
    minutes = math.ceil(seconds / 60)
    if minutes <= 90:
        return f"{minutes}m"
    hours, minutes = divmod(5 * math.ceil(minutes / 5), 60)
    return f"{hours}h{minutes}m" if minutes else f"{hours}h"


def larger_budget(seconds: float) -> str:
    """Return the hint that goes with a budget that is too small, given the smallest that would do."""
    return f"give --budget {as_typed(seconds)}, a smaller --image-size, or fewer --attacks (fast)"
