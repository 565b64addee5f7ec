"""Rows that name an image, its class and perhaps its split: what layouts share whose labels lie beside the images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harden.data.dataset import Entry
from harden.data.labels import refuse_lists, several_labels
from harden.data.names import SPLIT_NAMES, composed, in_order, some
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

    Without a train split the classes are those of all splits. Names of classes are in Unicode's form NFC.

    Args:
        rows: one for each image.
        source: what the rows are of, for messages.
        classes: class names in label order, where the data set has an order; otherwise that of `in_order`.

    Raises:
        DataError: no rows, an image that is named twice or has several labels, an unknown split or one without a name
            beside others, fewer than two classes, a class without images to train on, or one that train does not know.
    """
    listed = _checked(rows, source)
    if classes is None:
        refuse_lists([row.name for row in listed], lambda number: listed[number].where, source)
    by_split = _by_split(listed, source)
    origin = next((split for split in ("all", "train") if split in by_split), None)
    names = {row.name for row in (listed if origin is None else by_split[origin])}
    classes = in_order(names) if classes is None else tuple(map(composed, classes))
    empty = [name for name in classes if name not in names]
    if empty and origin is not None:
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
    for split, members in by_split.items():
        for row in members:
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
        row = replace(row, name=composed(row.name))
        other = first.setdefault(row.file, row)
        if other is not row:
            twice = f"{source} names {row.file!r} twice ({other.where} and {row.where})"
            if other.name != row.name:
                raise several_labels(f"{twice}, as {other.name!r} and as {row.name!r}")
            raise DataError(twice, hint="every image belongs to one class and one split: leave one of the two out")
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
    return found
