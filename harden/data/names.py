"""What the names in a data set mean: which of them is a split, and in which order classes come."""

from __future__ import annotations

import re
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


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in label order: lexicographic, or numeric where all of them are integers."""
    distinct = set(names)
    if all(re.fullmatch("[0-9]{1,300}", name) for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def some(names: Sequence[str]) -> str:
    """Return the first ten names for a message, and how many more there are."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
