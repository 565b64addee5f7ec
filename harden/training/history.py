"""What happened in training, epoch by epoch: the record behind `metrics.jsonl` and the report's curves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from harden.training.canary import Collapse


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: counted from 1; an epoch that was rolled back keeps its number and its record.
        seconds: wall-clock time of the epoch, evaluation included.
        source_attacks: keys of the crafters of the training examples, one for each adversarial domain.
        scalars: means over the epoch's steps and measurements at its end. Names in use: `loss`, `ce_clean`, `ce_adv`,
            `bce_feature`, `bce_logit`, `domain_accuracy_feature`, `domain_accuracy_logit` (chance is
            1 / (M + 1) with M source attacks),
            `train_accuracy_clean`, `train_accuracy_adv`, `lr`, `eps`, `beta`, `gamma`, and on held-out validation
            images `val_source` and `val_canary` (raw weights), `val_clean` and `val_robust` (averaged weights, clean
            and under the selection attack). Accuracies are in [0, 1].
        collapse: what went wrong in it.
        rolled_back: whether this epoch was undone.
        event: what the program did about it, in words; empty in an ordinary epoch.
        passes: images that went through a network to train it or to craft on it, forward and backward counted each.
    """

    epoch: int
    seconds: float
    source_attacks: tuple[str, ...]
    scalars: dict[str, float]
    rolled_back: bool = False
    event: str = ""
    passes: int = 0
    collapse: Collapse = Collapse.NONE

    @property
    def sources(self) -> str:
        """The crafters in print: "fgsm + mim"."""
        return " + ".join(self.source_attacks)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return {**asdict(self), "source_attacks": list(self.source_attacks), "collapse": self.collapse.value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EpochRecord:
        """Read what `to_json` wrote, of earlier versions too.

        Raises:
            ValueError: a field is not of its kind.
            TypeError: a field is missing, or is none of a record.
        """
        values = dict(data)
        if "source_attacks" not in values:  # earlier versions wrote the keys as one text
            joined = str(values.pop("source_attack", ""))
            values["source_attacks"] = joined.split(" + ") if joined else ()
        unknown = Collapse.NOT_RECORDED if values.get("event") else Collapse.NONE
        values["collapse"] = Collapse(values.get("collapse", unknown))
        record = cls(**{**values, "source_attacks": tuple(values["source_attacks"])})
        numbers = (record.seconds, *record.scalars.values()) if isinstance(record.scalars, dict) else (None,)
        if (
            any(not isinstance(value, int | float) for value in numbers)
            or any(type(value) is not int for value in (record.epoch, record.passes))
            or any(not isinstance(value, str) for value in (*record.source_attacks, record.event))
            or not isinstance(record.rolled_back, bool)
        ):
            raise ValueError(f"the record of epoch {str(record.epoch)[:20]} holds a value of another kind")
        return record


@dataclass(frozen=True)
class History:
    """All epochs of a run, and which of them was chosen (None while training)."""

    epochs: tuple[EpochRecord, ...] = field(default=())
    chosen_epoch: int | None = None

    @property
    def passes(self) -> int:
        """Of all epochs, those that were undone included."""
        return sum(epoch.passes for epoch in self.epochs)

    @property
    def seconds(self) -> float:
        """Of all epochs, their held-out measurements included."""
        return sum(epoch.seconds for epoch in self.epochs)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return {"epochs": [e.to_json() for e in self.epochs], "chosen_epoch": self.chosen_epoch}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> History:
        """Read what `to_json` wrote."""
        return cls(tuple(EpochRecord.from_json(e) for e in data["epochs"]), data["chosen_epoch"])
