"""N-FGSM (de Jorge et al., 2022): a crafter of training examples that resists catastrophic overfitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harden.attacks.norms import uniform_like
from harden.attacks.protocol import GradientAttack, Memory


@dataclass(frozen=True, kw_only=True)
class NFGSM(GradientAttack):
    """A full eps step from a point with uniform noise of radius `noise * eps`, without projection.

    The example may lie up to (noise + 1) * eps from the clean image. It is meant for training and is no attack within
    eps; like every image that a classifier sees here it is cut to [0, 1].

    Attributes:
        noise: radius of the noise as a multiple of eps (2 in the paper).
    """

    stays_in_ball: ClassVar[bool] = False

    noise: float = 2.0

    @property
    def name(self) -> str:
        """N-FGSM."""
        return "N-FGSM"

    @property
    def definition(self) -> str:
        """The convention in words."""
        return (
            f"x' = x + U(-{self.noise:g} eps, {self.noise:g} eps); x' + eps * sign(grad of cross-entropy at x'), cut "
            f"to [0, 1] but not to the ball (training only); {self.radius()}"
        )

    @property
    def starts_clean(self) -> bool:
        """No: at noise."""
        return False

    def begin(self, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Memory]:
        """Start at uniform noise."""
        return clean + uniform_like(clean, self.noise * self.eps, generator), {}

    def step(self, clean: Tensor, points: Tensor, gradient: Tensor, memory: Memory) -> Tensor:
        """Move by eps from the noisy point."""
        return points + self.eps * gradient.sign()
