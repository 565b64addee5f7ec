"""All that training changes, copied and put back: the network, its average, the defence and the optimiser."""

from __future__ import annotations

import copy
from typing import Any

import torch

from harden.defences import Defence
from harden.models.classifier import Classifier
from harden.training.averaging import WeightAverage


class Snapshots:
    """Takes snapshots of four things that train together.

    Args:
        classifier, average, optimizer, defence: copied by `take`, set by `restore`.
    """

    def __init__(
        self, classifier: Classifier, average: WeightAverage, optimizer: torch.optim.Optimizer, defence: Defence
    ) -> None:
        self._classifier, self._average, self._optimizer, self._defence = classifier, average, optimizer, defence

    def take(self) -> dict[str, Any]:
        """Return a copy of their state, of tensors and plain values."""
        return copy.deepcopy(
            {
                "model": self._classifier.state_dict(),
                "average": self._average.module.state_dict(),
                "average_steps": self._average.steps,
                "optimizer": self._optimizer.state_dict(),
                "defence": self._defence.state_dict(),
            }
        )

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to what `take` returned, which stays as it is."""
        snapshot = copy.deepcopy(snapshot)
        self._classifier.load_state_dict(snapshot["model"])
        self._average.module.load_state_dict(snapshot["average"])
        self._average.steps = snapshot["average_steps"]
        self._optimizer.load_state_dict(snapshot["optimizer"])
        self._defence.load_state_dict(snapshot["defence"])
