"""What a data set is to the rest of the program: entries that can be listed at once and decoded when needed.

Listing never opens an image, so that a test split can be known about without being read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harden.data.passed_over import PassedOver
from harden.tensors import as_float_images

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One labelled image: `file` is a POSIX path relative to the data set's root, `label` its class index."""

    file: str
    label: int


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Decoded images.

    Attributes:
        images: (N, C, H, W) uint8, C is 1 (gray) or 3 (RGB).
        labels: (N,) int64 in [0, K).
        files: N relative POSIX paths, in the same order.
    """

    images: Tensor
    labels: Tensor
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return `(images, labels)` at `indices`: (n, C, H, W) float32 in [0, 1] and (n,) int64."""
        return as_float_images(self.images[indices]), self.labels[indices]

    def subset(self, indices: Tensor) -> ImageSet:
        """Return the images at `indices` (int64) as a set of their own, in that order."""
        return ImageSet(self.images[indices], self.labels[indices], tuple(self.files[i] for i in indices.tolist()))

    def relabelled(self, mapping: Sequence[int]) -> ImageSet:
        """Return the same images with every label k replaced by `mapping[k]`."""
        return ImageSet(self.images, torch.tensor(mapping)[self.labels], self.files)


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be decoded, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Format:
    """How images are decoded: `channels` 1 or 3, and `size` (height, width) in pixels."""

    channels: int
    size: tuple[int, int]


@dataclass(frozen=True)
class Probe:
    """What a look at a few images found.

    Attributes:
        channels: 1 if every probed image is gray, else 3.
        size: the commonest (height, width).
        uniform: whether every probed image has that size.
        sizes: (size, how many of the probed images have it), the commonest first.
    """

    channels: int
    size: tuple[int, int]
    uniform: bool
    sizes: tuple[tuple[tuple[int, int], int], ...] = ()


@dataclass(frozen=True)
class Written:
    """The state of the file that holds an image: `size` in bytes, and `modified`, in ns since 1970."""

    size: int
    modified: int


class DataSource(Protocol):
    """A data set as a layout found it.

    Attributes:
        location: what the user typed, with every path in it made absolute; it opens the same data set again.
        classes: class names in label order.
        listings: entries per split; the keys are a subset of "train", "val", "test", or "all" alone where the data
            has no splits of its own.
        passed_over: files in the data set's place that are not read.
    """

    @property
    def location(self) -> str:
        """Where the data set is."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        ...

    @property
    def listings(self) -> Mapping[str, tuple[Entry, ...]]:
        """Entries per split."""
        ...

    @property
    def passed_over(self) -> PassedOver:
        """Files that are not read."""
        ...

    def probe(self) -> Probe:
        """Look at a few of the images that `to_look_at` returns and say what they are like.

        Raises:
            DataError: none of the images looked at could be opened.
        """
        ...

    def decode(
        self, entries: Sequence[Entry], image_format: Format, progress: Progress | None = None
    ) -> tuple[ImageSet, tuple[Unreadable, ...]]:
        """Decode `entries` in order; unreadable ones are left out of the set and listed instead.

        Raises:
            DataError: not one of the entries could be decoded.
        """
        ...

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """Return a text that changes whenever decoding `entries` could give other pixels (it reads no pixel)."""
        ...

    def written(self, entry: Entry) -> Written | None:
        """Return the state of the file that holds the image of `entry`; None where it is gone or there is none."""
        ...


def to_look_at(source: DataSource) -> tuple[Entry, ...]:
    """Return the images that may be looked at before an audit; those of a test split only where there are no others."""
    return next(source.listings[split] for split in ("train", "all", "val", "test") if split in source.listings)
