"""Shares against a distance as inline SVG: a line for each model, with the band that its interval leaves.

Built as `curves` is: horizontal places are shares of the width, everything else is in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harden.report.curves import HEIGHT, INNER, TOP, Scale, flag, frame, levels, stretched
from harden.report.figures import percent, radius
from harden.report.markup import Html, element, joined, share

_STRIDES = (0.25, 0.5, 1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Line:
    """What one model comes to.

    Attributes:
        look: class of its line in the style sheet.
        points: (distance, share in [0, 1]), distances rising.
        band: (distance, low, high) around it, or empty.
        marked: share at the marked distance, drawn as a dot with its figure; None: no dot.
    """

    look: str
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()
    marked: float | None = None


@dataclass(frozen=True)
class Across:
    """The distances along the bottom.

    Attributes:
        end: the largest that is shown; lines are cut there.
        unit: the distance that is marked, and whose multiples are written below.
        name: what the distances are.
        mark: what stands above the marked distance.
    """

    end: float
    unit: float
    name: str
    mark: str

    def place(self, distance: float) -> float:
        """Return where a distance stands, as a share of the width."""
        return min(1.0, max(0.0, distance / self.end)) if self.end > 0 else 0.0

    def ticks(self) -> tuple[float, ...]:
        """Return at most seven distances to write down, from 0 on."""
        if self.unit <= 0:
            return (0.0,)
        wide = self.end / self.unit
        stride = next((s for s in _STRIDES if wide / s <= 6), wide)
        return tuple(self.unit * stride * nth for nth in range(int(wide / stride + 1e-6) + 1))


def plot(lines: Sequence[Line], across: Across, *, title: str, description: str) -> Html:
    """Return the chart; the last line is drawn on top."""
    scale = Scale()
    return frame(
        "plot",
        levels(scale),
        _bottom(across),
        _strokes(lines, across, scale, title),
        _mark(across),
        *(_dot(line, across, scale) for line in lines),
        title=title,
        description=description,
    )


def cut(points: Sequence[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """Return the points (distance, value) up to `end`, with the value that a straight line has there."""
    kept = [point for point in points if point[0] <= end]
    if kept and len(kept) < len(points) and kept[-1][0] < end:
        (before, low), (after, high) = kept[-1], points[len(kept)]
        kept.append((end, low + (high - low) * (end - before) / (after - before)))
    return kept


def _bottom(across: Across) -> Html:
    y = TOP + HEIGHT
    parts = []
    for distance in across.ticks():
        place = across.place(distance)
        look: dict[str, str | int | float] = {"class": "tick", "x": share(place), "y": y + 18}
        anchor = "end" if place > 0.97 else "middle"
        parts.append(element("text", {**look, "text-anchor": anchor}, radius(distance) if distance else "0"))
    parts.append(element("text", {"class": "tick", "x": "50%", "y": y + 38, "text-anchor": "middle"}, across.name))
    return joined(parts)


def _strokes(lines: Sequence[Line], across: Across, scale: Scale, title: str) -> Html:
    def spot(distance: float, value: float) -> str:
        return f"{INNER * across.place(distance):.1f},{scale.height(value) - TOP:.1f}"

    drawn = []
    for line in lines:
        if line.band:
            low = cut([(distance, low) for distance, low, _ in line.band], across.end)
            high = cut([(distance, high) for distance, _, high in line.band], across.end)
            outline = " ".join(spot(*point) for point in (*high, *reversed(low)))
            drawn.append(element("polygon", {"class": f"band {line.look}", "points": outline}))
    for line in lines:
        spots = " ".join(spot(*point) for point in cut(line.points, across.end))
        drawn.append(element("polyline", {"class": f"line {line.look}", "points": spots}))
    return stretched(drawn, title)


def _mark(across: Across) -> Html:
    if not 0 < across.unit <= across.end:
        return Html()
    place = across.place(across.unit)
    x = share(place)
    stroke = element("line", {"class": "chosen", "x1": x, "x2": x, "y1": TOP - 12, "y2": TOP + HEIGHT})
    return joined((stroke, flag(place, TOP - 18, across.mark)))


def _dot(line: Line, across: Across, scale: Scale) -> Html:
    if line.marked is None or not 0 < across.unit <= across.end:
        return Html()
    place, y = share(across.place(across.unit)), scale.height(line.marked)
    dot = element("circle", {"class": f"dot {line.look}", "cx": place, "cy": y, "r": 4.5})
    below = y + 20 if y + 24 < TOP + HEIGHT else y - 9
    spot: dict[str, str | int | float] = {"class": f"name {line.look}", "x": place, "y": below, "dx": -9}
    spot["text-anchor"] = "end"
    return joined((dot, element("text", spot, percent(line.marked))))
