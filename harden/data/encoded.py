"""Data sets of encoded pictures, in files or as bytes: what the layouts share once they know where each picture is."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import PIL

from harden.data.dataset import Entry, Format, ImageSet, Probe, Progress, Unreadable, Written, to_look_at
from harden.data.passed_over import NOTHING, PassedOver
from harden.data.pictures import Stored, decode_pictures, look
from harden.errors import DataError
from harden.stopping import ask

T = TypeVar("T")

PROBED = 64


@dataclass(frozen=True, eq=False)
class EncodedSource:
    """A `DataSource` over pictures that are decoded by the rules of `harden.data.pictures`.

    Attributes:
        location: what names the data set, with an absolute path.
        classes: class names in label order.
        listings: entries per split ("train" and, where they exist, "val" and "test") or under "all".
        stored: from an entry to its picture; it may raise OSError. Several threads call it.
        version: from entries to a text that changes whenever their pictures could (see `stamp`).
        gray_bits: of pictures with more than 8; see `harden.data.pictures`.
        passed_over: files that are not read.
        file_of: from an entry to the file that holds its picture; None: it is not known.
    """

    location: str
    classes: tuple[str, ...]
    listings: Mapping[str, tuple[Entry, ...]]
    stored: Callable[[Entry], Stored]
    version: Callable[[Sequence[Entry]], str]
    gray_bits: int | None = None
    passed_over: PassedOver = NOTHING
    file_of: Callable[[Entry], str | None] = lambda entry: None

    def probe(self) -> Probe:
        """Open up to 64 images of those that `to_look_at` returns, spread over the classes.

        Raises:
            DataError: none of them can be opened.
        """
        gray: list[bool] = []
        sizes: Counter[tuple[int, int]] = Counter()
        reasons: list[str] = []
        for entry in _spread(to_look_at(self), PROBED):
            ask()
            try:
                is_gray, size = look(self.stored, entry)
            except DataError as error:
                reasons.append(f"{entry.file}: {error.message}")
                continue
            gray.append(is_gray)
            sizes[size] += 1
        if not gray:
            raise DataError(
                f"none of {len(reasons)} image files in {self.location} can be opened; {reasons[0]}",
                hint="open one of them with an image viewer; if they are fine there, save them as 8-bit PNG or JPEG",
            )
        common = tuple(sizes.most_common())
        return Probe(channels=1 if all(gray) else 3, size=common[0][0], uniform=len(common) == 1, sizes=common)

    def decode(
        self, entries: Sequence[Entry], image_format: Format, progress: Progress | None = None
    ) -> tuple[ImageSet, tuple[Unreadable, ...]]:
        """Decode `entries` by the rules of `harden.data.pictures`; see `DataSource.decode`."""
        return decode_pictures(
            self.stored, entries, image_format, progress, where=self.location, gray_bits=self.gray_bits
        )

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """Return the version of `entries`, and the bits of gray where they are told."""
        version = self.version(entries)
        return version if self.gray_bits is None else f"{version} gray {self.gray_bits}"

    def written(self, entry: Entry) -> Written | None:
        """See `DataSource.written`."""
        file = self.file_of(entry)
        return state_of(file) if file is not None else None


def state_of(path: str) -> Written | None:
    """Return size and time of a file; None where it is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return None
    return Written(status.st_size, status.st_mtime_ns)


def stamp(paths: Iterable[str]) -> str:
    """Return a digest of every file's size, modification time and permissions, and of Pillow's version."""
    digest = hashlib.blake2b(PIL.__version__.encode(), digest_size=16)
    for path in paths:
        ask()
        try:
            status = os.stat(path)
        except OSError as error:
            digest.update(f"error {error.errno}\n".encode())
        except ValueError:  # a path with a null byte, which no file has
            digest.update(b"error\n")
        else:
            digest.update(f"{status.st_size} {status.st_mtime_ns} {status.st_mode}\n".encode())
    return digest.hexdigest()


def _spread(entries: Sequence[Entry], count: int) -> list[Entry]:
    """Return up to `count` entries, as evenly over the classes, and over each class, as the numbers allow."""
    by_label: dict[int, list[Entry]] = {}
    for entry in entries:
        by_label.setdefault(entry.label, []).append(entry)
    groups = _evenly(list(by_label.values()), count)
    share, rest = divmod(count, len(groups))
    return [entry for i, group in enumerate(groups) for entry in _evenly(group, share + (i < rest))]


def _evenly(items: Sequence[T], count: int) -> list[T]:
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
