"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harden.errors import ModelError, RunFolderError
from harden.files import write_torch
from harden.models.pickled import read_pickle

VERSION = 2


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors and plain values) to `path`; a crash leaves the previous file as it was.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    write_torch(path, {"version": VERSION, **state})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `write_checkpoint` wrote, on the CPU.

    Raises:
        RunFolderError: the file is missing, damaged, or of another version.
        UnsafeInputError: it holds something else than a checkpoint has.
    """
    if not path.exists():
        raise RunFolderError(f"there is no checkpoint {path}", hint="start the run again without --resume")
    try:
        state = read_pickle(path, trust=False)
    except ModelError as error:
        raise RunFolderError(
            f"the checkpoint {path} cannot be read: {error.message}",
            hint="start the run again in another folder with --out",
        ) from error
    version = state.get("version") if isinstance(state, dict) else None
    if not isinstance(version, int) or version != VERSION:
        raise RunFolderError(
            f"the checkpoint {path} has version {version}; this program reads {VERSION}",
            hint="continue the run with the version of harden that began it",
        )
    assert isinstance(state, dict)
    return state
