"""One label for each image: what else tables and arrays hold under that name is turned into one, or refused.

One-hot vectors and lists of one are read. Several labels for one image are refused however they are written (many-hot
vectors and columns, lists, texts with a separator, rows for the same image), and so are soft labels.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from harden.errors import DataError

_REPAIR = (
    "keep for each image the one label that matters, or make a data set of two classes for each label: with it, and "
    "without"
)

_STRICT, _LOOSE = ("|", ";", "\t", "\n"), (",", "/", "+", "&", " ")
"""Separators of labels: those that names of classes hardly hold, and those that they often do."""

_REUSED = 0.9
"""Share of texts with a loose separator whose parts must all stand in other labels, too, to be taken for lists."""

_LONGEST_LIST = 100_000
"""Characters of a list in a cell."""

_MARKS: Mapping[str, float] = {"": 0, "0": 0, "1": 1, "-1": -1, "false": 0, "true": 1, "no": 0, "yes": 1}


def several_labels(what: str, *, unless: str = "") -> DataError:
    """Return the refusal of an image with several labels.

    Args:
        what: which image has which labels.
        unless: what to do where it has only one.
    """
    return DataError(f"{what}; one label per image was expected", hint=_REPAIR + unless)


def single_labels(values: Sequence[object], where: Callable[[int], str], source: str) -> list[object]:
    """Return the label in each cell: as it is, out of a list of one, or the place of the 1 in a one-hot vector.

    Args:
        values: cells of a column, or of a field.
        where: from a row's index to its place, for messages.
        source: what the rows are of.

    Raises:
        DataError: several labels or none in a cell, or soft labels.
    """
    lists = {row: found for row, value in enumerate(values) if (found := _as_list(value)) is not None}
    if not lists:
        return list(values)
    longest = max(map(len, lists.values()))
    numbers = all(isinstance(item, int | float) for found in lists.values() for item in found)
    if numbers and longest > 1 and len(lists) == len(values) and {len(found) for found in lists.values()} == {longest}:
        names = [str(place) for place in range(longest)]
        labels = hot_labels(np.asarray(list(lists.values()), dtype=np.float64), names, where, source)
        if labels is not None:
            return list(labels)
    single = list(values)
    for row, found in lists.items():
        if len(found) > 1:
            raise several_labels(f"{where(row)} of {source} has {len(found)} labels ({str(values[row])[:60]})")
        if not found:
            raise DataError(f"{where(row)} of {source} has no label: an empty list", hint="leave the row out")
        single[row] = found[0]
    return single


def column_labels(
    columns: Mapping[str, Sequence[object]], where: Callable[[int], str], source: str
) -> list[str] | None:
    """Return the label of each row from columns of 0 and 1, one for each class; None where no two columns are such.

    Raises:
        DataError: a row has several labels or none, or the columns hold shares.
    """
    numbers = {name: found for name, cells in columns.items() if (found := _as_numbers(cells)) is not None}
    marks = {name: found for name, found in numbers.items() if np.isin(found, (-1, 0, 1)).all()}
    shares = {name: found for name, found in numbers.items() if found.min() >= 0 and found.max() <= 1}
    chosen = marks if len(marks) > 1 else shares
    if len(chosen) < 2:
        return None
    matrix = np.stack(list(chosen.values()), axis=1)
    return hot_labels(np.maximum(matrix, 0) if chosen is marks else matrix, list(chosen), where, source)


def hot_labels(
    values: npt.NDArray[Any], names: Sequence[str], where: Callable[[int], str], source: str
) -> list[str] | None:
    """Return the name of each row's class from vectors of 0 and 1; None where the values are neither that nor shares.

    Args:
        values: (N, K), numbers or booleans.
        names: of the K classes.
        where: from a row's index to its place, for messages.
        source: what the rows are of.

    Raises:
        DataError: a row has several labels or none, or all rows hold shares.
    """
    values = np.asarray(values, dtype=np.float64)
    sums = values.sum(axis=1)
    if not np.isin(values, (0, 1)).all():
        if values.min() >= 0 and np.allclose(sums, 1, atol=1e-3):
            raise DataError(
                f"{where(0)} of {source} has soft labels (shares of {len(names)} classes); one label per image was "
                "expected",
                hint="give the class of the largest share as the label",
            )
        return None
    if (sums > 1).any():
        row = int((sums > 1).argmax())
        found = ", ".join(names[k] for k in np.flatnonzero(values[row])[:5])
        raise several_labels(
            f"{int((sums > 1).sum())} of {len(sums)} images of {source} have several labels; {where(row)} has "
            f"{int(sums[row])}: {found}"
        )
    if (sums == 0).any():
        row = int((sums == 0).argmax())
        raise DataError(
            f"{int((sums == 0).sum())} of {len(sums)} images of {source} have no label; {where(row)} is one, with 0 "
            f"for all of {len(names)} classes",
            hint="leave such images out, or give them a class of their own",
        )
    return [names[k] for k in values.argmax(axis=1).tolist()]


def refuse_lists(labels: Sequence[str], where: Callable[[int], str], source: str) -> None:
    """Refuse labels that are lists of labels, joined by a separator.

    Between strict separators (|), names of classes may be paths in one tree, such as animal|dog: no part stands in two
    places. With loose ones (a comma, a space) they are names unless nearly all of them consist of parts of other labels
    and some are others with more to them.

    Raises:
        DataError: they are lists.
    """
    distinct = dict.fromkeys(labels)
    for separator in (*_STRICT, *_LOOSE):
        parts = {label: [part.strip() for part in label.split(separator) if part.strip()] for label in distinct}
        joined = {label: found for label, found in parts.items() if len(set(found)) > 1}
        if not joined:
            continue
        is_list = _all_numbers(parts.values()) if separator != "/" else False
        if is_list or (_no_tree(parts) if separator in _STRICT else _of_one_another(parts, joined)):
            row = next(row for row, label in enumerate(labels) if label in joined)
            count = sum(label in joined for label in labels)
            raise several_labels(
                f"{count} of {len(labels)} images of {source} have several labels; {where(row)} has {labels[row]!r}",
                unless=f"; if {labels[row]!r} is one class, write its name without {separator!r}",
            )


def _all_numbers(parts: Iterable[Sequence[str]]) -> bool:
    return all(part.isdecimal() for found in parts for part in found)


def _no_tree(parts: Mapping[str, Sequence[str]]) -> bool:
    above: dict[str, set[tuple[str, ...]]] = {}
    ends = {tuple(found) for found in parts.values()}
    for found in parts.values():
        for depth, part in enumerate(found):
            above.setdefault(part, set()).add(tuple(found[:depth]))
    inner = any(tuple(found[:depth]) in ends for found in parts.values() for depth in range(1, len(found)))
    return inner or any(len(places) > 1 for places in above.values())


def _of_one_another(parts: Mapping[str, Sequence[str]], joined: Mapping[str, Sequence[str]]) -> bool:
    uses = Counter(part for found in parts.values() for part in set(found))
    reused = sum(all(uses[part] > 1 for part in found) for found in joined.values())
    if reused < _REUSED * len(joined):
        return False
    sets = {frozenset(found) for found in parts.values() if found}
    by_part: dict[str, list[frozenset[str]]] = {}
    for one in sets:
        for part in one:
            by_part.setdefault(part, []).append(one)
    return any(one < other for one in sets for other in by_part[min(one, key=lambda part: len(by_part[part]))])


def _as_list(value: object) -> list[Any] | None:
    """Return what a cell lists; None where it is no list."""
    if isinstance(value, str):
        return _read_list(value.strip())
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple | set | frozenset) else None


def _read_list(text: str) -> list[Any] | None:
    """Return the items of a list as JSON, Python, numpy or PostgreSQL writes it; None for any other text."""
    if len(text) > _LONGEST_LIST or (text[:1], text[-1:]) not in {("[", "]"), ("(", ")"), ("{", "}")}:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
        return list(found) if isinstance(found, list | tuple | set) else None
    if text[0] == "(":
        return None
    inner = text[1:-1]
    items = [item.strip(" \"'") for item in inner.split(",")] if "," in inner else inner.split()
    try:
        return [float(item) for item in items]
    except ValueError:
        return items if "," in inner else None


def _as_numbers(cells: Sequence[object]) -> npt.NDArray[np.float64] | None:
    """Return a column as numbers, empty cells as 0; None where something else stands in it."""
    numbers = []
    for cell in cells:
        text = "" if cell is None else str(cell).strip().lower()
        try:
            numbers.append(_MARKS[text] if text in _MARKS else float(text))
        except ValueError:
            return None
    found = np.asarray(numbers, dtype=np.float64)
    return np.nan_to_num(found, nan=0.0)
