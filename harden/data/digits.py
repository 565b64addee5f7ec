"""scikit-learn's handwritten digits (1797 gray images of 8x8 pixels), which need no download: demo and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from PIL import Image

from harden.data.dataset import Entry, Format, ImageSet, Probe, Progress, Unreadable
from harden.data.pictures import Pixels, fit
from harden.errors import DataError, UsageError
from harden.registry import did_you_mean

SIZE = (8, 8)


@dataclass(frozen=True, eq=False)
class DigitsSource:
    """A `DataSource` over `sklearn.datasets.load_digits`; `open_digits` makes one.

    Attributes:
        pixels: (N, 8, 8) uint8; scikit-learn's 0..16 scaled to 0..255.
        listings: every image under "all", named digit-00000, digit-00001, ... in scikit-learn's order.
    """

    pixels: Pixels
    listings: Mapping[str, tuple[Entry, ...]]

    @property
    def location(self) -> str:
        """The spec that names this data set."""
        return "sklearn:digits"

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names "0" to "9"."""
        return tuple("0123456789")

    def probe(self) -> Probe:
        """Return what is known of the digits: gray, all of them 8x8."""
        return Probe(channels=1, size=SIZE, uniform=True)

    def decode(
        self, entries: Sequence[Entry], image_format: Format, progress: Progress | None = None
    ) -> tuple[ImageSet, tuple[Unreadable, ...]]:
        """Return the images of `entries`, resized and repeated over channels as asked; see `DataSource.decode`."""
        index_of = {entry.file: index for index, entry in enumerate(self.listings["all"])}
        known = [entry for entry in entries if entry.file in index_of]
        if entries and not known:
            raise DataError(f"none of the {len(entries)} files is one of {self.location}")
        images = np.empty((len(known), image_format.channels, *image_format.size), dtype=np.uint8)
        for row, entry in enumerate(known):
            images[row] = fit(Image.fromarray(self.pixels[index_of[entry.file]]), image_format)
        if progress is not None:
            progress(len(entries), len(entries))
        unknown = tuple(
            Unreadable(entry.file, f"no such image in {self.location}")
            for entry in entries
            if entry.file not in index_of
        )
        labels = torch.tensor([entry.label for entry in known], dtype=torch.int64)
        return ImageSet(torch.from_numpy(images), labels, tuple(entry.file for entry in known)), unknown

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """Return scikit-learn's version: the digits are part of it."""
        return f"scikit-learn {version('scikit-learn')}"


def open_digits(name: str) -> DigitsSource:
    """Load the data set `name` of scikit-learn; "digits" is the only one of images.

    Raises:
        UsageError: another name.
    """
    if name != "digits":
        raise UsageError(
            f"unknown scikit-learn data set {name!r}{did_you_mean(name, ['digits'])}", hint="known: sklearn:digits"
        )
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    entries = tuple(Entry(f"digit-{index:05d}", int(label)) for index, label in enumerate(digits.target))
    return DigitsSource(pixels, {"all": entries})
