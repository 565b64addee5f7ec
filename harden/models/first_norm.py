"""What the first BatchNorm of a network remembers of its inputs in training, against what it gets now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class FirstNorm:
    """The inputs of the BatchNorm that is called first, summed up over forward passes in eval mode."""

    def __init__(self) -> None:
        self._norm: _BatchNorm | None = None
        self._count = 0
        self._sum = torch.zeros(())
        self._squares = torch.zeros(())

    def see(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Add the inputs of one call; a forward hook."""
        assert isinstance(norm, _BatchNorm)
        if self._norm is None:
            self._norm = norm
        if norm is self._norm:
            values = inputs[0].detach().float().transpose(0, 1).flatten(1).cpu().double()
            self._count += values.shape[1]
            self._sum = self._sum + values.sum(1)
            self._squares = self._squares + values.square().sum(1)

    def divergence(self) -> float | None:
        """Return the Kullback-Leibler divergence of what it got from what it remembers.

        Both are taken for normal distributions, channel by channel; the mean over channels, in nats. None if no
        BatchNorm with running statistics was called.
        """
        if self._norm is None or self._norm.running_mean is None or self._norm.running_var is None:
            return None
        mean = self._sum / self._count
        variance = (self._squares / self._count - mean.square()).clamp_min(0) + self._norm.eps
        known = self._norm.running_var.detach().cpu().double() + self._norm.eps
        shift = (mean - self._norm.running_mean.detach().cpu().double()).square() / known
        return float((variance / known + shift - 1 - (variance / known).log()).mean() / 2)


@contextmanager
def watching_first_norm(module: nn.Module, first: FirstNorm | None = None) -> Iterator[FirstNorm]:
    """Let `first`, or else a new one, see every forward pass of `module`; nothing stays on the module."""
    first = first or FirstNorm()
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    handles = [norm.register_forward_pre_hook(first.see) for norm in norms]
    try:
        yield first
    finally:
        for handle in handles:
            handle.remove()
