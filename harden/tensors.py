"""Small functions of tensors that several layers need."""

from __future__ import annotations

import torch
from torch import Tensor


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `values` (N,) so that it broadcasts over `like` (N, ...)."""
    return values.view(-1, *([1] * (like.ndim - 1)))


def margins(scores: Tensor, labels: Tensor) -> Tensor:
    """Return `scores[label] - best other score`, (N,): positive where the prediction is right.

    Args:
        scores: (N, K) float.
        labels: (N,) int64 in [0, K).
    """
    own = scores.gather(1, labels[:, None]).squeeze(1)
    others = scores.scatter(1, labels[:, None], float("-inf"))
    return own - others.amax(dim=1)


def as_float_images(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]; uint8 images are divided by 255."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()
