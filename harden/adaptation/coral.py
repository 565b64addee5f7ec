"""CORAL (Sun et al., 2016), as ATDA uses it: the distance between the covariances of two domains."""

from __future__ import annotations

from torch import Tensor


def coral(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Return the mean absolute difference of the two covariance matrices (scalar).

    ATDA's eq. 3 divides the l_1 norm by k^2, which is that mean. Its public code leaves the scatter matrices
    unnormalised, so that the term grows with the batch; here they are covariances, as in the paper.

    Args:
        clean, adversarial: (N, k) float; N is at least 2, or the covariances are 0.
    """
    return (_covariance(clean) - _covariance(adversarial)).abs().mean()


def _covariance(values: Tensor) -> Tensor:
    centred = values - values.mean(dim=0)
    return centred.T @ centred / max(1, len(values) - 1)
