"""The last perturbation of every training image, which a crafter that remembers goes on from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harden.errors import UsageError
from harden.training.augment import Placement

LEVELS = 127
"""A pixel is kept in steps of eps / 127; sign steps of half an eps hardly need any."""
LARGEST = 2 * 1024**3
"""Bytes; a checkpoint holds as many."""


class Perturbations:
    """One perturbation for each of N images, in units of eps, so that they grow with it while it is ramped up.

    Args:
        shape: (N, C, H, W) of the training images.
        device: where they are kept: that of the network, so that no step waits for the host.

    Raises:
        UsageError: more than `LARGEST` bytes would be needed.
    """

    def __init__(self, shape: Sequence[int], device: torch.device | None = None) -> None:
        needed = memory_needed(shape)
        if needed > LARGEST:
            raise UsageError(
                f"fgsm-ep would have to remember {needed / 1024**3:.1f} GiB of perturbations",
                hint="take --source-attack nfgsm or fgsm, or a smaller --image-size",
            )
        self.levels = torch.zeros(tuple(shape), dtype=torch.int8, device=device)

    def forget(self) -> None:
        """Forget all: what was found on a network that was rolled back is no start for another."""
        self.levels.zero_()

    def recall(self, rows: Tensor, eps: float, placement: Placement | None) -> Tensor:
        """Return the perturbations (n, C, H, W) of `rows`, moved as their images are; 0 for images not yet seen."""
        last = self.levels[rows.to(self.levels.device)].float() * (eps / LEVELS)
        return last if placement is None else placement.moved(last)

    def keep(self, rows: Tensor, perturbations: Tensor, eps: float, placement: Placement | None) -> None:
        """Remember `perturbations` (n, C, H, W) of the moved images; pixels that moved out keep what they had."""
        if eps == 0:
            return
        rows = rows.to(self.levels.device)
        levels = (perturbations * (LEVELS / eps)).round().clamp(-LEVELS, LEVELS).to(torch.int8)
        self.levels[rows] = levels if placement is None else placement.put_back(levels, self.levels[rows])


def memory_needed(shape: Sequence[int]) -> int:
    """Return the bytes that the perturbations of images (N, C, H, W) take."""
    return int(torch.Size(shape).numel())
