"""Data sets that a library holds as numbered images: what they share once the library is asked for one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from harden.data.dataset import Entry, Format, ImageSet, Probe, Progress, Unreadable, Written
from harden.data.encoded import state_of
from harden.data.passed_over import NOTHING, PassedOver
from harden.data.pictures import fit
from harden.errors import DataError
from harden.stopping import ask

TOLD_EVERY = 500
"""Images between two reports of progress."""


@dataclass(frozen=True, eq=False)
class IndexedSource:
    """A `DataSource` over images with numbers.

    Attributes:
        location: the spec that names this data set.
        classes: class names in label order.
        listings: entries per split, or under "all", in the library's order.
        picture: from a split and a number to the image.
        version: of what holds the images; it changes whenever their pixels could.
        known: what the images are like; None: a few are looked at.
        passed_over: what else there is and is not read.
        file: that holds all images; None: it is not known.
    """

    location: str
    classes: tuple[str, ...]
    listings: Mapping[str, tuple[Entry, ...]]
    picture: Callable[[str, int], Image.Image]
    version: str
    known: Probe | None = None
    passed_over: PassedOver = NOTHING
    file: str | None = None

    def probe(self) -> Probe:
        """Say what the images are like; where it is not known, from some of the first split."""
        if self.known is not None:
            return self.known
        split = next(iter(self.listings))
        numbers = range(0, len(self.listings[split]), max(1, len(self.listings[split]) // 32))
        images = [self.picture(split, number) for number in numbers]
        sizes = [(image.height, image.width) for image in images]
        common = tuple(Counter(sizes).most_common())
        gray = all(image.mode in ("L", "1") for image in images)
        return Probe(channels=1 if gray else 3, size=common[0][0], uniform=len(common) == 1, sizes=common)

    def decode(
        self, entries: Sequence[Entry], image_format: Format, progress: Progress | None = None
    ) -> tuple[ImageSet, tuple[Unreadable, ...]]:
        """Return the images of `entries`, resized and with channels as asked; see `DataSource.decode`."""
        place = {e.file: (split, number) for split, listed in self.listings.items() for number, e in enumerate(listed)}
        known = [entry for entry in entries if entry.file in place]
        if entries and not known:
            raise DataError(f"none of the {len(entries)} files is one of {self.location}")
        images = np.empty((len(known), image_format.channels, *image_format.size), dtype=np.uint8)
        damaged = {}
        for row, entry in enumerate(known):
            ask()
            try:
                images[row] = fit(self.picture(*place[entry.file]), image_format)
            except (OSError, ValueError, SyntaxError) as error:  # Pillow's, for files that are none or cut off
                damaged[row] = Unreadable(entry.file, f"{type(error).__name__}: {str(error)[:100]}")
            if progress is not None and (row + 1) % TOLD_EVERY == 0:
                progress(row + 1, len(entries))
        if progress is not None:
            progress(len(entries), len(entries))
        unknown = [Unreadable(e.file, f"no such image in {self.location}") for e in entries if e.file not in place]
        rows = [row for row in range(len(known)) if row not in damaged]
        if known and not rows:
            raise DataError(f"none of the {len(known)} images of {self.location} can be read: {damaged[0].reason}")
        kept = images if len(rows) == len(known) else images[rows]
        labels = torch.tensor([known[row].label for row in rows], dtype=torch.int64)
        files = tuple(known[row].file for row in rows)
        return ImageSet(torch.from_numpy(kept), labels, files), (*damaged.values(), *unknown)

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """Return the version: the images are part of what has it."""
        return self.version

    def written(self, entry: Entry) -> Written | None:
        """See `DataSource.written`."""
        return state_of(self.file) if self.file is not None else None
