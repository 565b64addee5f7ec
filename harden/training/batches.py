"""Which training images go into which step."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from harden.errors import UsageError
from harden.randomness import stream

FEWEST_IMAGES = 2
"""BatchNorm learns nothing from one image."""


class Batches:
    """The images of every epoch in a shuffled order, in steps of equal size; what is left over waits for another pass.

    Args:
        images: number of training images.
        size: images of a step; all of them where there are no more.
        parts: of a pass over the images that are an epoch each.
        seed: of the order.
        processes: that share the images of a step; each gets `FEWEST_IMAGES` at least.

    Attributes:
        size: images of a step.

    Raises:
        UsageError: there are too few for so many processes.
    """

    def __init__(self, images: int, size: int, parts: int, seed: int, processes: int = 1) -> None:
        self.size = min(size, images)
        self._fewest = FEWEST_IMAGES * processes
        if processes > 1 and self.size < self._fewest:
            raise UsageError(
                f"{processes} processes cannot share a step of {self.size} images: each needs {FEWEST_IMAGES}",
                hint=f"--batch-size {self._fewest} or more, or fewer processes",
            )
        self._processes = processes
        self._images, self._parts, self._seed = images, parts, seed
        self._per_epoch = max(1, images // self.size // parts) * self.size

    def go_on_with(self, size: int) -> None:
        """Take steps of `size` images, as a run that is resumed took them at the end.

        Raises:
            UsageError: there are more processes now than these can be shared by.
        """
        if self._processes > 1 and size < self._fewest:
            raise UsageError(
                f"{self._processes} processes cannot share a step of {size} images, as few as this run takes since "
                f"memory ran out: each needs {FEWEST_IMAGES}",
                hint=f"--processes {max(1, size // FEWEST_IMAGES)} or fewer",
            )
        self.size = size

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self._per_epoch // self.size

    def order(self, epoch: int) -> Tensor:
        """Return the rows of an epoch, and of those after it in the same pass: step i takes the i-th `size` of them."""
        number, part = divmod(epoch, self._parts)
        order = torch.randperm(self._images, generator=stream(self._seed, "order", number))
        return order[part * self._per_epoch :]

    def halve(self) -> bool:
        """Make the steps half as large; false where they are too small for that."""
        if self.size < 2 * self._fewest:
            return False
        self.size //= 2
        return True


def parts_of(own: slice, count: int, smallest: int | None = None) -> tuple[slice, ...]:
    """Return `own` images of a batch in at most `count` parts that differ by one, each of `FEWEST_IMAGES` at least.

    Args:
        own: the images of this process.
        count: how many parts are wanted.
        smallest: images of the process that has the fewest, so that all have as many parts; None: there is one process.
    """
    images = own.stop - own.start
    count = max(1, min(count, (images if smallest is None else smallest) // FEWEST_IMAGES))
    ends = [own.start + images * n // count for n in range(count + 1)]
    return tuple(slice(start, stop) for start, stop in itertools.pairwise(ends))
