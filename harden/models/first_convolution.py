"""The gradient to the images through a first convolution, by columns: on CPUs some four times as fast as torch's own.

Only where it was faster (tests/benchmarks/README.md): one input channel, or patches that do not overlap.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW = 4
"""Input channels of a convolution into patches that is a first one."""


def by_columns(module: nn.Module) -> list[nn.Conv2d]:
    """Let the first convolutions in a module return the gradient to their input by columns; return those changed.

    `by_library` undoes it. Results are the same bit for bit, and gradients to the weights are the library's.
    """
    found = [m for m in module.modules() if type(m) is nn.Conv2d and _faster(m) and "forward" not in m.__dict__]
    for m in found:
        m.forward = partial(_convolve, m)  # type: ignore[method-assign]
    return found


def by_library(changed: list[nn.Conv2d]) -> None:
    """Undo `by_columns`."""
    for m in changed:
        del m.__dict__["forward"]


def convolved(m: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what a convolution makes of images with a weight and a bias in the place of its own.

    Those get no gradient, and that to the images is computed by columns where it is faster.
    """
    if _faster(m) and not _plain(images):
        result: Tensor = _ByColumns.apply(images, weight, bias, m)  # type: ignore[no-untyped-call]
        return result
    return m._conv_forward(images, weight, bias)  # type: ignore[no-any-return]


def _faster(m: nn.Conv2d) -> bool:
    if m.groups > 1 or m.padding_mode != "zeros" or isinstance(m.padding, str):
        return False
    patches = m.kernel_size == m.stride and m.padding == (0, 0) and m.dilation == (1, 1)
    return m.in_channels == 1 or (patches and m.in_channels <= _FEW)


def _plain(images: Tensor) -> bool:
    alike = images.device.type == "cpu" and images.dtype == torch.float32 and images.ndim == 4
    return not alike or not images.requires_grad


def _convolve(m: nn.Conv2d, images: Tensor) -> Tensor:
    if _plain(images):
        return nn.Conv2d.forward(m, images)
    weight, bias = m.weight.detach(), m.bias.detach() if m.bias is not None else None
    result: Tensor = _ByColumns.apply(images, weight, bias, m)  # type: ignore[no-untyped-call]
    if m.weight.requires_grad or (m.bias is not None and m.bias.requires_grad):
        result = result + _OfWeights.apply(m.weight, m.bias, images.detach(), result.detach(), m)  # type: ignore[no-untyped-call]
    return result


class _ByColumns(torch.autograd.Function):
    """A convolution of (N, C, H, W) whose input gradient is a product with the weights (the columns), then folded."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, m: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.layer = images.shape[2:], m
        return F.conv2d(images, weight, bias, m.stride, m.padding, m.dilation)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        m = ctx.layer
        rows = slope.permute(0, 2, 3, 1).flatten(1, 2)
        columns = (rows @ weight.flatten(1)).transpose(1, 2)
        return F.fold(columns, ctx.size, m.kernel_size, m.dilation, m.padding, m.stride), None, None, None


class _OfWeights(torch.autograd.Function):
    """Zeros whose gradients to weights and bias are those of the convolution.

    A node of its own: autograd then computes the gradient to the images and that to the weights each only where it is
    asked for, which one node of Python would not know.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, images: Tensor, result: Tensor, m: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(weight, images)
        ctx.layer = m
        return result.new_zeros(()).expand_as(result)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, images = ctx.saved_tensors
        m: nn.Conv2d = ctx.layer
        sizes, wanted = [m.out_channels], [False, *ctx.needs_input_grad[:2]]
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            slope, images, weight, sizes, m.stride, m.padding, m.dilation, False, [0, 0], m.groups, wanted
        )
        return of_weight, of_bias, None, None, None
