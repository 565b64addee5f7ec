"""What the user types after --data: paths, and `FILE?key=value&key=value` of layouts that can be told more."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from harden.errors import DataError, MissingDataError, UsageError
from harden.registry import did_you_mean

SHOWN = 200
"""Characters of a path in a message."""


@contextmanager
def user_paths(spec: str) -> Iterator[None]:
    """Turn whatever the system says of the paths in `spec` into an error that names them.

    Raises:
        UsageError: `spec` is empty or holds a null byte, which no path has.
        DataError: the system refused to read something.
    """
    if not spec or "\0" in spec:
        raise UsageError(
            f"--data cannot be {shown(spec)!r}: a path was expected, which is not empty and holds no null byte",
            hint="give the path of a folder of images, or see the layouts in examples/README.md",
        )
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        where = shown(spec if error.filename is None else error.filename)
        raise DataError(f"{where} cannot be read: {reason}", hint="check the path given to --data") from error


def shown(path: object) -> str:
    """Return a path for a message: in one line, and not longer than `SHOWN`."""
    text = str(path)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}...{text[-SHOWN // 2 :]}"


def path_of(text: str) -> Path:
    """Return the absolute path that `text` names; ~ is the user's home."""
    return Path(os.path.abspath(os.path.expanduser(text)))


@dataclass(frozen=True)
class Spec:
    """A file or folder, and the options given with it.

    Attributes:
        path: absolute.
        options: value by key.
        query: the values as they were typed, with the question mark; empty without any.
    """

    path: Path
    options: dict[str, str]
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
    if not mark or path_of(text).exists():
        path, query = text, ""
    options: dict[str, str] = {}
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
        if key in options:
            raise UsageError(f"{key} is given twice in {text!r}", hint="give it once")
        options[key] = value
    return Spec(path_of(path), options, f"?{query}" if query else "")


def check_is_there(path: Path, what: str, hint: str) -> None:
    """Check that there is something at a path.

    Args:
        path: where.
        what: "folder", for the message.
        hint: how to repair it.

    Raises:
        MissingDataError: there is nothing, or a link that leads nowhere.
        OSError: the system does not say.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise MissingDataError(
                f"{shown(path)} is a link to {shown(os.readlink(path))}, which is not there",
                hint="repair the link, or give the path of the data itself",
            ) from error
        try:
            siblings = [entry.name for entry in os.scandir(path.parent)]
        except OSError:
            siblings = []
        raise MissingDataError(f"no {what} at {shown(path)}{did_you_mean(path.name, siblings)}", hint=hint) from error


def check_is_file(path: Path, what: str) -> None:
    """Check that there is a file.

    Args:
        path: where.
        what: "a table", for the message.

    Raises:
        DataError: there is none, or something else.
    """
    check_is_there(path, "file", f"give the path of {what}")
    if path.is_dir():
        raise DataError(f"{shown(path)} is a folder; {what} was expected", hint=f"give the file, or --data {path}")
    if not path.is_file():
        raise DataError(f"{shown(path)} is no regular file; {what} was expected", hint=f"give the path of {what}")
