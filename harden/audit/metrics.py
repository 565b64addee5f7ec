"""Proportions with intervals: how sure a robust accuracy is, and how sure a difference of two is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal."""

Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Proportion:
    """A share of `total` samples with a 95 % interval.

    Attributes:
        value, low, high: in [0, 1].
        count: how many of `total` samples count.
    """

    value: float
    low: float
    high: float
    count: int
    total: int


@dataclass(frozen=True)
class Difference:
    """A difference of two proportions over the same samples, with a 95 % interval; all in [-1, 1]."""

    value: float
    low: float
    high: float


def wilson(count: int, total: int) -> Proportion:
    """Return `count / total` with its 95 % Wilson score interval (Wilson, 1927).

    Raises:
        ValueError: `total` is not positive, or `count` lies outside [0, total].
    """
    if total <= 0 or not 0 <= count <= total:
        raise ValueError(f"need 0 <= count <= total and total > 0, got {count} of {total}")
    return _wilson(count, total, float(total))


def _wilson(count: int, total: int, effective: float) -> Proportion:
    """Return `count / total` with the interval of that share of `effective` independent samples."""
    share = count / total
    scale = 1 + Z95**2 / effective
    centre = (share + Z95**2 / (2 * effective)) / scale
    half = Z95 * math.sqrt(share * (1 - share) / effective + Z95**2 / (4 * effective**2)) / scale
    low = 0.0 if count == 0 else max(0.0, centre - half)
    high = 1.0 if count == total else min(1.0, centre + half)
    return Proportion(share, low, high, count, total)


def share_of(flags: Flags) -> Proportion:
    """Return the share of true values in `flags` (N,) with its Wilson interval."""
    return wilson(int(flags.sum()), len(flags))


def clustered(flags: Flags) -> Proportion:
    """Return the share of true values over M conditions on the same N images, with a 95 % interval.

    The images are the independent samples. The interval is Wilson's for as many of them as would give the variance
    that the mean has over images (the design effect; Kish, 1965): N where all conditions agree on every image, M times
    N where they have nothing to do with each other.

    Args:
        flags: (M, N).

    Raises:
        ValueError: there is no condition or no image.
    """
    if flags.ndim != 2 or flags.size == 0:
        raise ValueError(f"need conditions by images, got {flags.shape}")
    conditions, images = flags.shape
    share = float(flags.mean())
    variance = float(flags.mean(axis=0).var()) / images
    most = conditions * images
    effective = share * (1 - share) / variance if variance > 0 else float(most)
    if share in (0.0, 1.0):
        effective = float(images)
    return _wilson(int(flags.sum()), most, min(max(effective, 1.0), float(most)))


def paired_difference(after: Flags, before: Flags) -> Difference:
    """Return mean(after) - mean(before) over the same samples, with a 95 % interval for paired data.

    The variance counts only the samples on which the two differ (as McNemar's test does), with Agresti and Min's
    (2005) half-count added to each kind of disagreement so that few disagreements do not look like certainty.

    Raises:
        ValueError: the two do not have the same length, or are empty.
    """
    if len(after) != len(before) or len(after) == 0:
        raise ValueError(f"need two equally long, non-empty arrays, got {len(after)} and {len(before)}")
    total = len(after)
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    value = (gained - lost) / total
    g, b, n = gained + 0.5, lost + 0.5, total + 2
    centre = (g - b) / n
    half = Z95 * math.sqrt(max(0.0, g + b - (g - b) ** 2 / n)) / n
    return Difference(value, max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half)))


def rounded(values: Floats) -> list[float | None]:
    """Return floats for JSON in six significant digits, enough for every figure; None for what is not finite."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist()]


def unrounded(values: Sequence[float | None]) -> Floats:
    """Return what `rounded` wrote as an array; None is infinity."""
    return np.array([math.inf if v is None else v for v in values], dtype=np.float32)
