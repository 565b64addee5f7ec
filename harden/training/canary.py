"""Noticing that training has collapsed, from held-out images, before it is too late to go back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

SOUND_GAP = 0.04
"""How much wider than the narrowest the gap of an epoch may be that is worth going back to."""


class Collapse(StrEnum):
    """What went wrong."""

    NONE = ""
    CATASTROPHIC_OVERFITTING = "catastrophic overfitting"
    TO_CHANCE = "collapse to chance"
    NOT_FINITE = "non-finite loss"
    NOT_RECORDED = "collapse"
    """Of an epoch that an earlier version wrote down, without the kind."""


@dataclass(frozen=True)
class Vitals:
    """Held-out measurements of the raw (not averaged) weights at the end of an epoch; accuracies in [0, 1].

    Attributes:
        clean: accuracy on clean images.
        source: accuracy under the source attack that the run began with, or FGSM for it, also while another one crafts.
        canary: accuracy under a multi-step attack of the same eps.
        loss: mean training loss of the epoch.
        chance: accuracy of the answers to clean images if these came in random order; None: one of K.
    """

    clean: float
    source: float
    canary: float
    loss: float
    chance: float | None = None

    def lead(self, classes: int) -> float:
        """Return how much more than chance the clean accuracy is; 0 for a constant answer if `chance` is known."""
        return self.clean - (1 / classes if self.chance is None else self.chance)

    @property
    def gap(self) -> float:
        """How much less the multi-step attack leaves standing than the source attack: masked gradients widen it."""
        return self.source - self.canary


@dataclass(frozen=True)
class Watch:
    """What later epochs are compared with.

    Attributes:
        best: the sound epoch with the highest canary; None before the first.
        narrowest: smallest gap between source and canary since the eps ramp was over; infinite before that.
    """

    best: Vitals | None = None
    narrowest: float = math.inf

    def after(self, now: Vitals, *, full_eps: bool) -> Watch:
        """Return the watch after an epoch that was no collapse.

        An epoch whose gap is wider than the narrowest by more than `SOUND_GAP` is nothing to roll back to, however well
        it withstands the canary: overfitting may have begun.
        """
        narrowest = min(self.narrowest, now.gap) if full_eps else self.narrowest
        sound = now.gap <= narrowest + SOUND_GAP
        better = self.best is None or (sound and now.canary >= self.best.canary)
        return Watch(now if better else self.best, narrowest)


def diagnose(now: Vitals, watch: Watch, *, classes: int, samples: int, full_eps: bool) -> Collapse:
    """Return what has collapsed, if anything.

    Catastrophic overfitting (Wong et al., 2020) is

    - a fall of the multi-step accuracy, against the best epoch, to less than two thirds, by more than ten points, while
      the accuracy under the single-step source attack has not fallen by half as much; or
    - once the eps ramp is over, a gap between the two that is wider than the narrowest so far by more than eight
      points, while the multi-step accuracy is below its best. Overfitting can creep over many epochs: the gradient at
      the clean image tells ever less. The two accuracies wander together by as much as ten points from epoch to epoch,
      their gap does not: in the runs that stayed sound it never widened by more than seven points; or,
    - once the ramp is over, a multi-step accuracy below a third of the single-step one and more than 20 points below
      it, however it got there.

    All of these must exceed what chance does to so few samples, too. A fall to chance of the *clean* accuracy means
    that the discriminators or the learning rate won: more than two thirds of the lead over chance of the best epoch are
    gone, what is left of it is within noise, and the fall is not.

    Args:
        now: this epoch.
        watch: what to compare it with.
        classes: K.
        samples: number of images behind the measurements.
        full_eps: whether the eps ramp is over; before that a start that is not robust yet looks like a collapse.
    """
    if not math.isfinite(now.loss):
        return Collapse.NOT_FINITE
    noise = 4 * math.sqrt(0.25 / samples)
    if full_eps and now.canary < now.source / 3 and now.gap > max(0.20, noise):
        return Collapse.CATASTROPHIC_OVERFITTING
    best = watch.best
    if best is None:
        return Collapse.NONE
    # Two measurements of the same images: about a tenth of these change sides, and only they make the noise.
    paired_noise = 3 * math.sqrt(0.1 / samples)
    lead, lead_before = now.lead(classes), best.lead(classes)
    at_chance = lead < min(lead_before / 3, 2 * math.sqrt((1 - 1 / classes) / classes / samples))
    if at_chance and best.clean - now.clean > paired_noise:
        return Collapse.TO_CHANCE
    fall = best.canary - now.canary
    dropped = fall > max(0.10, noise) and now.canary < best.canary * 2 / 3 and best.source - now.source < fall / 2
    crept = full_eps and fall > 0 and now.gap - watch.narrowest > max(0.08, paired_noise)
    if dropped or crept:
        return Collapse.CATASTROPHIC_OVERFITTING
    return Collapse.NONE
