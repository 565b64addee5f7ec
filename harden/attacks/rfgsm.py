"""R+FGSM, in the two conventions that go by this name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from harden.attacks.norms import sign_noise_like
from harden.attacks.protocol import GradientAttack, Memory


class RandomStep(StrEnum):
    """Where the gradient step of R+FGSM starts."""

    PAPER = "paper"
    TRAMER = "Tramer"


@dataclass(frozen=True, kw_only=True)
class RFGSM(GradientAttack):
    """FGSM with its gradient taken after a small random step of alpha = eps / 2.

    Attributes:
        variant: PAPER is eq. 3 of Adv-4-Adv, a full eps step from the *clean* image along the gradient at
            x + alpha * sign(N(0, I)). TRAMER is Tramer et al. (2018), a step of eps - alpha from the random point,
            which ATDA's code evaluates.
    """

    variant: RandomStep = RandomStep.PAPER

    @property
    def alpha(self) -> float:
        """Length of the random step on the [0, 1] scale."""
        return self.eps / 2

    @property
    def name(self) -> str:
        """R+FGSM, with the variant unless it is the paper's."""
        return "R+FGSM" if self.variant is RandomStep.PAPER else "R+FGSM (Tramer)"

    @property
    def definition(self) -> str:
        """The convention in words."""
        move = (
            "x + eps * sign(grad at x'), from the clean x (the paper's eq. 3)"
            if self.variant is RandomStep.PAPER
            else "x' + (eps - alpha) * sign(grad at x') (Tramer et al.)"
        )
        return (
            f"x' = clip(x + alpha * sign(N(0, I))), alpha = eps/2; {move}; cross-entropy; fooled at x' counts too; "
            f"{self.radius()}"
        )

    @property
    def starts_clean(self) -> bool:
        """No: at noise."""
        return False

    def begin(self, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Memory]:
        """Start at a corner of the ball of radius alpha."""
        return clean + self.alpha * sign_noise_like(clean, generator), {}

    def step(self, clean: Tensor, points: Tensor, gradient: Tensor, memory: Memory) -> Tensor:
        """Move by eps from the clean image, or by eps - alpha from the random point."""
        if self.variant is RandomStep.PAPER:
            return clean + self.eps * gradient.sign()
        return points + (self.eps - self.alpha) * gradient.sign()
