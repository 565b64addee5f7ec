"""Small scatter plots as inline SVG: one dot a point, coloured by class, without axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harden.report.markup import Html, element

COLOURS = 10
"""Colours that the style sheet has for classes; further classes use them again."""
_SIDE, _MARGIN = 100, 4

Points = NDArray[np.float32]


def scatter(points: Points, labels: NDArray[np.int64], extent: tuple[Points, float], *, title: str) -> Html:
    """Return a square drawing.

    Args:
        points: (n, 2).
        labels: (n,) classes.
        extent: centre (2,) and half-width of what is shown, so that several drawings share their scale.
        title: for those who do not see it.
    """
    centre, half = extent
    placed = (points - centre) / max(half, 1e-9) * (_SIDE / 2 - _MARGIN) + _SIDE / 2
    clouds = []
    for label in np.unique(labels).tolist():
        # A line of no length with a round cap is a dot: one element for all dots of a class.
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in placed[labels == label].tolist())
        clouds.append(element("path", {"class": f"k{label % COLOURS}", "d": dots}))
    attributes = {"class": "points", "role": "img", "viewBox": f"0 0 {_SIDE} {_SIDE}"}
    return element("svg", attributes, element("title", None, title), *clouds)


def extent_of(points: Points) -> tuple[Points, float]:
    """Return the centre and half-width that show every one of `points` (n, 2)."""
    if len(points) == 0:
        return np.zeros(2, dtype=np.float32), 1.0
    low, high = points.min(axis=0), points.max(axis=0)
    return (low + high) / 2, float((high - low).max() / 2)
