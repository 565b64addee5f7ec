"""FGSM (Goodfellow et al., 2015; the paper's eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harden.attacks.protocol import GradientAttack, Memory


@dataclass(frozen=True, kw_only=True)
class FGSM(GradientAttack):
    """One full step of eps along the sign of the gradient at the clean image."""

    @property
    def name(self) -> str:
        """FGSM."""
        return "FGSM"

    @property
    def definition(self) -> str:
        """The convention in words."""
        return f"x + eps * sign(grad of cross-entropy at x), clipped to [0, 1]; {self.radius()}"

    def begin(self, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Memory]:
        """Start at the clean image."""
        return clean, {}

    def step(self, clean: Tensor, points: Tensor, gradient: Tensor, memory: Memory) -> Tensor:
        """Move by eps."""
        return clean + self.eps * gradient.sign()
