"""Common corruptions: what noise, blur, JPEG and the like leave of a model's accuracy, without any adversary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class CorruptionOutcome:
    """One corruption at one severity.

    Attributes:
        name: "Gaussian noise", ...
        severity: 1 to 5.
        definition: what it does, with its parameter at this severity.
        predictions: (N,) class predicted on every corrupted image.
    """

    name: str
    severity: int
    definition: str
    predictions: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return {
            "name": self.name,
            "severity": self.severity,
            "definition": self.definition,
            "predictions": self.predictions.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CorruptionOutcome:
        """Read what `to_json` wrote."""
        return cls(data["name"], data["severity"], data["definition"], np.array(data["predictions"], dtype=np.int64))
