"""What an attack is: the arithmetic of its start and of one step. The runner (`run.py`) owns everything else.

Splitting an attack this way lets one runner keep the eval mode, the projection, the dropping of fooled images and the
counting of passes, so that they are right once for every attack.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.tensors import margins

Memory = dict[str, Tensor]
"""Tensors with one row per image that an attack carries from step to step (momentum, best loss)."""


class Objective(StrEnum):
    """What an attack raises, per sample."""

    CROSS_ENTROPY = "cross-entropy"
    MARGIN = "margin (best other logit minus the true one)"

    def of(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the objective of each sample, (N,), from scores (N, K) and labels (N,)."""
        if self is Objective.CROSS_ENTROPY:
            return F.cross_entropy(scores, labels, reduction="none")
        return -margins(scores, labels)


@dataclass(frozen=True)
class Ball:
    """The l_inf ball of radius eps around clean images, cut to [0, 1].

    Attributes:
        low, high: (N, C, H, W) bounds of each pixel.
    """

    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, clean: Tensor, eps: float) -> Ball:
        """The ball of radius `eps` ([0, 1] scale) around `clean` (N, C, H, W) in [0, 1]."""
        return cls((clean - eps).clamp_(min=0.0), (clean + eps).clamp_(max=1.0))

    def project(self, points: Tensor) -> Tensor:
        """Return the nearest points of the ball."""
        return torch.clamp(points, self.low, self.high)

    def at(self, keep: Tensor) -> Ball:
        """The ball of the images that `keep` (indices or mask) selects."""
        return Ball(self.low[keep], self.high[keep])


@dataclass(frozen=True, kw_only=True)
class GradientAttack(ABC):
    """An l_inf attack that moves along the input gradient of an objective.

    Attributes:
        eps: radius on the [0, 1] scale.
    """

    norm: ClassVar[str] = "linf"
    stays_in_ball: ClassVar[bool] = True
    """False only for crafters of training examples that leave the eps-ball on purpose (N-FGSM)."""

    eps: float

    def __post_init__(self) -> None:
        if not 0 <= self.eps <= 1:
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

    @abstractmethod
    def begin(self, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Memory]:
        """Return the points at which the first gradient is taken, (N, C, H, W), and the memory.

        The runner projects the points to [0, 1], and to the ball if the attack stays in it.
        """

    @abstractmethod
    def step(self, clean: Tensor, points: Tensor, gradient: Tensor, memory: Memory) -> Tensor:
        """Return the points after one step along `gradient` (N, C, H, W); may replace entries of `memory`."""

    def radius(self) -> str:
        """The norm and eps in print, as the definitions end."""
        return f"l_inf eps {self.eps:.6g}"


def uniform_like(images: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Uniform noise in [-radius, radius], shaped like `images`.

    Drawn on the generator's device and moved, so that the same generator gives the same noise on every device.
    """
    noise = torch.rand(images.shape, generator=generator, device=generator.device, dtype=images.dtype)
    return noise.mul_(2 * radius).sub_(radius).to(images.device)


def sign_noise_like(images: Tensor, generator: torch.Generator) -> Tensor:
    """sign(N(0, I)), shaped like `images`."""
    noise = torch.randn(images.shape, generator=generator, device=generator.device, dtype=images.dtype)
    return noise.sign_().to(images.device)
