"""Rows that name an image, its class and perhaps its split: what layouts share whose labels lie beside the images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harden.data.dataset import Entry
from harden.data.names import SPLIT_NAMES, in_order, some
from harden.errors import DataError
from harden.registry import did_you_mean
from harden.stopping import ask

Listings = dict[str, tuple[Entry, ...]]


@dataclass(frozen=True, slots=True)
class Row:
    """One image as the data set names it.

    Attributes:
        file: what its entry will be called.
        name: of its class.
        split: the name of its split; None: no split is named.
        where: the place of the row in the data set, for messages.
    """

    file: str
    name: str
    split: str | None
    where: str


def list_rows(
    rows: Iterable[Row], source: str, classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Listings]:
    """Return the classes, and the entries per split or under "all", ordered by class and then by file.

    Args:
        rows: one for each image.
        source: what the rows are of, for messages.
        classes: class names in label order, where the data set has an order; otherwise that of `in_order`.

    Raises:
        DataError: no rows, an image that is named twice, an unknown split or one without a name beside others, no
            train split, fewer than two classes, a class without images, or one that train does not know.
    """
    by_split = _by_split(_checked(rows, source), source)
    origin = "all" if "all" in by_split else "train"
    names = {row.name for row in by_split[origin]}
    if classes is None:
        classes = in_order(names)
    empty = [name for name in classes if name not in names]
    if empty:
        raise DataError(
            f"class {empty[0]!r} has no images in {source}{'' if origin == 'all' else ' in train'}",
            hint="every class needs images to train on; leave the class out of the data set",
        )
    if len(classes) < 2:
        raise DataError(
            f"{source} has 1 class ({classes[0]!r}); at least 2 were expected",
            hint="check that the right labels are read; a classifier tells two classes or more apart",
        )
    labels = {name: label for label, name in enumerate(classes)}
    for split, listed in by_split.items():
        for row in listed:
            if row.name not in labels:
                raise DataError(
                    f"class {row.name!r} of {split} ({row.where} of {source}) is unknown"
                    f"{'' if origin == 'all' else ' in train'}{did_you_mean(row.name, classes)}",
                    hint=f"the known classes are: {some(classes)}",
                )
    return tuple(classes), {
        split: tuple(sorted((Entry(row.file, labels[row.name]) for row in by_split[split]), key=_by_label))
        for split in ("all", "train", "val", "test")
        if split in by_split
    }


def _by_label(entry: Entry) -> tuple[int, str]:
    return entry.label, entry.file


def _checked(rows: Iterable[Row], source: str) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        ask()
        other = first.setdefault(row.file, row)
        if other is not row:
            classes = f", as {other.name!r} and as {row.name!r}" if other.name != row.name else ""
            raise DataError(
                f"{source} names {row.file!r} twice ({other.where} and {row.where}){classes}",
                hint="every image belongs to one class and one split: leave one of the two out",
            )
    if not first:
        raise DataError(f"{source} names no image", hint="it needs images of at least 2 classes")
    return list(first.values())


def _by_split(rows: Sequence[Row], source: str) -> dict[str, list[Row]]:
    """Return the rows per split, or under "all" where no row names one."""
    if all(row.split is None for row in rows):
        return {"all": list(rows)}
    found: dict[str, list[Row]] = {}
    typed: dict[str, str] = {}
    for row in rows:
        name = (row.split or "").lower()
        split = SPLIT_NAMES.get(name)
        if split is None:
            raise DataError(
                f"{row.where} of {source} has the split {row.split or ''!r}; expected train, val or test"
                f"{did_you_mean(name, SPLIT_NAMES)}",
                hint=f"known names of splits: {', '.join(SPLIT_NAMES)}; or name none for any image",
            )
        if typed.setdefault(split, name) != name:
            raise DataError(
                f"{source} has two names for the {split} split: {typed[split]!r} and {name!r}",
                hint="call them the same, or leave one of them out",
            )
        found.setdefault(split, []).append(row)
    if "train" not in found:
        raise DataError(
            f"{source} has a split {next(iter(typed.values()))!r} but no split 'train'",
            hint="without names of splits it would be used as one unsplit set",
        )
    return found
