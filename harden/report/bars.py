"""Horizontal bars with interval whiskers as inline SVG.

Every horizontal length is a share of the width of the drawing, every height and letter is in pixels: the chart
fills a phone, a page or a wide window and its text stays the same size. The figures stand right of the bars, in the
padding that the style sheet leaves there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harden.audit.metrics import Proportion
from harden.report.figures import interval, percent
from harden.report.markup import Html, element, joined, share

_HEADING, _PITCH, _THICK, _THIN, _GAP, _AXIS = 22, 19, 12, 8, 12, 22


@dataclass(frozen=True)
class Bar:
    """One accuracy; that of the subject is drawn solid up to the lower end of its interval and paler beyond.

    Attributes:
        look: class that the style sheet colours: "subject" or "baseline-1", "baseline-2", ...
        accuracy: with its interval.
        faint: whether the attack did not have every image; drawn faint and without a whisker.
    """

    look: str
    accuracy: Proportion
    faint: bool = False


@dataclass(frozen=True)
class BarGroup:
    """Bars under one heading: what stands left, a quieter remark, and one bar for each model that has one."""

    label: str
    remark: str
    bars: tuple[Bar, ...]
    strong: bool = False


def bar_chart(groups: Sequence[BarGroup], *, title: str, description: str) -> Html:
    """Return the chart: a heading above each group of bars, a scale from 0 to 100 % below."""
    drawn: list[Html] = []
    top = 0
    for group in groups:
        drawn.append(_heading(group, top))
        top += _HEADING
        for bar in group.bars:
            drawn.append(_bar(bar, top + _PITCH / 2))
            drawn.append(_figure(bar, top + _PITCH / 2))
            top += _PITCH
        top += _GAP
    height = top + _AXIS
    head = joined((element("title", None, title), element("desc", None, description)))
    attributes: dict[str, str | int | float] = {"class": "bars", "role": "img", "width": "100%", "height": height}
    return element("div", {"class": "chart bar-chart"}, element("svg", attributes, head, _scale(top), *drawn))


def small_bar(bar: Bar, *, title: str) -> Html:
    """Return one bar for a table cell, without figure and scale."""
    attributes: dict[str, str | int | float] = {"class": "small-bar", "role": "img", "width": "100%", "height": _PITCH}
    track = element("line", {"class": "track", "x1": "0%", "x2": "100%", "y1": _PITCH / 2, "y2": _PITCH / 2})
    return element("svg", attributes, element("title", None, title), track, _bar(bar, _PITCH / 2))


def plain_bar(length: float, *, title: str) -> Html:
    """Return a bar for a table cell that is `length` (a share in [0, 1]) of the cell long and has no interval."""
    attributes: dict[str, str | int | float] = {"class": "small-bar", "role": "img", "width": "100%", "height": _PITCH}
    place: dict[str, str | int | float] = {"width": share(length), "y": (_PITCH - _THIN) / 2, "height": _THIN}
    return element("svg", attributes, element("title", None, title), element("rect", {"class": "bar subject", **place}))


def _heading(group: BarGroup, top: int) -> Html:
    remark = [element("tspan", {"class": "remark", "dx": 8}, group.remark)] if group.remark else []
    look = "heading strong" if group.strong else "heading"
    return element("text", {"class": look, "x": 0, "y": top + 15}, group.label, *remark)


def _bar(bar: Bar, middle: float) -> Html:
    accuracy = bar.accuracy
    if bar.faint:
        return _piece(f"bar {bar.look} faint", 0.0, accuracy.value, bar, middle)
    if bar.look != "subject":
        return joined((_piece(f"bar {bar.look}", 0.0, accuracy.value, bar, middle), _whisker(accuracy, middle)))
    sure = _piece("bar subject", 0.0, accuracy.low, bar, middle)
    unsure = _piece("bar subject unsure", accuracy.low, accuracy.value, bar, middle)
    return joined((sure, unsure, _whisker(accuracy, middle)))


def _piece(look: str, start: float, end: float, bar: Bar, middle: float) -> Html:
    thick = _THICK if bar.look == "subject" else _THIN
    place: dict[str, str | int | float] = {"x": share(start), "width": share(end - start)}
    return element("rect", {"class": look, **place, "y": middle - thick / 2, "height": thick})


def _whisker(accuracy: Proportion, middle: float) -> Html:
    low, high = share(accuracy.low), share(accuracy.high)
    strokes: list[dict[str, str | int | float]] = [
        {"x1": low, "x2": high, "y1": middle, "y2": middle},
        {"x1": low, "x2": low, "y1": middle - 4, "y2": middle + 4},
        {"x1": high, "x2": high, "y1": middle - 4, "y2": middle + 4},
    ]
    return joined(element("line", {"class": "whisker", **stroke}) for stroke in strokes)


def _figure(bar: Bar, middle: float) -> Html:
    value = percent(bar.accuracy.value)
    look = f"figure {bar.look}"
    if bar.faint:
        return element("text", {"class": look, "x": "100%", "dx": 12, "y": middle + 4}, f"left {value}")
    spread = element("tspan", {"class": "interval"}, f" {interval(bar.accuracy)}")
    return element("text", {"class": look, "x": "100%", "dx": 12, "y": middle + 4}, value, spread)


def _scale(bottom: int) -> Html:
    parts: list[Html] = []
    for tick in (0, 25, 50, 75, 100):
        place = f"{tick}%"
        anchor = {0: "start", 100: "end"}.get(tick, "middle")
        parts.append(element("line", {"class": "grid", "x1": place, "x2": place, "y1": 0, "y2": bottom}))
        label = f"{tick} %" if tick == 100 else str(tick)
        parts.append(element("text", {"class": "tick", "x": place, "y": bottom + 15, "text-anchor": anchor}, label))
    return joined(parts)
