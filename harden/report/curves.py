"""Lines over epochs as inline SVG, with the epochs that were undone and the chosen one marked.

As in `bars`, horizontal places are shares of the width and everything else is in pixels. The lines themselves are
in a stretched inner drawing whose strokes do not scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harden.report.figures import percent
from harden.report.markup import Html, element, joined, share

TOP, HEIGHT, BELOW = 40, 220, 42
"""Pixels above, inside and below the drawing area of a chart."""
INNER = 1000
"""Units across the stretched inner drawing."""


@dataclass(frozen=True)
class Curve:
    """One line: `name` stands at its end, `look` is its class in the style sheet, `values` has one entry per epoch."""

    name: str
    look: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Axis:
    """The epochs along the bottom.

    Attributes:
        epochs: their numbers, in the order in which they ran.
        undone: for each, whether it was rolled back.
        noted: for each, whether the program did something about it.
        chosen: place of the chosen epoch among them, if there is one.
    """

    epochs: tuple[int, ...]
    undone: tuple[bool, ...]
    noted: tuple[bool, ...]
    chosen: int | None

    def place(self, index: float) -> float:
        """Return where an epoch stands, as a share of the width."""
        return 0.5 if len(self.epochs) < 2 else min(1.0, max(0.0, index / (len(self.epochs) - 1)))


@dataclass(frozen=True)
class Scale:
    """The values along the side, as shares in [0, 1]; `reference` is a level with a name, drawn dashed."""

    low: float = 0.0
    high: float = 1.0
    step: float = 0.25
    reference: tuple[float, str] | None = None

    def height(self, value: float) -> float:
        """Return the pixels from the top of the drawing at which a value stands."""
        clipped = min(self.high, max(self.low, value))
        return TOP + HEIGHT * (self.high - clipped) / (self.high - self.low)


def line_chart(curves: Sequence[Curve], axis: Axis, scale: Scale, *, title: str, description: str) -> Html:
    """Return the chart; a curve has gaps where its values are not finite."""
    return frame(
        "line-chart",
        _undone(axis),
        levels(scale),
        _epochs(axis),
        _strokes(curves, axis, scale, title),
        _chosen(curves, axis, scale),
        _names(curves, scale),
        title=title,
        description=description,
    )


def frame(look: str, *parts: Html, title: str, description: str) -> Html:
    """Return a drawing as high as all charts of lines, with what it is in words; `look` is its class."""
    attributes: dict[str, str | int | float] = {
        "class": "lines",
        "role": "img",
        "width": "100%",
        "height": TOP + HEIGHT + BELOW,
    }
    head = (element("title", None, title), element("desc", None, description))
    return element("div", {"class": f"chart {look}"}, element("svg", attributes, *head, *parts))


def stretched(lines: Sequence[Html], title: str) -> Html:
    """Return strokes in an inner drawing, `INNER` by `HEIGHT`, that is stretched to the width of the chart."""
    attributes: dict[str, str | int | float] = {
        "x": 0,
        "y": TOP,
        "width": "100%",
        "height": HEIGHT,
        "viewBox": f"0 0 {INNER} {HEIGHT}",
        "preserveAspectRatio": "none",
    }
    return element("svg", attributes, element("title", None, title), *lines)


def levels(scale: Scale) -> Html:
    """Return the horizontal lines with their figures at the left."""
    parts = []
    for step in range(round((scale.high - scale.low) / scale.step) + 1):
        value = scale.low + step * scale.step
        y = scale.height(value)
        parts.append(element("line", {"class": "grid", "x1": "0%", "x2": "100%", "y1": y, "y2": y}))
        label = f"{100 * value:.0f}{' %' if value == scale.high else ''}"
        parts.append(element("text", {"class": "tick", "x": 0, "dx": -8, "y": y + 4, "text-anchor": "end"}, label))
    if scale.reference is not None:
        y = scale.height(scale.reference[0])
        parts.append(element("line", {"class": "reference", "x1": "0%", "x2": "100%", "y1": y, "y2": y}))
        parts.append(element("text", {"class": "note", "x": 4, "y": y + 15}, scale.reference[1]))
    return joined(parts)


def _epochs(axis: Axis) -> Html:
    bottom = TOP + HEIGHT
    stride = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if len(axis.epochs) / s <= 7)
    parts = []
    for index, epoch in enumerate(axis.epochs):
        place = share(axis.place(index))
        if index == 0 or epoch % stride == 0:
            parts.append(
                element("text", {"class": "tick", "x": place, "y": bottom + 18, "text-anchor": "middle"}, str(epoch))
            )
        if axis.noted[index]:
            parts.append(element("circle", {"class": "event", "cx": place, "cy": bottom, "r": 4.5}))
    parts.append(element("text", {"class": "tick", "x": "50%", "y": bottom + 36, "text-anchor": "middle"}, "epoch"))
    return joined(parts)


def _undone(axis: Axis) -> Html:
    parts = []
    for index, undone in enumerate(axis.undone):
        if not undone:
            continue
        left, right = axis.place(index - 0.5), axis.place(index + 0.5)
        area: dict[str, str | int | float] = {"x": share(left), "width": share(right - left)}
        parts.append(element("rect", {"class": "undone", "y": TOP, "height": HEIGHT, **area}))
        if not parts[1:]:
            centre = (left + right) / 2
            parts.append(flag(centre, TOP - 8, "rolled back"))
    return joined(parts)


def _chosen(curves: Sequence[Curve], axis: Axis, scale: Scale) -> Html:
    if axis.chosen is None:
        return Html()
    place = axis.place(axis.chosen)
    x = share(place)
    parts = [
        element("line", {"class": "chosen", "x1": x, "x2": x, "y1": TOP - 18, "y2": TOP + HEIGHT}),
        flag(place, TOP - 24, f"chosen: epoch {axis.epochs[axis.chosen]}"),
    ]
    for curve in curves:
        value = curve.values[axis.chosen]
        if math.isfinite(value):
            parts.append(element("circle", {"class": f"dot {curve.look}", "cx": x, "cy": scale.height(value), "r": 4}))
    return joined(parts)


def flag(place: float, y: float, words: str) -> Html:
    """Return a note at a share of the width, kept inside the drawing."""
    anchor = "start" if place < 0.2 else "end" if place > 0.8 else "middle"
    return element("text", {"class": "note", "x": share(place), "y": y, "text-anchor": anchor}, words)


def _strokes(curves: Sequence[Curve], axis: Axis, scale: Scale, title: str) -> Html:
    lines = []
    for curve in curves:
        for run in _runs(curve.values):
            alone = " lone" if len(run) == 1 else ""
            if alone:
                run = (run[0], run[0])
            spots = " ".join(f"{INNER * axis.place(i):.1f},{scale.height(curve.values[i]) - TOP:.1f}" for i in run)
            lines.append(element("polyline", {"class": f"line {curve.look}{alone}", "points": spots}))
    return stretched(lines, title)


def _runs(values: tuple[float, ...]) -> list[tuple[int, ...]]:
    """Return the stretches of consecutive places at which the values are finite."""
    found: list[list[int]] = []
    for index, value in enumerate(values):
        if not math.isfinite(value):
            continue
        if found and found[-1][-1] == index - 1:
            found[-1].append(index)
        else:
            found.append([index])
    return [tuple(run) for run in found]


def _names(curves: Sequence[Curve], scale: Scale) -> Html:
    """Write the name and last value of each curve at its right end, moved apart where they would overlap."""
    ends = []
    for curve in curves:
        last = next((value for value in reversed(curve.values) if math.isfinite(value)), None)
        if last is not None:
            ends.append((scale.height(last), curve, last))
    ends.sort(key=lambda end: end[0])
    places: list[float] = []
    for y, _, _ in ends:
        places.append(max(y, places[-1] + 16) if places else y)
    overflow = max(0.0, places[-1] - (TOP + HEIGHT)) if places else 0.0
    parts = []
    for place, (_, curve, last) in zip(places, ends, strict=True):
        value = element("tspan", {"class": "interval"}, f" {percent(last)}")
        y = place - overflow
        key: dict[str, str | int | float] = {"x1": "100%", "x2": "100%", "y1": y, "y2": y, "transform": "translate(11)"}
        parts.append(element("line", {"class": f"dot key {curve.look}", **key}))
        spot: dict[str, str | int | float] = {"x": "100%", "dx": 20, "y": y + 4}
        parts.append(element("text", {"class": f"name {curve.look}", **spot}, curve.name, value))
    return joined(parts)
