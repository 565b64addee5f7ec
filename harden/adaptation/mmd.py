"""The maximum mean discrepancy with the identity as its feature map, as ATDA uses it."""

from __future__ import annotations

from torch import Tensor


def mmd(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Return the mean absolute difference of the means of two domains (scalar; ATDA's eq. 2).

    Args:
        clean, adversarial: (N, k) float.
    """
    return (clean.mean(dim=0) - adversarial.mean(dim=0)).abs().mean()
