"""Noticing that training has collapsed, from held-out images, before it is too late to go back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Collapse(StrEnum):
    """What went wrong."""

    NONE = ""
    CATASTROPHIC_OVERFITTING = "catastrophic overfitting"
    TO_CHANCE = "collapse to chance"
    NOT_FINITE = "non-finite loss"


@dataclass(frozen=True)
class Vitals:
    """Held-out measurements of the raw (not averaged) weights at the end of an epoch; accuracies in [0, 1].

    Attributes:
        clean: accuracy on clean images.
        source: accuracy under the source attack that crafts the training examples.
        canary: accuracy under a multi-step attack of the same eps.
        loss: mean training loss of the epoch.
    """

    clean: float
    source: float
    canary: float
    loss: float


def diagnose(now: Vitals, best: Vitals | None, *, classes: int, samples: int, full_eps: bool) -> Collapse:
    """Return what has collapsed, if anything.

    Catastrophic overfitting (Wong et al., 2020), against the epoch with the best multi-step accuracy, is

    - a fall of the multi-step accuracy to less than two thirds, by more than ten points, while the accuracy under the
      single-step source attack has not fallen by half as much; or
    - a gap between the two that is wider by more than eight points, of which at least five come from a fall of the
      multi-step accuracy. Overfitting can creep over many epochs: the gradient at the clean image tells ever less. The
      two accuracies wander together by as much as ten points from epoch to epoch, their gap does not: in eight runs
      that stayed sound it never widened by so much, and in three that did not it had within three to eight epochs; or,
    - once the eps ramp is over, a multi-step accuracy below a third of the single-step one and more than 20 points
      below it, however it got there.

    All of these must exceed what chance does to so few samples, too. A fall to chance of the *clean* accuracy means
    that the discriminators or the learning rate won.

    Args:
        now: this epoch.
        best: the epoch with the highest canary so far, or None in the first.
        classes: K.
        samples: number of images behind the measurements.
        full_eps: whether the eps ramp is over; before that a start that is not robust yet looks like a collapse.
    """
    if not math.isfinite(now.loss):
        return Collapse.NOT_FINITE
    chance = 1 / classes
    noise = 4 * math.sqrt(0.25 / samples)
    if full_eps and now.canary < now.source / 3 and now.source - now.canary > max(0.20, noise):
        return Collapse.CATASTROPHIC_OVERFITTING
    if best is None:
        return Collapse.NONE
    if now.clean < chance + noise / 2 and best.clean > chance + noise:
        return Collapse.TO_CHANCE
    fall = best.canary - now.canary
    widened = (now.source - now.canary) - (best.source - best.canary)
    dropped = fall > max(0.10, noise) and now.canary < best.canary * 2 / 3 and best.source - now.source < fall / 2
    crept = widened > max(0.08, noise) and fall > max(0.05, noise / 2)
    if dropped or crept:
        return Collapse.CATASTROPHIC_OVERFITTING
    return Collapse.NONE
