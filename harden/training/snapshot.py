"""All that training changes, copied and put back: the network, its average, the defence and the optimiser."""

from __future__ import annotations

import copy
from typing import Any

import torch

from harden.defences import Defence
from harden.models.classifier import Classifier
from harden.training.averaging import WeightAverage
from harden.training.sharding import kept, like


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
        """Return a copy of their state, of tensors (on the CPU, but for parts of sharded ones) and plain values."""
        copied: dict[str, Any] = kept(
            {
                "model": self._classifier.state_dict(),
                "average": self._average.module.state_dict(),
                "average_steps": self._average.steps,
                "optimizer": self._optimizer.state_dict(),
                "defence": self._defence.state_dict(),
            }
        )
        return copied

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to what `take` returned, which stays as it is; what is sharded now may be whole there."""
        for module, name in ((self._classifier, "model"), (self._average.module, "average")):
            present, values = module.state_dict(), copy.copy(snapshot[name])  # with the versions of its modules
            values.update({key: like(value, present[key]) for key, value in values.items()})
            module.load_state_dict(values)
        self._average.steps = snapshot["average_steps"]
        optimizer = copy.deepcopy(snapshot["optimizer"])
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        for index, entry in optimizer["state"].items():
            entry.update({key: like(value, parameters[index]) for key, value in entry.items()})
        self._optimizer.load_state_dict(optimizer)
        self._defence.load_state_dict(snapshot["defence"])
