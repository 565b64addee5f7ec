"""What an audit found, sample by sample; every table and figure is derived from it.

Only per-sample facts are stored. Accuracies, worst cases and intervals are methods, so they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harden.audit.metrics import Difference, Flags, Proportion, paired_difference, share_of

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]


class Exposure(StrEnum):
    """What the audited model has to do with an attack: whether its training or its selection used it."""

    TRAINING = "seen in training"
    SELECTION = "seen in selection"
    UNSEEN = "unseen"


@dataclass(frozen=True, eq=False)
class AttackOutcome:
    """What one attack did to N images.

    Attributes:
        name: short name with its steps ("PGD-20").
        definition: the whole convention in words: steps, step size, start, loss, restarts, norm, eps.
        norm: "linf".
        eps: radius on the [0, 1] scale.
        exposure: whether the model's training or selection used this attack.
        predictions: (N,) class predicted on the example that the attack kept.
        margins: (N,) logit of the true class minus the best other one on that example; negative where fooled.
        distances: (N,) norm of the perturbation of that example, on the [0, 1] scale.
        attacked: (N,) whether the attack ran on this image at all. An image that was wrong already, or that an
            earlier member of an ensemble fooled, is not attacked; its other values are those of the clean image.
        seconds: wall-clock time.
        forwards, backwards: images passed forward and backward through the model (an image through twice counts 2).
    """

    name: str
    definition: str
    norm: str
    eps: float
    exposure: Exposure
    predictions: Integers
    margins: Floats
    distances: Floats
    attacked: Flags
    seconds: float
    forwards: int
    backwards: int

    @property
    def complete(self) -> bool:
        """Whether the attack had every image that is right when clean, so that its own column means something."""
        return bool(self.attacked[self.margins >= 0].all())


@dataclass(frozen=True, eq=False)
class AuditResult:
    """An audit of one model.

    Attributes:
        model: what the model is called in print.
        dataset: where the images came from, and which split.
        classes: K class names.
        labels: (N,) true classes.
        files: N names of the images, or empty.
        clean_predictions, clean_margins: (N,) on the clean images.
        outcomes: one per attack, in the order they ran.
        seed: of the sample and of every random start.
        machine: processor or GPU, threads, versions of torch.
        seconds: of the whole audit.
    """

    model: str
    dataset: str
    classes: tuple[str, ...]
    labels: Integers
    files: tuple[str, ...]
    clean_predictions: Integers
    clean_margins: Floats
    outcomes: tuple[AttackOutcome, ...]
    seed: int
    machine: str
    seconds: float

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def clean_correct(self) -> Flags:
        """(N,) whether the clean image is classified correctly."""
        flags: Flags = self.clean_predictions == self.labels
        return flags

    def outcome(self, name: str) -> AttackOutcome:
        """Return the outcome of the attack called `name`.

        Raises:
            KeyError: no such attack was run.
        """
        for outcome in self.outcomes:
            if outcome.name == name:
                return outcome
        raise KeyError(name)

    def survived(self, outcome: AttackOutcome) -> Flags:
        """(N,) whether the image is right when clean and right after this attack."""
        flags: Flags = self.clean_correct & (outcome.predictions == self.labels)
        return flags

    def standing(self) -> Flags:
        """(N,) whether the image withstood every attack: the worst case per sample."""
        flags = self.clean_correct
        for outcome in self.outcomes:
            flags = flags & self.survived(outcome)
        return flags

    def clean_accuracy(self) -> Proportion:
        """Accuracy on the clean images."""
        return share_of(self.clean_correct)

    def robust_accuracy(self, outcome: AttackOutcome) -> Proportion:
        """Accuracy under one attack."""
        return share_of(self.survived(outcome))

    def worst_case(self) -> Proportion:
        """Accuracy under the worst of all attacks, sample by sample: the number to quote."""
        return share_of(self.standing())

    def strongest(self) -> AttackOutcome | None:
        """The attack that alone leaves the fewest images standing, among the complete ones; None without any."""
        complete = [outcome for outcome in self.outcomes if outcome.complete]
        return min(complete, key=lambda outcome: int(self.survived(outcome).sum()), default=None)

    def per_class_worst_case(self) -> tuple[Proportion | None, ...]:
        """Worst-case accuracy of each class (None where no image of the class was audited)."""
        standing = self.standing()
        return tuple(
            share_of(standing[self.labels == k]) if (self.labels == k).any() else None for k in range(len(self.classes))
        )

    def worst_case_gain(self, before: AuditResult) -> Difference:
        """Worst case of this model minus that of `before` on the same images, with a paired interval.

        Raises:
            ValueError: the two audits are not of the same images.
        """
        if len(self) != len(before) or not np.array_equal(self.labels, before.labels) or self.files != before.files:
            raise ValueError("the two audits are not of the same images")
        return paired_difference(self.standing(), before.standing())

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary (arrays as lists); `from_json` reads it."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "classes": list(self.classes),
            "labels": self.labels.tolist(),
            "files": list(self.files),
            "clean_predictions": self.clean_predictions.tolist(),
            "clean_margins": _rounded(self.clean_margins),
            "outcomes": [
                {
                    "name": o.name,
                    "definition": o.definition,
                    "norm": o.norm,
                    "eps": o.eps,
                    "exposure": o.exposure.value,
                    "predictions": o.predictions.tolist(),
                    "margins": _rounded(o.margins),
                    "distances": _rounded(o.distances),
                    "attacked": o.attacked.astype(int).tolist(),
                    "seconds": round(o.seconds, 3),
                    "forwards": o.forwards,
                    "backwards": o.backwards,
                }
                for o in self.outcomes
            ],
            "seed": self.seed,
            "machine": self.machine,
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> AuditResult:
        """Read what `to_json` wrote; margins and distances come back to six significant digits."""
        return cls(
            model=data["model"],
            dataset=data["dataset"],
            classes=tuple(data["classes"]),
            labels=np.array(data["labels"], dtype=np.int64),
            files=tuple(data["files"]),
            clean_predictions=np.array(data["clean_predictions"], dtype=np.int64),
            clean_margins=np.array(data["clean_margins"], dtype=np.float32),
            outcomes=tuple(
                AttackOutcome(
                    name=o["name"],
                    definition=o["definition"],
                    norm=o["norm"],
                    eps=o["eps"],
                    exposure=Exposure(o["exposure"]),
                    predictions=np.array(o["predictions"], dtype=np.int64),
                    margins=np.array(o["margins"], dtype=np.float32),
                    distances=np.array(o["distances"], dtype=np.float32),
                    attacked=np.array(o["attacked"], dtype=bool),
                    seconds=o["seconds"],
                    forwards=o["forwards"],
                    backwards=o["backwards"],
                )
                for o in data["outcomes"]
            ),
            seed=data["seed"],
            machine=data["machine"],
            seconds=data["seconds"],
        )


def _rounded(values: Floats) -> list[float]:
    """Six significant digits: enough for every figure, and a third of the bytes."""
    return [float(f"{v:.6g}") for v in values.tolist()]
