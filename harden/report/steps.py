"""Shares that fall in steps, over a logarithmic axis, as inline SVG; built like `curves`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harden.report.figures import count, percent
from harden.report.markup import Html, element, joined, share

_TOP, _HEIGHT, _BELOW = 16, 220, 42
_INNER = 1000


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
    attributes: dict[str, str | int | float] = {
        "class": "lines",
        "role": "img",
        "width": "100%",
        "height": _TOP + _HEIGHT + _BELOW,
    }
    drawing = element(
        "svg",
        attributes,
        element("title", None, title),
        element("desc", None, description),
        _levels(),
        _decades(most, along),
        _strokes(lines, most, title),
        _names(lines),
    )
    return element("div", {"class": "chart line-chart"}, drawing)


def _place(value: float, most: int) -> float:
    return math.log(max(1.0, value)) / math.log(most)


def _height(value: float) -> float:
    return _HEIGHT * (1 - min(1.0, max(0.0, value)))


def _levels() -> Html:
    parts = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _TOP + _height(value)
        parts.append(element("line", {"class": "grid", "x1": "0%", "x2": "100%", "y1": y, "y2": y}))
        label = f"{100 * value:.0f}{' %' if value == 1 else ''}"
        parts.append(element("text", {"class": "tick", "x": 0, "dx": -8, "y": y + 4, "text-anchor": "end"}, label))
    return joined(parts)


def _decades(most: int, along: str) -> Html:
    bottom = _TOP + _HEIGHT
    ticks = [10**power for power in range(int(math.log10(most)) + 1)]
    if ticks[-1] * 2 <= most:
        ticks.append(most)
    parts = []
    for tick in ticks:
        x = share(_place(tick, most))
        parts.append(element("line", {"class": "grid", "x1": x, "x2": x, "y1": _TOP, "y2": bottom}))
        where: dict[str, str | int | float] = {"class": "tick", "x": x, "y": bottom + 18, "text-anchor": "middle"}
        parts.append(element("text", where, count(tick)))
    parts.append(element("text", {"class": "tick", "x": "50%", "y": bottom + 36, "text-anchor": "middle"}, along))
    return joined(parts)


def _strokes(lines: Sequence[Steps], most: int, title: str) -> Html:
    drawn = []
    for line in lines:
        # Steps closer than a thousandth of the width are one: a curve of thousands stays a small drawing.
        ends = {
            round(_INNER * _place(start, most)): value for start, value in zip(line.starts, line.shares, strict=True)
        }
        spots: list[str] = []
        level = next(iter(ends.values()))
        for x, value in (*ends.items(), (_INNER, line.shares[-1])):
            spots += [f"{x},{_height(level):.1f}", f"{x},{_height(value):.1f}"]
            level = value
        drawn.append(element("polyline", {"class": f"line {line.look}", "points": " ".join(dict.fromkeys(spots))}))
    attributes: dict[str, str | int | float] = {
        "x": 0,
        "y": _TOP,
        "width": "100%",
        "height": _HEIGHT,
        "viewBox": f"0 0 {_INNER} {_HEIGHT}",
        "preserveAspectRatio": "none",
    }
    return element("svg", attributes, element("title", None, title), *drawn)


def _names(lines: Sequence[Steps]) -> Html:
    """Write the last share of each line at its right end, moved apart where they would overlap."""
    parts: list[Html] = []
    place = -math.inf
    for line in sorted(lines, key=lambda line: -line.shares[-1]):
        place = max(_TOP + _height(line.shares[-1]), place + 16)
        spot: dict[str, str | int | float] = {"class": f"name {line.look}", "x": "100%", "dx": 12, "y": place + 4}
        parts.append(element("text", spot, percent(line.shares[-1])))
    return joined(parts)
