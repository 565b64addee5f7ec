"""Networks that know more classes than the data: which of their outputs the data's classes are.

The scores of such a network are put in the order of the data's classes right behind it, so that attacks, training,
metrics and reports are those of any other classifier. An answer of another output is a wrong answer in use, and an
attack may aim at it. So one more score stands for all other outputs: the largest of them. The prediction and the margin
are then exactly those of the whole network, and have a gradient; a logsumexp, which would give the network's own
probabilities, exceeds the largest score of the data's classes although no single other output does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from harden.access import OTHER


@dataclass(frozen=True)
class OutputSubset:
    """Which of a network's outputs are the classes of the data.

    Attributes:
        outputs: how many the network has.
        chosen: the output of each class of the data; distinct.
        others: whether an answer of another output counts, as a wrong one; otherwise they are left out.
    """

    outputs: int
    chosen: tuple[int, ...]
    others: bool

    def of(self, scores: Tensor) -> Tensor:
        """Return the scores (N, K) of the classes, or (N, K + 1) with the largest other one, of all (N, outputs)."""
        columns = torch.tensor(self.chosen, device=scores.device)
        kept = scores.index_select(1, columns)
        if not self.others:
            return kept
        rest = scores.index_fill(1, columns, -torch.inf).amax(dim=1, keepdim=True)
        return torch.cat([kept, rest], dim=1)

    def names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return names of the scores that `of` gives, where those of the data's classes are `classes`."""
        return (*classes, OTHER) if self.others else tuple(classes)

    def all_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return names of all outputs: those of the data's classes, and numbers for the others."""
        named = dict(zip(self.chosen, classes, strict=False))
        return tuple(named.get(k, f"output {k}") for k in range(self.outputs))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any] | None) -> OutputSubset | None:
        """Read what `to_json` wrote; None for None."""
        return cls(data["outputs"], tuple(data["chosen"]), data["others"]) if data else None
