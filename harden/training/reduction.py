"""What the processes of a run add up once each has been through its part of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harden.distributed import Processes
from harden.training.sharding import is_part


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, processes: Processes, count: int) -> Tensor:
        ctx.processes = processes
        processes.agree_on_memory()
        return processes.whole(own, count)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        ctx.processes.agree_on_memory()
        whole = ctx.processes.sum(gradient.clone(memory_format=torch.contiguous_format))
        return whole[ctx.processes.part(len(whole))], None, None


class Reduction:
    """Turns what every process has found on its part of a batch into what one would have found on all of it.

    Gradients and scalars are of means over samples, weighted by the share of the batch that they are means of; so they
    add up. A buffer of the network that a forward pass moves (running statistics of BatchNorm) moves by the mean of its
    moves: the running mean is that of the batch, the running variance that within the parts. Where parameters got no
    gradient in any process they have none, as in one process; only where some got none in this one is that looked up.
    Gradients of sharded parameters are sums already.

    Args:
        processes: all of them have the same parameters and buffers.
        network: in training.
        defence: with what it trains besides.
    """

    def __init__(self, processes: Processes, network: nn.Module, defence: nn.Module) -> None:
        self._processes = processes
        trained = [p for module in (network, defence) for p in module.parameters() if p.requires_grad]
        self._parameters = [p for p in trained if not is_part(p)]
        self._buffers = [*network.buffers(), *defence.buffers()]
        self._statistics = [place for place, b in enumerate(network.buffers()) if b.is_floating_point()]
        self._device = trained[0].device
        self._before: list[Tensor] = []
        self._count = 0

    def gather(self, own: Tensor) -> Tensor:
        """Return the values (N, ...) of all images of the batch from those (n, ...) of this process's part.

        In the backward pass every process gets the sum of the gradients that all of them have for its own.
        """
        if self._processes.size == 1:
            return own
        whole: Tensor = _Gather.apply(own, self._processes, self._count)  # type: ignore[no-untyped-call]
        return whole

    def begin(self, count: int) -> None:
        """Remember the buffers, before the forward pass of a batch of `count` images."""
        self._count = count
        self._before = []  # where memory runs out in the next line there is nothing to undo
        self._before = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def undo(self) -> None:
        """Give the buffers of network and defence the values that they had at `begin`, where a step has failed.

        Some processes may have been through more of it than others, and all of them will see its images once more.
        """
        for buffer, before in zip(self._buffers, self._before, strict=False):
            if not torch.equal(buffer, before):  # what nobody moves may be a view that cannot be written to
                buffer.copy_(before)

    @torch.no_grad()
    def add_up(self, scalars: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
        """Sum gradients (of a loss that was weighted), moves of buffers and `scalars`; return the scalars of the batch.

        Args:
            scalars: means over this process's samples.
            weight: its share of the samples.
        """
        if self._processes.size == 1:
            return dict(scalars)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        moves = [(self._buffers[place] - self._before[place]) * weight for place in self._statistics]
        sums = {name: (value * weight).float() for name, value in scalars.items()}
        has = torch.tensor([float(p.grad is not None) for p in self._parameters], device=self._device)
        self._processes.sum_all([*gradients, *moves, *sums.values(), has])
        for place, move in zip(self._statistics, moves, strict=True):
            self._buffers[place].copy_(self._before[place] + move)
        for index, parameter in enumerate(self._parameters):
            if parameter.grad is None and has[index] > 0:
                parameter.grad = gradients[index]
        return sums
