"""`FILE?key=value&key=value`: what stands after the scheme of a layout that reads one file and can be told more."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from harden.errors import DataError, MissingDataError, UsageError
from harden.registry import did_you_mean


@dataclass(frozen=True)
class Spec:
    """A file or folder, and what is told of it.

    Attributes:
        path: absolute.
        told: value by key.
        query: the values as they were typed, with the question mark; empty without any.
    """

    path: Path
    told: dict[str, str]
    query: str


def read_spec(text: str, keys: Sequence[str], *, example: str) -> Spec:
    """Return what `text` says; %26 is an & and %20 a space, as in a URL.

    Args:
        text: a path, with or without a question mark and values.
        keys: those that are known.
        example: a whole value of --data, for the hint.

    Raises:
        UsageError: an unknown key, one that is given twice, or a part that is no key=value.
    """
    path, mark, query = text.rpartition("?")
    if not mark or Path(text).expanduser().exists():
        path, query = text, ""
    told: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise UsageError(f"{query!r} is no list of key=value, joined by &", hint=f"--data '{example}'") from None
    for key, value in pairs:
        if key not in keys:
            raise UsageError(
                f"unknown key {key!r} in {text!r}{did_you_mean(key, keys)}",
                hint=f"known keys: {', '.join(keys)}; for instance --data '{example}'",
            )
        if key in told:
            raise UsageError(f"{key} is given twice in {text!r}", hint="give it once")
        told[key] = value
    return Spec(Path(os.path.abspath(Path(path).expanduser())), told, f"?{query}" if query else "")


def check_is_file(path: Path, what: str) -> None:
    """Check that there is a file.

    Args:
        path: where.
        what: "a table", for the message.

    Raises:
        DataError: there is none, or something else.
    """
    if path.is_file():
        return
    if path.exists():
        raise DataError(f"{path} is a folder; {what} was expected", hint=f"give the file, or --data {path}")
    siblings = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
    raise MissingDataError(f"no file at {path}{did_you_mean(path.name, siblings)}", hint=f"give the path of {what}")
