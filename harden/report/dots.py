"""Dots with interval whiskers as inline SVG, one line for each accuracy, in groups, the models on the same line.

As in `bars`, horizontal lengths are shares of the width and everything else is in pixels; names stand left of the
drawing and figures right of it, in the padding that the style sheet leaves there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harden.audit.metrics import Proportion
from harden.report.figures import interval, percent
from harden.report.markup import Html, element, joined, share

_TOP, _HEADING, _PITCH, _GAP, _AXIS = 26, 24, 22, 10, 24
_LONGEST = 22
_APART = 5
"""Pixels between the dots of two models on one line."""


@dataclass(frozen=True)
class Dot:
    """One accuracy of one model; `look` is its class in the style sheet."""

    look: str
    accuracy: Proportion


@dataclass(frozen=True)
class DotLine:
    """One name with a dot for each model that has one; the figure is that of the last."""

    name: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class DotGroup:
    """Lines under one heading."""

    heading: str
    lines: tuple[DotLine, ...]


@dataclass(frozen=True)
class Band:
    """A stretch of accuracies, in [0, 1], that is shaded from top to bottom, with its name above."""

    low: float
    high: float
    name: str


def dot_chart(groups: Sequence[DotGroup], *, band: Band | None, title: str, description: str) -> Html:
    """Return the chart, with a scale from 0 to 100 % below."""
    drawn: list[Html] = []
    top = _TOP if band is not None else 0
    for group in groups:
        drawn.append(element("text", {"class": "family", "x": 0, "y": top + 15}, group.heading))
        top += _HEADING
        for line in group.lines:
            drawn.append(_line(line, top + _PITCH / 2))
            top += _PITCH
        top += _GAP
    attributes: dict[str, str | int | float] = {"class": "dots", "role": "img", "width": "100%", "height": top + _AXIS}
    head = joined((element("title", None, title), element("desc", None, description)))
    shaded = _shaded(band, top) if band is not None else Html()
    return element("div", {"class": "chart dot-chart"}, element("svg", attributes, head, shaded, _scale(top), *drawn))


def _line(line: DotLine, middle: float) -> Html:
    short = line.name if len(line.name) <= _LONGEST else line.name[: _LONGEST - 1] + "…"
    parts = [
        element("text", {"class": "label", "x": 0, "dx": -12, "y": middle + 4, "text-anchor": "end"}, short),
        element("line", {"class": "track", "x1": "0%", "x2": "100%", "y1": middle, "y2": middle}),
    ]
    first = -_APART * (len(line.dots) - 1) / 2
    for nth, dot in enumerate(line.dots):
        y = middle + first + nth * _APART
        low, high, at = (share(value) for value in (dot.accuracy.low, dot.accuracy.high, dot.accuracy.value))
        parts.append(element("line", {"class": f"reach {dot.look}", "x1": low, "x2": high, "y1": y, "y2": y}))
        parts.append(element("circle", {"class": f"dot {dot.look}", "cx": at, "cy": y, "r": 4.5}))
    if line.dots:
        accuracy = line.dots[-1].accuracy
        spread = element("tspan", {"class": "interval"}, f" {interval(accuracy)}")
        place: dict[str, str | int | float] = {"class": "figure", "x": "100%", "dx": 12, "y": middle + 4}
        parts.append(element("text", place, percent(accuracy.value), spread))
    return joined(parts)


def _shaded(band: Band, bottom: int) -> Html:
    centre = (band.low + band.high) / 2
    anchor = "start" if centre < 0.3 else "end" if centre > 0.7 else "middle"
    at = {"start": band.low, "end": band.high, "middle": centre}[anchor]
    area: dict[str, str | int | float] = {"x": share(band.low), "width": share(band.high - band.low)}
    return joined(
        (
            element("rect", {"class": "shaded", **area, "y": _TOP - 6, "height": bottom - _TOP + 6}),
            element("text", {"class": "note", "x": share(at), "y": 13, "text-anchor": anchor}, band.name),
        )
    )


def _scale(bottom: int) -> Html:
    parts: list[Html] = []
    for tick in (0, 25, 50, 75, 100):
        place = f"{tick}%"
        anchor = {0: "start", 100: "end"}.get(tick, "middle")
        parts.append(element("line", {"class": "grid", "x1": place, "x2": place, "y1": _TOP, "y2": bottom}))
        label = f"{tick} %" if tick == 100 else str(tick)
        look = "tick quarter" if tick % 50 else "tick"
        parts.append(element("text", {"class": look, "x": place, "y": bottom + 16, "text-anchor": anchor}, label))
    return joined(parts)
