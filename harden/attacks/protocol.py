"""What an attack is, and the large family of those that step along a gradient.

An attack is only its arithmetic: it asks an `Oracle` about points and reads its answers. The oracle writes down every
answer, counts passes and says which images still stand; the runner (`run.py`) owns modes and checks the outcome. So
early drop, counting and the worst case over every scored point are right once for every attack.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from harden.access import Access
from harden.attacks.norms import Norm
from harden.attacks.objectives import Objective

if TYPE_CHECKING:
    from harden.attacks.oracle import Oracle

Memory = dict[str, Tensor]
"""Tensors with one row per image that an attack carries from step to step (momentum, best loss)."""


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack of the audit: every example that it counts lies in the eps-ball and in [0, 1].

    Attributes:
        eps: radius on the [0, 1] scale of pixels (above 1 only for l_2 and l_1).
        norm: of the radius.
    """

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)
    """The norms that the attack knows."""
    pass_cost: ClassVar[float] = 1.5
    """What one of its passes takes on the average, in forward passes, for estimates of time: every second one is
    backward, and took two on a small network (about one on larger ones)."""

    eps: float
    norm: Norm = Norm.LINF

    def __post_init__(self) -> None:
        if self.norm not in self.norms:
            known = ", ".join(self.norms)
            raise ValueError(f"{type(self).__name__} knows {known}, not {self.norm}")
        if not 0 <= self.eps < float("inf") or (self.norm is Norm.LINF and self.eps > 1):
            raise ValueError(f"eps is on the [0, 1] scale, got {self.eps}")

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name with the number of steps ("PGD-20")."""

    @property
    @abstractmethod
    def definition(self) -> str:
        """The whole convention in words: start, steps, step size, objective, restarts, norm and eps."""

    @property
    def method(self) -> str:
        """The family that the attack belongs to: "PGD", "APGD", ..."""
        return type(self).__name__

    @property
    def objective(self) -> Objective | None:
        """What its gradient is taken of; None for an attack that takes no gradient of the model or not of one loss."""
        return None

    @property
    def crafted_by(self) -> str:
        """The name of the attack that crafts the examples on surrogates; empty for an attack on the model itself."""
        return ""

    @property
    def identity(self) -> str:
        """A text that two attacks share only if all of their settings are the same; nobody needs to read it."""
        settings = ((field.name, getattr(self, field.name)) for field in fields(self))
        return f"{self.method}({', '.join(f'{name}={_identity(value)}' for name, value in settings)})"

    @property
    @abstractmethod
    def passes(self) -> int:
        """Forward plus backward passes on an image that stands to the end: about this many, for estimates of time."""

    @abstractmethod
    def pursue(self, oracle: Oracle, generator: torch.Generator) -> None:
        """Ask `oracle` about points until every image is fooled or the attack is at its end."""

    def radius(self) -> str:
        """The norm and eps in print, as the definitions end."""
        return f"{self.norm.written} eps {self.eps:.6g}"


def _identity(value: object) -> str:
    """Return an attack's setting as part of its identity: networks are told apart by their names beside them."""
    if isinstance(value, Attack):
        return value.identity
    if isinstance(value, tuple):
        return f"({', '.join(map(_identity, value))})"
    return type(value).__name__ if isinstance(value, torch.nn.Module) else repr(value)


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """An l_inf attack by a fixed number of steps along the input gradient: the arithmetic of its start and of one step.

    Training crafts its examples with these, so they know nothing of which images are fooled.
    """

    stays_in_ball: ClassVar[bool] = True
    """False only for crafters of training examples that leave the eps-ball on purpose (N-FGSM)."""

    remembers: ClassVar[bool] = False
    """True only for crafters that go on from the last example of the same image (FGSM-EP)."""

    @property
    def starts_clean(self) -> bool:
        """Whether the first gradient is taken at the clean image."""
        return True

    @property
    def steps(self) -> int:
        """How many gradients are taken."""
        return 1

    @property
    def restarts(self) -> int:
        """How many times the attack is tried on an image that still stands."""
        return 1

    @property
    def objective(self) -> Objective:
        """What the gradient is taken of."""
        return Objective.CROSS_ENTROPY

    @property
    def passes(self) -> int:
        """A forward and a backward pass for each step, and a last forward pass."""
        return self.restarts * (2 * self.steps + 1)

    @abstractmethod
    def begin(self, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Memory]:
        """Return the points at which the first gradient is taken, (N, C, H, W), and the memory.

        The runner projects the points to [0, 1], and to the ball if the attack stays in it.
        """

    @abstractmethod
    def step(self, clean: Tensor, points: Tensor, gradient: Tensor, memory: Memory) -> Tensor:
        """Return the points after one step along `gradient` (N, C, H, W); may replace entries of `memory`."""

    def pursue(self, oracle: Oracle, generator: torch.Generator) -> None:
        """Take the steps, as many times as there are restarts."""
        for _ in range(self.restarts):
            rows = oracle.standing()
            if len(rows) == 0:
                return
            self._ascend(oracle, rows, generator)

    def _ascend(self, oracle: Oracle, rows: Tensor, generator: torch.Generator) -> None:
        ball = oracle.ball.at(rows)
        points, memory = self.begin(ball.clean, generator)
        points = points if points is ball.clean else ball.project(points)
        for _ in range(self.steps):
            gradient = oracle.ascend(points, rows, self.objective).gradient
            keep = oracle.thinned(rows)
            if keep is not None:
                rows, points, gradient, ball = rows[keep], points[keep], gradient[keep], ball.at(keep)
                memory = {name: value[keep] for name, value in memory.items()}
                if len(rows) == 0:
                    return
            points = ball.project(self.step(ball.clean, points, gradient, memory))
        oracle.ask(points, rows)
