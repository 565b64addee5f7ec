"""How far the accuracies under seen and unseen changes of the images lie apart; nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from harden.audit.corruptions import CorruptionOutcome
from harden.audit.metrics import Proportion, clustered, share_of
from harden.audit.result import AttackOutcome, AuditResult, Exposure

RADII = (
    "The l2 radius is half of the l2 norm, and the l1 radius a quarter of the l1 norm, of uniform noise that fills the "
    "linf ball of this audit; at 8/255 on 32x32 RGB that makes the usual 0.5 and 12."
)
"""Where the radii of the other norms come from; see `harden.audit.other_norms.comparable_radius`."""


class Family(StrEnum):
    """What a change of the images has to do with what the model was made for."""

    CLEAN = "clean images"
    TRAINING = "attacks seen in training"
    SELECTION = "attacks seen in selection"
    UNSEEN = "unseen attacks"
    NORMS = "unseen norms"
    CORRUPTIONS = "common corruptions"

    @property
    def adversarial(self) -> bool:
        """Whether somebody looked for the change."""
        return self not in (Family.CLEAN, Family.CORRUPTIONS)


_FAMILIES = {
    Exposure.TRAINING: Family.TRAINING,
    Exposure.SELECTION: Family.SELECTION,
    Exposure.UNSEEN: Family.UNSEEN,
}


@dataclass(frozen=True)
class Shift:
    """Accuracy under one change of the images.

    Attributes:
        family: what the model has to do with it.
        name: of the attack, norm or severity.
        accuracy: with its interval.
    """

    family: Family
    name: str
    accuracy: Proportion


@dataclass(frozen=True)
class Spread:
    """The shifts of one audit, family by family.

    Attributes:
        shifts: clean first.
    """

    shifts: tuple[Shift, ...]

    def of(self, family: Family) -> tuple[Shift, ...]:
        """Return the shifts of one family."""
        return tuple(shift for shift in self.shifts if shift.family is family)

    def lowest(self, *families: Family) -> Shift | None:
        """Return the shift of these families that leaves least; None without any."""
        return min(
            (shift for shift in self.shifts if shift.family in families),
            key=lambda shift: shift.accuracy.value,
            default=None,
        )

    def highest(self, *families: Family) -> Shift | None:
        """Return the shift of these families that leaves most; None without any."""
        return max(
            (shift for shift in self.shifts if shift.family in families),
            key=lambda shift: shift.accuracy.value,
            default=None,
        )

    def range(self) -> float | None:
        """Return the highest minus the lowest accuracy among the adversarial shifts, in [0, 1]; None under two."""
        values = [shift.accuracy.value for shift in self.shifts if shift.family.adversarial]
        return max(values) - min(values) if len(values) > 1 else None


def spread(result: AuditResult) -> Spread:
    """Return the accuracies of an audit by what the model had to do with each change.

    Attacks that met every image stand for themselves. The worst case over all attacks of the threat model counts as
    unseen where it is over several and one of them is. Each other norm is one shift: the worst case over its attacks.
    Each severity is one shift: the mean over all corruptions.
    """
    found = [Shift(Family.CLEAN, "unchanged", result.clean_accuracy())]
    for family in (Family.TRAINING, Family.SELECTION, Family.UNSEEN):
        found.extend(
            Shift(family, outcome.name, result.robust_accuracy(outcome))
            for outcome in result.outcomes
            if outcome.complete and _FAMILIES[outcome.exposure] is family
        )
    if (
        result.measured
        and len(result.outcomes) > 1
        and any(outcome.exposure is Exposure.UNSEEN for outcome in result.outcomes)
    ):
        found.append(Shift(Family.UNSEEN, "worst case", result.worst_case()))
    by_norm: dict[tuple[str, float], list[AttackOutcome]] = {}
    for outcome in result.shifts:
        by_norm.setdefault((outcome.norm, outcome.eps), []).append(outcome)
    for (norm, eps), outcomes in by_norm.items():
        found.append(Shift(Family.NORMS, f"{norm} eps {eps:.4g}", worst_of(result, outcomes)))
    for severity in sorted({outcome.severity for outcome in result.corruptions}):
        same = [outcome for outcome in result.corruptions if outcome.severity == severity]
        found.append(Shift(Family.CORRUPTIONS, f"severity {severity}", mean_accuracy(result, same)))
    return Spread(tuple(found))


def worst_of(result: AuditResult, outcomes: list[AttackOutcome]) -> Proportion:
    """Return the accuracy under the worst of several attacks, image by image."""
    return share_of(np.logical_and.reduce([result.survived(outcome) for outcome in outcomes]))


def mean_accuracy(result: AuditResult, outcomes: list[CorruptionOutcome]) -> Proportion:
    """Return the mean accuracy over several corruptions of the same images."""
    return clustered(np.stack([outcome.predictions == result.labels for outcome in outcomes]))
