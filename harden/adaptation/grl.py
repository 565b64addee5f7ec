"""The gradient reversal layer (Ganin and Lempitsky, 2015)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * -ctx.strength, None


def reverse_gradient(values: Tensor, strength: float) -> Tensor:
    """Return `values` unchanged; in the backward pass the gradient is multiplied by `-strength`.

    Whatever comes after still gets its full gradient: with a discriminator behind it, `strength` is beta (features) or
    gamma (logits) of the paper's eq. 7 while the discriminator itself trains at full strength.

    Args:
        values: any shape, float.
        strength: not negative; 0 lets nothing through.
    """
    result: Tensor = _Reverse.apply(values, strength)  # type: ignore[no-untyped-call]
    return result
