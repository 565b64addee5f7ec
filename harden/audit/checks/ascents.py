"""Ascents of several lengths to the same radius, to see whether more steps do more harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harden.attacks import Ball, Norm, judge
from harden.attacks.norms import sparse_ascent, steepest

STEPS = (1, 2, 5, 10, 20, 50)
STRETCH = 1.5
"""The steps of an ascent add up to this many eps, so that a longer one is finer and not only farther."""
_SPARSE = 0.05


@dataclass(frozen=True, eq=False)
class Ascents:
    """Where ascents of `STEPS` steps on the margin ended; on the CPU.

    Attributes:
        right: (len(STEPS), n) whether the image is right at the end.
        margins: (len(STEPS), n) its margin there.
    """

    right: Tensor
    margins: Tensor

    @property
    def fooled(self) -> Tensor:
        """(n,) whether the end of any ascent fooled it."""
        return ~self.right.all(dim=0)


def climb(
    ball: Ball, labels: Tensor, *, slopes: Callable[[Tensor], Tensor], answers: Callable[[Tensor], Tensor]
) -> Ascents:
    """Climb from the clean images to the radius of the ball, with each number of steps.

    Args:
        ball: around n images.
        labels: (n,) int64.
        slopes: points (n, C, H, W) to the input gradient of what is climbed.
        answers: points to scores (n, K).
    """
    ends = []
    for steps in STEPS:
        points = ball.clean
        length = ball.eps * min(1.0, STRETCH / steps)
        for _ in range(steps):
            points = ball.project(points + length * _direction(ball.norm, slopes(points).nan_to_num()))
        ends.append(judge(answers(points), labels)[1].cpu())
    margins = torch.stack(ends)
    return Ascents(margins >= 0, margins)


def _direction(norm: Norm, slopes: Tensor) -> Tensor:
    if norm is Norm.L1:
        return sparse_ascent(slopes, torch.full((len(slopes),), _SPARSE, device=slopes.device))
    return steepest(norm, slopes)
