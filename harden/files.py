"""A file is written whole or not at all: a temporary neighbour, then one rename."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harden.errors import WriteError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")

_UMASK = os.umask(0)
os.umask(_UMASK)


def write_with(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then rename it; what was at `path` stays until then.

    Args:
        path: the file; its folder is created.
        write: called with the temporary path.

    Raises:
        WriteError: the folder or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            temporary.chmod(0o666 & ~_UMASK)  # some writers make files that only their owner can read
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from error
    return path


def require_writable(folder: Path) -> None:
    """Return if a file can be written to `folder`, which need not exist; to ask before long work, not after it.

    Raises:
        WriteError: it is no folder, or the system lets no file be written there.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise cannot_write(folder, error.strerror or str(error)) from error


def cannot_write(path: Path, reason: str) -> WriteError:
    """Return the error for a file that cannot be written."""
    return WriteError(
        f"cannot write {path}: {reason}",
        hint=f"free space on or get write access to {path.parent}, or name another folder with --out",
    )


def write_whole(path: Path, text: str) -> Path:
    """Write `text` to `path` in UTF-8.

    Characters that UTF-8 cannot hold (undecodable bytes of a file name) are written as escapes.

    Raises:
        WriteError: the folder or the file cannot be written.
    """
    return write_with(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", errors="backslashreplace")))


def clear_temporaries(folder: Path) -> None:
    """Remove the temporary files in and below `folder` that a killed process left there."""
    for path in folder.rglob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_torch(path: Path, value: Any) -> Path:
    """Write `value` to `path` with torch.save, in bytes that do not depend on the path.

    Raises:
        WriteError: the folder or the file cannot be written.
        Exception: `value` cannot be pickled (of half a dozen types).
    """
    import torch

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, it would write that one's name into the file
            torch.save(value, file)

    try:
        return write_with(path, save)
    except RuntimeError as error:
        if "inline_container" not in str(error) and "PytorchStreamWriter" not in str(error):
            raise
        # torch's own writer counts what arrived instead of asking the system why it did not
        raise cannot_write(path, "the disk is full, or the file was cut off") from error
