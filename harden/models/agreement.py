"""When two tensors of scores agree: one definition for exports, layouts, folded layers and recognised weights.

The size of a network's scores says nothing about it: thousands from random weights, thousandths after distillation. The
rounding of 32-bit floats grows with them, so differences are judged as shares of the scale of the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-4
"""Largest difference of two roundings of the same scores, as a share of their scale. Deep networks stay below 1e-5."""
_COMMON = 0.05
"""What is common to all classes decides nothing, but is rounded as well: this share of the largest score counts."""


def scale_of(scores: Tensor) -> float:
    """Return the scale of scores (N, K): the largest distance of a score from the mean of its row.

    It is at least a twentieth of the largest score. Scores that are not finite do not count.
    """
    if scores.numel() == 0:
        return 0.0
    known = torch.where(scores.isfinite(), scores, 0.0).double()
    apart = float((known - known.mean(dim=1, keepdim=True)).abs().max())
    return max(apart, _COMMON * float(known.abs().max()))


def differences(reference: Tensor, other: Tensor) -> Tensor:
    """Return by how much each score differs; 0 where both are the same infinity, infinite where one is not a number."""
    apart = torch.where(other == reference, 0.0, (other - reference).abs())
    return torch.nan_to_num(apart, nan=float("inf"), posinf=float("inf"))


def agree(reference: Tensor, other: Tensor, *, share: float = ROUNDING) -> bool:
    """Return whether scores (N, K) are those of `reference` but for rounding.

    The prediction then differs only where the margin of `reference` is within twice that difference.

    Args:
        reference: (N, K), whose scale counts.
        other: the scores to judge.
        share: largest difference of any score, as a share of the scale.
    """
    if reference.shape != other.shape:
        return False
    return bool((differences(reference, other) <= share * scale_of(reference)).all())
