"""What attacks raise: cross-entropy, the margin, and the difference-of-logits ratio, untargeted and targeted."""

from __future__ import annotations

from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.tensors import margins

_SMALL = 1e-12


class Objective(StrEnum):
    """What an attack raises, per sample."""

    CROSS_ENTROPY = "cross-entropy"
    MARGIN = "margin (best other logit minus the true one)"
    DLR = "difference-of-logits ratio"

    def of(self, scores: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the objective of each sample, (N,).

        Targeted, the cross-entropy of the target falls, and margin and ratio are between target and true class. The
        ratio (Croce and Hein, 2020) is undefined for two classes, and for three with a target; it is the margin there.

        Args:
            scores: (N, K) float.
            labels: (N,) int64.
            targets: (N,) int64, none equal to its label; None: untargeted.
        """
        if self is Objective.CROSS_ENTROPY:
            if targets is None:
                return F.cross_entropy(scores, labels, reduction="none")
            return -F.cross_entropy(scores, targets, reduction="none")
        if targets is None:
            gap = -margins(scores, labels)
        else:
            gap = (scores.gather(1, targets[:, None]) - scores.gather(1, labels[:, None])).squeeze(1)
        needed = 3 if targets is None else 4
        if self is Objective.MARGIN or scores.shape[1] < needed:
            return gap
        ordered = scores.topk(needed, dim=1).values
        if targets is None:
            spread = ordered[:, 0] - ordered[:, 2]
        else:
            spread = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
        # Relative, so that the ratio is that of the same scores times any factor; it is finite where all are equal.
        return gap / (spread + _SMALL * gap.detach().abs() + torch.finfo(scores.dtype).tiny)

    @property
    def short(self) -> str:
        """In names: "CE", "margin", "DLR"."""
        return {"CROSS_ENTROPY": "CE", "MARGIN": "margin", "DLR": "DLR"}[self.name]


def likeliest_targets(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the `count` classes with the highest scores besides the true one, (N, count) int64, best first.

    `count` is cut to the number of other classes.
    """
    others = scores.scatter(1, labels[:, None], -torch.inf)
    return others.topk(min(count, scores.shape[1] - 1), dim=1).indices
