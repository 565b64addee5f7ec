"""Label-preserving changes of training images, drawn per image and applied to the whole batch at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image (N, C, H, W) left to right with probability one half."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), images.flip(3), images)


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image (N, C, H, W) by up to an eighth of its height and width; what moves in is black.

    The same as zero padding and a random crop, done with one gather.
    """
    count, channels, height, width = images.shape
    reach_y, reach_x = max(1, height // 8), max(1, width // 8)
    move_y = torch.randint(-reach_y, reach_y + 1, (count, 1), generator=generator)
    move_x = torch.randint(-reach_x, reach_x + 1, (count, 1), generator=generator)
    rows, columns = torch.arange(height) + move_y, torch.arange(width) + move_x
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    flat = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    index = flat.view(count, 1, -1).expand(-1, channels, -1).to(images.device)
    moved = images.flatten(2).gather(2, index).view_as(images)
    return moved * inside[:, None].to(moved)


def _flip_and_shift(images: Tensor, generator: torch.Generator) -> Tensor:
    return shift(flip(images, generator), generator)


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda images, generator: images,
    "flip": flip,
    "shift": shift,
    "flip+shift": _flip_and_shift,
}
"""Augmentations by name."""
