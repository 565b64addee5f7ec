"""Label-preserving changes of training images, drawn per image and applied to the whole batch at once.

All of them move pixels. A batch of them is a placement, which says of every pixel of the result where it comes from; so
what was computed on the moved images can be put back to where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the pixels of N moved images come from.

    Attributes:
        origin: (N, H * W) int64, the pixel that each pixel of the result shows; H * W where that lies outside.
    """

    origin: Tensor

    def moved(self, values: Tensor) -> Tensor:
        """Return `values` (N, C, H, W) moved; what comes in from outside is 0 (black)."""
        padded, origin = self._padded(values)
        return padded.gather(2, origin).view_as(values)

    def put_back(self, moved: Tensor, onto: Tensor) -> Tensor:
        """Return `onto` (N, C, H, W) with the values that `moved` shows of it in their places."""
        padded, origin = self._padded(onto)
        return padded.scatter(2, origin, moved.flatten(2))[:, :, :-1].reshape(onto.shape)

    def _padded(self, values: Tensor) -> tuple[Tensor, Tensor]:
        outside = values.new_zeros((*values.shape[:2], 1))
        origin = self.origin[:, None].to(values.device).expand(-1, values.shape[1], -1)
        return torch.cat([values.flatten(2), outside], dim=2), origin


Augmentation = Callable[[tuple[int, int, int], torch.Generator, slice], Placement | None]
"""Draws for a batch of (N, H, W) images and returns the placement of a part of them; None where all stay as they are.

It draws for the whole batch, so that an image's draws do not depend on how many processes share the batch.
"""


def flip(shape: tuple[int, int, int], generator: torch.Generator, part: slice) -> Placement:
    """Mirror each image left to right with probability one half."""
    return _placed(shape, flipped=_coins(shape[0], generator)[part])


def shift(shape: tuple[int, int, int], generator: torch.Generator, part: slice) -> Placement:
    """Move each image by up to an eighth of its height and width, as zero padding and a random crop would."""
    move_y, move_x = _moves(shape, generator)
    return _placed(shape, moves=(move_y[part], move_x[part]))


def flip_and_shift(shape: tuple[int, int, int], generator: torch.Generator, part: slice) -> Placement:
    """Mirror, then move."""
    flipped, (move_y, move_x) = _coins(shape[0], generator), _moves(shape, generator)
    return _placed(shape, flipped=flipped[part], moves=(move_y[part], move_x[part]))


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": lambda shape, generator, part: None,
    "flip": flip,
    "shift": shift,
    "flip+shift": flip_and_shift,
}
"""Augmentations by name."""


def _coins(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < 0.5


def _moves(shape: tuple[int, int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    count, height, width = shape
    reach_y, reach_x = max(1, height // 8), max(1, width // 8)
    move_y = torch.randint(-reach_y, reach_y + 1, (count, 1), generator=generator)
    move_x = torch.randint(-reach_x, reach_x + 1, (count, 1), generator=generator)
    return move_y, move_x


def _placed(
    shape: tuple[int, int, int], *, flipped: Tensor | None = None, moves: tuple[Tensor, Tensor] | None = None
) -> Placement:
    _, height, width = shape
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    if moves is not None:
        rows, columns = rows + moves[0], columns + moves[1]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    if flipped is not None:
        columns = torch.where(flipped[:, None], width - 1 - columns, columns)
    origin = rows[:, :, None] * width + columns[:, None, :]
    return Placement(torch.where(inside, origin, height * width).flatten(1))
