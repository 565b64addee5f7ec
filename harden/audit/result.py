"""What an audit found, sample by sample; every table and figure is derived from it.

Only per-sample facts are stored. Accuracies, worst cases and intervals are methods, so they cannot disagree.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harden.access import OTHER, Access
from harden.audit.believe import Check
from harden.audit.corruptions import CorruptionOutcome
from harden.audit.curve import EpsCurve
from harden.audit.gallery import Exhibit
from harden.audit.metrics import Difference, Flags, Proportion, paired_difference, rounded, share_of, unrounded
from harden.audit.representation import Representation

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]


class Exposure(StrEnum):
    """What the audited model has to do with an attack: whether its training or its selection used it."""

    TRAINING = "seen in training"
    SELECTION = "seen in selection"
    UNSEEN = "unseen"


@dataclass(frozen=True)
class ImageOrigin:
    """Where audited images came from.

    Attributes:
        data: the data set, as the user named it.
        split: "test", "val", or "all" for images that some training may have seen.
        available: images of that split from which the audited ones were drawn.
        which: the split in words.
    """

    data: str
    split: str
    available: int
    which: str = "test images"


@dataclass(frozen=True, eq=False)
class AttackOutcome:
    """What one attack did to N images.

    Attributes:
        name: short name with its steps ("PGD-20").
        definition: the whole convention in words: steps, step size, start, loss, restarts, norm, eps.
        method: the family of the attack ("PGD"); empty in reports of earlier versions.
        objective: what its gradient is taken of (a value of `Objective`); empty for none, or where it is not known.
        crafted_by: the name of the attack that crafted on surrogates; empty for an attack on the model itself.
        identity: equal for two outcomes only if their attacks are the same in every setting.
        norm: "linf", "l2" or "l1".
        eps: radius on the [0, 1] scale.
        exposure: whether the model's training or selection used this attack.
        predictions: (N,) class predicted on the example that the attack kept.
        margins: (N,) logit of the true class minus the best other one on that example; negative where fooled.
        distances: (N,) norm of the perturbation of that example, on the [0, 1] scale.
        attacked: (N,) whether the attack ran on this image at all. An image that was wrong already, or that an
            earlier member of an ensemble fooled, is not attacked; its other values are those of the clean image.
        seconds: wall-clock time.
        forwards, backwards: images passed forward and backward through the model (an image through twice counts 2).
        access: what the attack knew of the model.
        queries: (N,) points at which the model was asked about an image, until it was fooled; 0 where not attacked.
        closest: (N,) norm of the smallest perturbation that fooled, within eps or not; infinite where none was found,
            and 0 for an image that is wrong when clean.
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
    access: Access
    queries: Integers
    closest: Floats
    method: str = ""
    objective: str = ""
    crafted_by: str = ""
    identity: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it. An infinite distance is null."""
        return {
            "name": self.name,
            "definition": self.definition,
            "norm": self.norm,
            "eps": self.eps,
            "exposure": self.exposure.value,
            "predictions": self.predictions.tolist(),
            "margins": rounded(self.margins),
            "distances": rounded(self.distances),
            "attacked": self.attacked.astype(int).tolist(),
            "seconds": round(self.seconds, 3),
            "forwards": self.forwards,
            "backwards": self.backwards,
            "access": self.access.value,
            "queries": self.queries.tolist(),
            "closest": rounded(self.closest),
            "method": self.method,
            "objective": self.objective,
            "crafted_by": self.crafted_by,
            "identity": self.identity,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> AttackOutcome:
        """Read what `to_json` wrote."""
        return cls(
            name=data["name"],
            definition=data["definition"],
            norm=data["norm"],
            eps=data["eps"],
            exposure=Exposure(data["exposure"]),
            predictions=np.array(data["predictions"], dtype=np.int64),
            margins=np.array(data["margins"], dtype=np.float32),
            distances=np.array(data["distances"], dtype=np.float32),
            attacked=np.array(data["attacked"], dtype=bool),
            seconds=data["seconds"],
            forwards=data["forwards"],
            backwards=data["backwards"],
            access=Access(data["access"]),
            queries=np.array(data["queries"], dtype=np.int64),
            closest=unrounded(data["closest"]),
            method=data.get("method", ""),
            objective=data.get("objective", ""),
            crafted_by=data.get("crafted_by", ""),
            identity=data.get("identity", data["definition"]),  # earlier versions told attacks apart by this
        )

    @property
    def complete(self) -> bool:
        """Whether the attack had every image that is right when clean, so that its own column means something."""
        return bool(self.attacked[self.margins >= 0].all())


@dataclass(frozen=True, eq=False)
class AuditResult:
    """An audit of one model.

    Attributes:
        model: what the model is called in print.
        dataset: where the images came from, and which split, in words.
        classes: K class names.
        labels: (N,) true classes.
        files: N names of the images, or empty.
        clean_predictions, clean_margins: (N,) on the clean images.
        outcomes: one per attack of the threat model (all of one norm and eps), in the order they ran; the worst case is
            taken over these.
        seed: of the sample and of every random start.
        machine: processor or GPU, threads, versions of torch.
        seconds: of the whole audit.
        differentiable: whether the model gave gradients; otherwise it was audited black-box only.
        shifts: attacks outside the threat model (other norms, at radii of their own); not part of the worst case.
        corruptions: accuracy on corrupted images; not part of the worst case.
        curve: accuracy against eps.
        checks: reasons to believe or to doubt the worst case.
        representation: what the attacks do to the logits.
        gallery: images to look at.
        origin: where the images came from, for programs; None in reports of earlier versions.
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
    differentiable: bool = True
    shifts: tuple[AttackOutcome, ...] = ()
    corruptions: tuple[CorruptionOutcome, ...] = ()
    curve: EpsCurve | None = None
    checks: tuple[Check, ...] = ()
    representation: Representation | None = None
    gallery: tuple[Exhibit, ...] = ()
    origin: ImageOrigin | None = None

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

    def accuracy_after(self, last: AttackOutcome) -> Proportion:
        """Accuracy under the worst of all attacks up to `last`, in the order in which they ran."""
        flags = self.clean_correct
        for outcome in self.outcomes:
            flags = flags & self.survived(outcome)
            if outcome is last:
                break
        return share_of(flags)

    @property
    def measured(self) -> bool:
        """Whether the worst case is a measurement: some attack asked the audited model itself where to go.

        Examples that were made on other networks alone leave far too many images standing to be one.
        """
        return any(outcome.access is not Access.TRANSFER for outcome in self.outcomes)

    def worst_case(self) -> Proportion:
        """Accuracy under the worst of all attacks, sample by sample: the number to quote."""
        return share_of(self.standing())

    def all_strongest(self) -> tuple[AttackOutcome, ...]:
        """The attacks that alone leave the fewest images standing, among the complete ones; several if they tie.

        There is none if no image is right when clean: nothing was attacked.
        """
        left = [(outcome, int(self.survived(outcome).sum())) for outcome in self.outcomes if outcome.complete]
        fewest = min((count for _, count in left), default=0)
        return tuple(outcome for outcome, count in left if count == fewest) if self.clean_correct.any() else ()

    def strongest(self) -> AttackOutcome | None:
        """The first of `all_strongest`, or None if there is none."""
        return next(iter(self.all_strongest()), None)

    def per_class_worst_case(self) -> tuple[Proportion | None, ...]:
        """Worst-case accuracy of each class (None where no image of the class was audited)."""
        standing = self.standing()
        return tuple(
            share_of(standing[self.labels == k]) if (self.labels == k).any() else None for k in range(len(self.classes))
        )

    def absent(self) -> tuple[str, ...]:
        """Classes of the data without an audited image."""
        present = set(self.labels.tolist())
        return tuple(name for k, name in enumerate(self.classes) if k not in present and name != OTHER)

    def smallest_distances(self) -> Floats:
        """(N,) norm of the smallest perturbation known to fool each image, over the attacks of the threat model.

        0 where the image is wrong when clean, infinite where nothing fooled it. An upper bound: a closer one may exist.
        """
        smallest = np.where(self.clean_correct, np.inf, 0.0).astype(np.float32)
        for outcome in self.outcomes:
            smallest = np.minimum(smallest, outcome.closest)
        return smallest

    def confusions(self) -> tuple[tuple[int, int, int], ...]:
        """(true class, class predicted under attack, images), most frequent first, over images that fell to attacks.

        Each image counts once, with the first attack that fooled it.
        """
        counts: dict[tuple[int, int], int] = {}
        standing = self.clean_correct
        for outcome in self.outcomes:
            fell = standing & (outcome.predictions != self.labels)
            for pair in zip(self.labels[fell].tolist(), outcome.predictions[fell].tolist(), strict=True):
                counts[pair] = counts.get(pair, 0) + 1
            standing = standing & ~fell
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return tuple((true, guess, count) for (true, guess), count in ordered)

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
            "clean_margins": rounded(self.clean_margins),
            "outcomes": [outcome.to_json() for outcome in self.outcomes],
            "seed": self.seed,
            "machine": self.machine,
            "seconds": round(self.seconds, 3),
            "differentiable": self.differentiable,
            "shifts": [outcome.to_json() for outcome in self.shifts],
            "corruptions": [outcome.to_json() for outcome in self.corruptions],
            "curve": self.curve.to_json() if self.curve else None,
            "checks": [check.to_json() for check in self.checks],
            "representation": self.representation.to_json() if self.representation else None,
            "gallery": [exhibit.to_json() for exhibit in self.gallery],
            "origin": asdict(self.origin) if self.origin else None,
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
            outcomes=tuple(AttackOutcome.from_json(o) for o in data["outcomes"]),
            seed=data["seed"],
            machine=data["machine"],
            seconds=data["seconds"],
            differentiable=data["differentiable"],
            shifts=tuple(AttackOutcome.from_json(o) for o in data["shifts"]),
            corruptions=tuple(CorruptionOutcome.from_json(o) for o in data["corruptions"]),
            curve=EpsCurve.from_json(data["curve"]) if data["curve"] else None,
            checks=tuple(Check.from_json(c) for c in data["checks"]),
            representation=Representation.from_json(data["representation"]) if data["representation"] else None,
            gallery=tuple(Exhibit.from_json(e) for e in data["gallery"]),
            origin=ImageOrigin(**data["origin"]) if data.get("origin") else None,
        )
