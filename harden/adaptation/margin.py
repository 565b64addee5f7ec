"""The supervised part of ATDA: class centres of the logits, and a margin loss that pulls samples to their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClassCentres(nn.Module):
    """One centre for each class, in logit space, which follows the samples of its class.

    Args:
        classes: K.
        width: k of the representation.
        pace: share of the mean difference that a centre moves by (alpha in ATDA; 0.1).
    """

    centres: Tensor

    def __init__(self, *, classes: int, width: int, pace: float = 0.1) -> None:
        super().__init__()
        self.pace = pace
        self.register_buffer("centres", torch.zeros(classes, width))

    def loss(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over samples and wrong classes of softplus(|z - c_own| - |z - c_wrong|), in l_1 (scalar).

        ATDA's eq. 4. A centre that no sample has reached yet is 0, and the distances to two such cancel.

        Args:
            values: (N, k) float.
            labels: (N,) int64.
        """
        distances = (values[:, None] - self.centres[None]).abs().sum(dim=2)
        own = distances.gather(1, labels[:, None])
        terms = F.softplus(own - distances)
        wrong = torch.ones_like(terms).scatter(1, labels[:, None], 0.0)
        return (terms * wrong).sum() / wrong.sum().clamp_min(1.0)

    @torch.no_grad()
    def follow(self, values: Tensor, labels: Tensor) -> None:
        """Move each centre by `pace` times the sum of its samples' differences, over one more than their number.

        ATDA's eq. 5; centres of absent classes stay.
        """
        values = values.to(self.centres.dtype)
        sums = torch.zeros_like(self.centres).index_add_(0, labels, self.centres[labels] - values)
        counts = sums.new_zeros(len(sums)).index_add_(0, labels, torch.ones_like(labels, dtype=sums.dtype))
        self.centres -= self.pace * sums / (1 + counts)[:, None]
