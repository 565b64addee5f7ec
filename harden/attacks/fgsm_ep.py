"""FGSM-EP (Jia et al., 2022): a crafter of training examples that goes on from those of the epoch before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harden.attacks.fgsm import FGSM
from harden.attacks.protocol import Memory


@dataclass(frozen=True, kw_only=True)
class FGSMEP(FGSM):
    """One step from where the example of the same image was an epoch ago: over the epochs a PGD, at the cost of FGSM.

    It needs a memory of the last perturbations (`harden.training.memory`); without one it starts at the clean image,
    as FGSM does. Deviation: the published regulariser between the predictions before and after the step is left out;
    it was not tried. What is known of this one is in recipes/README.md.

    Attributes:
        relative_step: length of the step as a multiple of eps; 1 as published.
    """

    remembers: ClassVar[bool] = True

    relative_step: float = 1.0

    @property
    def name(self) -> str:
        """FGSM-EP."""
        return "FGSM-EP"

    @property
    def definition(self) -> str:
        """The convention in words."""
        step = "eps" if self.relative_step == 1 else f"{self.relative_step:g} eps"
        return (
            f"x' = the example of the epoch before (x in the first); x' + {step} * sign(grad of "
            f"cross-entropy at x'), projected to the ball and to [0, 1] (training only); {self.radius()}"
        )

    @property
    def starts_clean(self) -> bool:
        """No: where the last example was."""
        return False

    def step(self, clean: Tensor, points: Tensor, gradient: Tensor, memory: Memory) -> Tensor:
        """Move by a share of eps."""
        return points + self.relative_step * self.eps * gradient.sign()
