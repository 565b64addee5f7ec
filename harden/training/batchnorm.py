"""BatchNorm over the images of all processes, not over those of each: a part of a small batch has noisy statistics.

Torch's SyncBatchNorm replaces modules of its own kind and works on GPUs only. Here the function that normalises is
replaced meanwhile, so that the layers of any library stay what they are, on any device. A network that calls it by
another name than `torch.nn.functional.batch_norm`, as TorchScript does, keeps to its own images.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from harden.distributed import Processes

_OF_ONE_PROCESS = F.batch_norm


class SyncedBatchNorm(AbstractContextManager[None]):
    """A context manager in which BatchNorm that normalises a batch by its own statistics takes those of all processes.

    All processes pass parts of one batch through the same network meanwhile, forward and backward; a part may be empty.
    What normalises by running statistics, as in eval mode, stays alone. Passes of a block that runs again in backward
    (`recomputing`) take part. Once differentiable.

    Args:
        processes: that each have a part of the batch.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def __enter__(self) -> None:
        # For all threads of this process: backward passes on a GPU run blocks again in another one.
        F.batch_norm = self._batch_norm

    def __exit__(self, *failure: object) -> None:
        F.batch_norm = _OF_ONE_PROCESS

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return _OF_ONE_PROCESS(input, running_mean, running_var, weight, bias, False, momentum, eps)
        values = input if input.dtype == torch.float64 else input.float()  # what autocast gives a layer may be coarser
        mean, variance, count = self._statistics(values.detach())
        # A process with more values than one need not wait for the device to know that there are enough.
        if values.numel() <= values.shape[1] and count.item() <= 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.shape}")
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
        scale = torch.rsqrt(variance + eps)
        normalised: Tensor = _Normalise.apply(values, mean, scale, count, self._processes)  # type: ignore[no-untyped-call]
        if weight is not None:
            normalised = normalised * _per_channel(weight.to(values.dtype), values)
        if bias is not None:
            normalised = normalised + _per_channel(bias.to(values.dtype), values)
        return normalised.to(input.dtype)

    def _statistics(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and biased variance (C,) over all processes, and how many values () of a channel they are of.

        Each process's own mean and squares around it, put together as by Chan, Golub and LeVeque (1979): sums of
        squares around 0 would lose the variance of channels whose mean is large.
        """
        channels, own = values.shape[1], values.numel() // values.shape[1]
        told = values.new_zeros((self._processes.size, 2 * channels + 1))
        if own:
            variance, mean = torch.var_mean(values, dim=_but_channels(values), correction=0)
            told[self._processes.rank] = torch.cat([mean, variance * own, mean.new_tensor([own])])
        self._processes.agree_on_memory()
        means, squares, counts = torch.split(self._processes.sum(told), [channels, channels, 1], dim=1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        squares = (squares + counts * (means - mean).square()).sum(0)
        return mean, squares / count, count


class _Normalise(torch.autograd.Function):
    """(x - mean) * scale, where mean and scale are statistics of the x of all processes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, mean: Tensor, scale: Tensor, count: Tensor, processes: Processes) -> Tensor:
        normalised = (values - _per_channel(mean, values)) * _per_channel(scale, values)
        ctx.save_for_backward(normalised, scale, count)
        ctx.processes = processes
        return normalised

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        normalised, scale, count = ctx.saved_tensors
        over = _but_channels(gradient)
        sums = torch.cat([gradient.sum(over), (gradient * normalised).sum(over)])
        ctx.processes.agree_on_memory()
        plain, along = (ctx.processes.sum(sums) / count).chunk(2)
        found = gradient - _per_channel(plain, gradient) - normalised * _per_channel(along, gradient)
        return found * _per_channel(scale, gradient), None, None, None, None


def _but_channels(values: Tensor) -> list[int]:
    return [dim for dim in range(values.ndim) if dim != 1]


def _per_channel(vector: Tensor, values: Tensor) -> Tensor:
    return vector.view(1, -1, *[1] * (values.ndim - 2))
