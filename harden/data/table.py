"""Tables with a column of paths and one of labels: which column is which, and what may stand in them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harden.data.dataset import Entry
from harden.data.encoded import EncodedSource
from harden.data.folder import files_below
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
    """Which column holds what; `split` is None where there is none."""

    path: str
    label: str
    split: str | None


def find_columns(columns: Sequence[str], spec: Spec) -> Columns:
    """Return the columns that `spec` names, and the others by their usual names.

    An empty name, as in `split=`, says that there is no such column.

    Raises:
        UsageError: a column that is named is not there.
        DataError: no column for paths or labels, or several that could be it.
    """
    found = {what: _column(what, columns, spec) for what in KEYS}
    path, label = found["path"], found["label"]
    if path is None or label is None:
        what, key = ("paths of images", "path") if path is None else ("labels", "label")
        known = some([repr(name) for name in columns]) or "none"
        raise DataError(
            f"{spec.path} has no column for the {what}; its columns are: {known}",
            hint=f"the first line names the columns: path,label. Or name it: --data '{spec.path}?{key}=NAME'",
        )
    return Columns(path, label, found["split"])


def _column(what: str, columns: Sequence[str], spec: Spec) -> str | None:
    named = spec.told.get(what)
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
    """What a row of a table holds; `where` it stands is for messages."""

    path: object
    label: object
    split: object
    where: str


def open_table(scheme: str, spec: Spec, lines: Iterable[Line], gray_bits: int | None) -> EncodedSource:
    """Return the data set of a table; paths are relative to its folder, or absolute.

    Raises:
        DataError: a path, label or split is missing or of the wrong kind, none of the first images is there, or see
            `list_rows`.
    """
    root = spec.path.parent
    classes, listings = list_rows((_row(line, str(root), spec.path) for line in lines), str(spec.path))
    _check_paths(root, spec, next(iter(listings.values())))
    return files_below(root, f"{scheme}:{spec.path}{spec.query}", classes, listings, gray_bits)


def _row(line: Line, root: str, table: Path) -> Row:
    path, name = (_text(value, what, line, table) for value, what in ((line.path, "path"), (line.label, "label")))
    split = None if line.split is None else str(line.split).strip()
    return Row(_relative(path, root), name, split, line.where)


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


def _relative(path: str, root: str) -> str:
    """Return a path in one spelling, relative to `root` where it lies below it: no file has two names."""
    whole = os.path.normpath(os.path.join(root, path))
    below = os.path.join(root, "")
    return whole.removeprefix(below).replace(os.sep, "/")


def _check_paths(root: Path, spec: Spec, entries: Sequence[Entry]) -> None:
    looked_for = entries[:: max(1, len(entries) // LOOKED_FOR)]
    if not any(os.path.lexists(os.path.join(root, entry.file)) for entry in looked_for if "\0" not in entry.file):
        raise DataError(
            f"none of {len(looked_for)} images that {spec.path} names is there; {looked_for[0].file!r} was looked for "
            f"in {root}",
            hint=f"paths are relative to the folder of the table; if another column holds them, say so: "
            f"--data '{spec.path}?path=COLUMN'",
        )
