"""A file is written whole or not at all: a temporary neighbour, then one rename."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

from harden.errors import RunFolderError

_UMASK = os.umask(0)
os.umask(_UMASK)


def write_with(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then rename it; what was at `path` stays until then.

    Args:
        path: the file; its folder is created.
        write: called with the temporary path.

    Raises:
        RunFolderError: the folder or the file cannot be written.
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
        raise RunFolderError(
            f"cannot write {path}: {error.strerror or error}",
            hint=f"free space on or get write access to {path.parent}, or name another folder with --out",
        ) from error
    return path


def write_whole(path: Path, text: str) -> Path:
    """Write `text` to `path` in UTF-8.

    Characters that UTF-8 cannot hold (undecodable bytes of a file name) are written as escapes.

    Raises:
        RunFolderError: the folder or the file cannot be written.
    """
    return write_with(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", errors="backslashreplace")))
