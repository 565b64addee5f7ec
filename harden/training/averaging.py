"""The exponential moving average of the weights, which is what gets selected and shipped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harden.models.user_code import copied
from harden.training.sharding import is_part


class WeightAverage:
    """A copy of a module whose parameters and floating-point buffers follow the original's moving average.

    Integer buffers (BatchNorm's counters) are copied. While few steps are done the decay is min(decay, (1 + t) /
    (10 + t)), so that a short run does not keep averaging in its starting weights.

    Args:
        module: what is averaged; the copy starts equal to it.
        decay: weight of the past, in [0, 1); 0 makes the copy follow the original exactly.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.module = copied(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one step towards `module`."""
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.decay > 0 else 1.0
        pairs = [
            *zip(self.module.parameters(), module.parameters(), strict=True),
            *zip(self.module.buffers(), module.buffers(), strict=True),
        ]
        moving = [(_own(mine), _own(theirs)) for mine, theirs in pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in moving], [theirs for _, theirs in moving], weight)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)


def _own(value: Tensor) -> Tensor:
    """Return the values that this process has of a tensor, which shares memory with it."""
    part: Tensor = value.to_local() if is_part(value) else value.detach()  # type: ignore[attr-defined]
    return part
