"""MIM, the momentum iterative method (Dong et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harden.attacks.protocol import GradientAttack, Memory
from harden.tensors import per_sample


@dataclass(frozen=True, kw_only=True)
class MIM(GradientAttack):
    """Sign steps along an accumulated gradient, each gradient first divided by its mean absolute value.

    Attributes:
        iterations: number of steps.
        relative_step: step length as a share of eps.
        decay: of the accumulated gradient.
    """

    iterations: int = 10
    relative_step: float = 0.2
    decay: float = 1.0

    @property
    def name(self) -> str:
        """MIM, with the number of steps where it is not ten."""
        return "MIM" if self.iterations == 10 else f"MIM-{self.iterations}"

    @property
    def definition(self) -> str:
        """The convention in words."""
        return (
            f"{self.iterations} steps of {self.relative_step:g} eps along the sign of the accumulated gradient of "
            f"cross-entropy (decay {self.decay:g}, each gradient divided by its mean absolute value), start at x; "
            f"fooled at any step counts; {self.radius()}"
        )

    @property
    def steps(self) -> int:
        """The number of iterations."""
        return self.iterations

    def begin(self, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Memory]:
        """Start at the clean image with no momentum."""
        return clean, {"velocity": torch.zeros_like(clean)}

    def step(self, clean: Tensor, points: Tensor, gradient: Tensor, memory: Memory) -> Tensor:
        """Accumulate, then move by `relative_step * eps`."""
        scale = gradient.abs().flatten(1).mean(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
        memory["velocity"] = self.decay * memory["velocity"] + gradient / per_sample(scale, gradient)
        return points + self.relative_step * self.eps * memory["velocity"].sign()
