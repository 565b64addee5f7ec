"""Tables with a column of paths and one of labels: which column is which, and what may stand in them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harden.data.dataset import Entry
from harden.data.encoded import EncodedSource
from harden.data.finder import Finder
from harden.data.folder import files_below
from harden.data.labels import column_labels, single_labels
from harden.data.names import some
from harden.data.rows import Row, list_rows
from harden.data.spec import Spec
from harden.errors import DataError, UsageError
from harden.registry import did_you_mean

KEYS = ("path", "label", "split")
"""What a spec may name a column for."""

USUAL: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "file", "filepath", "filename", "image", "imagepath", "imagefile", "img", "imgpath"),
    "label": ("label", "labels", "class", "classname", "target", "category", "y"),
    "split": ("split", "set", "subset", "partition"),
}
"""Names of columns in lower case, without what joins words."""

LOOKED_FOR = 16
"""Files that are looked for when a table is opened; if none is there, the paths mean something else."""


@dataclass(frozen=True)
class Columns:
    """Which column holds what.

    Attributes:
        path: paths.
        label: labels; None where there may be a column for each class instead.
        split: names of splits; None where there is none.
        others: all others.
    """

    path: str
    label: str | None
    split: str | None
    others: tuple[str, ...]


def find_columns(columns: Sequence[str], spec: Spec) -> Columns:
    """Return the columns that `spec` names, and the others by their usual names.

    An empty name, as in `split=`, says that there is no such column.

    Raises:
        UsageError: a column that is named is not there.
        DataError: no column for paths, none for labels and no two others, or several that could be it.
    """
    found = {what: _column(what, columns, spec) for what in KEYS}
    path, label = found["path"], found["label"]
    others = tuple(name for name in columns if name not in found.values())
    if path is None:
        raise _no_column("paths of images", "path", columns, spec)
    if label is None and len(others) < 2:
        raise no_labels(columns, spec)
    return Columns(path, label, found["split"], others)


def no_labels(columns: Sequence[str], spec: Spec) -> DataError:
    """Return the refusal of a table without labels."""
    return _no_column("labels", "label", columns, spec)


def _no_column(what: str, key: str, columns: Sequence[str], spec: Spec) -> DataError:
    known = some([repr(name) for name in columns]) or "none"
    each = ", nor two of 0 and 1, one for each class" if key == "label" else ""
    return DataError(
        f"{spec.path} has no column for the {what}{each}; its columns are: {known}",
        hint=f"the first line names the columns: path,label. Or name it: --data '{spec.path}?{key}=NAME'",
    )


def _column(what: str, columns: Sequence[str], spec: Spec) -> str | None:
    named = spec.options.get(what)
    if named is not None:
        if named and named not in columns:
            raise UsageError(
                f"{spec.path} has no column {named!r}{did_you_mean(named, columns)}",
                hint=f"its columns are: {some([repr(name) for name in columns])}",
            )
        found = [name for name in columns if name == named]
    else:
        found = [name for name in columns if "".join(filter(str.isalnum, name.lower())) in USUAL[what]]
    if len(found) > 1:
        raise DataError(
            f"{spec.path} has {len(found)} columns that could be the {what}: {', '.join(map(repr, found))}",
            hint=f"say which one it is: --data '{spec.path}?{what}={found[0]}', or give them different names",
        )
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Line:
    """What a row of a table holds; `where` it stands is for messages.

    Attributes:
        label: the cell, or those of all `Columns.others` where there is no column for labels.
    """

    path: object
    label: object
    split: object
    where: str


def open_table(
    scheme: str, spec: Spec, columns: Columns, lines: Iterable[Line], gray_bits: int | None
) -> EncodedSource:
    """Return the data set of a table; paths are relative to its folder, or absolute.

    Raises:
        DataError: a path, label or split is missing or of the wrong kind, an image has several labels, none of the
            first images is there, or see `list_rows`.
    """
    root = spec.path.parent
    read = list(lines)
    find = Finder(str(root))
    rows = (_row(line, label, find, spec.path) for line, label in zip(read, _labels(read, columns, spec), strict=True))
    classes, listings = list_rows(rows, str(spec.path))
    _check_paths(root, spec, next(iter(listings.values())))
    return files_below(root, f"{scheme}:{spec.path}{spec.query}", classes, listings, gray_bits)


def _labels(lines: Sequence[Line], columns: Columns, spec: Spec) -> Sequence[object]:
    """Return the label of every line."""
    source, cells = str(spec.path), [line.label for line in lines]
    if columns.label is not None or not lines:
        return single_labels(cells, lambda row: lines[row].where, source)
    by_column = dict(zip(columns.others, zip(*cells, strict=True), strict=True))  # type: ignore[arg-type]
    labels = column_labels(by_column, lambda row: lines[row].where, source)
    if labels is None:
        known = (columns.path, *(() if columns.split is None else (columns.split,)), *columns.others)
        raise no_labels(known, spec)
    return labels


def _row(line: Line, label: object, find: Finder, table: Path) -> Row:
    path, name = (_text(value, what, line, table) for value, what in ((line.path, "path"), (label, "label")))
    split = None if line.split is None else str(line.split).strip()
    return Row(find(path), name, split, line.where)


def _text(value: object, what: str, line: Line, table: Path) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers with gaps is stored as floats
    text = str(value).strip()
    if value is None or not text or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{line.where} of {table} has no {what}", hint="fill it in, or leave the row out")
    if not isinstance(value, str | int):
        raise DataError(
            f"{line.where} of {table} has the {what} {text[:40]!r} ({type(value).__name__}); text was expected",
            hint="a label is a name or an integer" if what == "label" else "a path names a file of one image",
        )
    return text


def _check_paths(root: Path, spec: Spec, entries: Sequence[Entry]) -> None:
    looked_for = entries[:: max(1, len(entries) // LOOKED_FOR)]
    if not any(os.path.lexists(os.path.join(root, entry.file)) for entry in looked_for if "\0" not in entry.file):
        raise DataError(
            f"none of {len(looked_for)} images that {spec.path} names is there; {looked_for[0].file!r} was looked for "
            f"in {root}",
            hint=f"paths are relative to the folder of the table; if another column holds them, say so: "
            f"--data '{spec.path}?path=COLUMN'",
        )
