"""What a data set does not read of the files in its place: counted by suffix and folder, and said in a line."""

from __future__ import annotations

import mimetypes
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from harden.data.names import SPLIT_NAMES

NAMED = 3
"""Suffixes and folders that a sentence names."""

_RAW_SUFFIXES = frozenset({".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".avif"})
"""Of images, as far as `mimetypes` may not know them."""


class Why(StrEnum):
    """Why a file is not read."""

    HIDDEN = "hidden files, or written by a system"
    NO_IMAGE = "no images"
    OTHER_FORMAT = "images of a format that is not read"
    OUTSIDE = "images outside the class folders"


@dataclass(frozen=True, order=True)
class Group:
    """Files that are passed over for one reason.

    Attributes:
        why: the reason.
        folder: relative POSIX path from the data set's place, or the name of the archive; "." is that place itself.
        suffix: in lower case, with the dot; "" for none.
        count: how many.
    """

    why: Why
    folder: str
    suffix: str
    count: int


@dataclass(frozen=True)
class PassedOver:
    """All files that a data set passes over."""

    groups: tuple[Group, ...] = ()

    @classmethod
    def of(cls, files: Iterable[tuple[Why, str, str]]) -> PassedOver:
        """Count (reason, folder, suffix) of every file."""
        return cls(tuple(sorted(Group(*kind, count) for kind, count in Counter(files).items())))

    @property
    def count(self) -> int:
        """Of all files."""
        return sum(group.count for group in self.groups)

    def because(self, why: Why) -> PassedOver:
        """Return those of one reason."""
        return PassedOver(tuple(group for group in self.groups if group.why is why))

    def by(self, key: Callable[[Group], str]) -> dict[str, int]:
        """Return counts by folder, suffix or what else `key` says of a group, the largest first."""
        counts: Counter[str] = Counter()
        for group in self.groups:
            counts[key(group)] += group.count
        return dict(counts.most_common())

    def to_json(self) -> dict[str, Any]:
        """Return the counts, by reason, suffix and folder."""
        return {
            "files": self.count,
            "by_reason": self.by(lambda group: group.why.name.lower()),
            "by_suffix": self.by(lambda group: group.suffix),
            "by_folder": self.by(lambda group: group.folder),
        }

    def sentences(self) -> tuple[str, ...]:
        """Return a line for each reason, without those that matter to the result (`warnings`)."""
        return tuple(
            f"{_files(found.count)} passed over ({why}): {_told(found)}"
            for why in (Why.HIDDEN, Why.NO_IMAGE)
            if (found := self.because(why)).count
        )

    def warnings(self) -> tuple[str, ...]:
        """Return a line for each reason that may be a mistake, with the repair."""
        lines = []
        if (found := self.because(Why.OTHER_FORMAT)).count:
            lines.append(f"{_files(found.count)} not read ({found.groups[0].why}): {_told(found)}; save them as PNG")
        outside = self.because(Why.OUTSIDE)
        held_out = [group for group in outside.groups if _split_of(group.folder) is not None]
        for folder in dict.fromkeys(group.folder for group in held_out):
            count = sum(group.count for group in held_out if group.folder == folder)
            split = _split_of(folder)
            lines.append(
                f"the {count} images in {folder} lie in no class folder, so nothing says their classes: they are not "
                f"used, and {split} images are taken from the others; sort them into {folder}/<class>/, or list all "
                "images in a CSV file of path,label,split"
            )
        if (found := PassedOver(tuple(group for group in outside.groups if group not in held_out))).count:
            lines.append(
                f"{_files(found.count)} not used ({Why.OUTSIDE}): {_told(found)}; move them into class folders if they "
                "belong to the data"
            )
        return tuple(lines)


NOTHING = PassedOver()


def reason_for(suffix: str) -> Why:
    """Return why a file of this suffix (lower case, with the dot), which is not read, is none of the images."""
    kind, _ = mimetypes.guess_type(f"file{suffix}")
    is_image = suffix in _RAW_SUFFIXES or (kind or "").startswith("image/")
    return Why.OTHER_FORMAT if is_image else Why.NO_IMAGE


def _split_of(folder: str) -> str | None:
    return SPLIT_NAMES.get(folder.lower())


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"


def _told(found: PassedOver) -> str:
    suffixes = found.by(lambda group: group.suffix or "without suffix")
    return f"{_some([f'{count} {suffix}' for suffix, count in suffixes.items()])} in " + _some(
        list(found.by(lambda group: group.folder)), "folder"
    )


def _some(items: list[str], what: str = "kind") -> str:
    left = len(items) - NAMED
    more = f" and {left} more {what}{'' if left == 1 else 's'}" if left > 0 else ""
    return ", ".join(items[:NAMED]) + more
