"""What the names in a data set mean: which is a split, which a system wrote, and in which order classes come."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Name in lower case -> split."""

_OF_SYSTEMS = frozenset(
    {
        *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "lost+found", "$recycle.bin"),
        *("system volume information", "network trash folder", "_vti_cnf", "_vti_pvt", "__pycache__"),
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "#recycle", "#snapshot"),
    }
)
"""Names in lower case of what operating systems and network storage write among other people's files."""


def is_visible(name: str) -> bool:
    """Whether a file or folder may be part of a data set: it is neither hidden nor written by a system."""
    return not name.startswith(".") and name.lower() not in _OF_SYSTEMS


def composed(name: str) -> str:
    """Return a name in Unicode's form NFC; file systems and tables write the same name in NFC or in NFD."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in label order: lexicographic, or numeric where all of them are integers."""
    distinct = set(names)
    if all(re.fullmatch("[0-9]{1,300}", name) for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def some(names: Sequence[str]) -> str:
    """Return the first ten names for a message, and how many more there are."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
