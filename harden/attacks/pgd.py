"""PGD (Kurakin et al., 2017; Madry et al., 2018; the paper's eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harden.attacks.norms import uniform_like
from harden.attacks.objectives import Objective
from harden.attacks.protocol import GradientAttack, Memory


@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    """`iterations` sign-gradient steps, each projected to the ball.

    The defaults are the evaluation of ATDA's code, which the paper follows: steps of eps / 10 from the clean image.

    Attributes:
        iterations: number of steps.
        relative_step: step length as a share of eps.
        random_start: start from uniform noise in the ball instead of the clean image.
        tries: number of restarts; more than one needs `random_start`.
        raises: the objective.
    """

    iterations: int
    relative_step: float = 0.1
    random_start: bool = False
    tries: int = 1
    raises: Objective = Objective.CROSS_ENTROPY

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or self.tries < 1 or self.relative_step <= 0:
            raise ValueError("PGD needs at least one step of positive length and one try")
        if self.tries > 1 and not self.random_start:
            raise ValueError("restarts from the same clean image repeat the same attack; set random_start")

    @property
    def name(self) -> str:
        """PGD-k, with the objective and the restarts where they are not plain."""
        margin = " margin" if self.raises is Objective.MARGIN else ""
        return f"PGD-{self.iterations}{margin}" + (f" x{self.tries}" if self.tries > 1 else "")

    @property
    def definition(self) -> str:
        """The convention in words."""
        start = "uniform start in the ball" if self.random_start else "start at x"
        tries = f", {self.tries} restarts" if self.tries > 1 else ""
        return (
            f"{self.iterations} steps of {self.relative_step:g} eps along sign(grad of {self.raises.value}), "
            f"projected to the ball and [0, 1], {start}{tries}; fooled at any step counts; {self.radius()}"
        )

    @property
    def steps(self) -> int:
        """The number of iterations."""
        return self.iterations

    @property
    def restarts(self) -> int:
        """The number of tries."""
        return self.tries

    @property
    def objective(self) -> Objective:
        """What is raised."""
        return self.raises

    @property
    def starts_clean(self) -> bool:
        """Unless the start is random."""
        return not self.random_start

    def begin(self, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Memory]:
        """Start at the clean image or at uniform noise in the ball."""
        return (clean + uniform_like(clean, self.eps, generator) if self.random_start else clean), {}

    def step(self, clean: Tensor, points: Tensor, gradient: Tensor, memory: Memory) -> Tensor:
        """Move by `relative_step * eps`."""
        return points + self.relative_step * self.eps * gradient.sign()
