"""Shares that fall in steps, over a logarithmic axis, as inline SVG; built like `curves`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harden.report.curves import HEIGHT, INNER, TOP, Scale, frame, levels, stretched
from harden.report.figures import count, percent
from harden.report.markup import Html, element, joined, share


@dataclass(frozen=True)
class Steps:
    """One line: from each of `starts` (rising; what lies below 1 is drawn at 1) the share is that of `shares`.

    Attributes:
        name: stands at its end.
        look: class that the style sheet colours: "subject" or "baseline-1", "baseline-2", ...
    """

    name: str
    look: str
    starts: tuple[int, ...]
    shares: tuple[float, ...]


def step_chart(lines: Sequence[Steps], *, along: str, title: str, description: str) -> Html:
    """Return the chart; `along` says what the logarithmic axis counts."""
    most = max(2, *(line.starts[-1] for line in lines))
    scale = Scale()
    return frame(
        "line-chart",
        levels(scale),
        _decades(most, along),
        _strokes(lines, most, scale, title),
        _names(lines, scale),
        title=title,
        description=description,
    )


def _place(value: float, most: int) -> float:
    return math.log(max(1.0, value)) / math.log(most)


def _decades(most: int, along: str) -> Html:
    bottom = TOP + HEIGHT
    ticks = [10**power for power in range(int(math.log10(most)) + 1)]
    if ticks[-1] * 2 <= most:
        ticks.append(most)
    parts = []
    for tick in ticks:
        x = share(_place(tick, most))
        parts.append(element("line", {"class": "grid", "x1": x, "x2": x, "y1": TOP, "y2": bottom}))
        where: dict[str, str | int | float] = {"class": "tick", "x": x, "y": bottom + 18, "text-anchor": "middle"}
        parts.append(element("text", where, count(tick)))
    parts.append(element("text", {"class": "tick", "x": "50%", "y": bottom + 36, "text-anchor": "middle"}, along))
    return joined(parts)


def _strokes(lines: Sequence[Steps], most: int, scale: Scale, title: str) -> Html:
    drawn = []
    for line in lines:
        # Steps closer than a thousandth of the width are one: a curve of thousands stays a small drawing.
        ends = {
            round(INNER * _place(start, most)): value for start, value in zip(line.starts, line.shares, strict=True)
        }
        spots: list[str] = []
        level = next(iter(ends.values()))
        for x, value in (*ends.items(), (INNER, line.shares[-1])):
            spots += [f"{x},{scale.height(level) - TOP:.1f}", f"{x},{scale.height(value) - TOP:.1f}"]
            level = value
        drawn.append(element("polyline", {"class": f"line {line.look}", "points": " ".join(dict.fromkeys(spots))}))
    return stretched(drawn, title)


def _names(lines: Sequence[Steps], scale: Scale) -> Html:
    """Write the last share of each line at its right end, moved apart where they would overlap."""
    parts: list[Html] = []
    place = -math.inf
    for line in sorted(lines, key=lambda line: -line.shares[-1]):
        place = max(scale.height(line.shares[-1]), place + 16)
        spot: dict[str, str | int | float] = {"class": f"name {line.look}", "x": "100%", "dx": 12, "y": place + 4}
        parts.append(element("text", spot, percent(line.shares[-1])))
    return joined(parts)
