"""The ledger of code that the user has named with --arch, and may therefore be run again without asking.

A run folder says which code built its network. A folder that somebody else wrote must not thereby make us run code,
so a factory is run again only if this user named it before and its file is still the same. The ledger vouches for the
file that was named; what that file imports is the business of whoever wrote it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from harden.errors import ModelError, UnsafeInputError
from harden.folders import state_root
from harden.models.factory import locate
from harden.models.origin import Origin


def ledger_path() -> Path:
    """Return where the ledger is: in the folder HARDEN_STATE, or in the user's state folder."""
    return state_root() / "trusted-code.json"


def remember(origin: Origin) -> bool:
    """Add a factory to the ledger; return whether that worked (a read-only home folder is no reason to stop)."""
    entry = [origin.reference, origin.code_sha256]
    entries = _entries()
    if entry in entries:
        return True
    path = ledger_path()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            temporary = file.name
            json.dump([*entries, entry], file, indent=1)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return False
    return True


def is_trusted(origin: Origin) -> bool:
    """Return whether the user named this factory before, and its file still is what it was. Runs nothing."""
    if origin.code_sha256 is None or [origin.reference, origin.code_sha256] not in _entries():
        return False
    try:
        code = locate(origin.reference).read_bytes()
    except (ModelError, OSError):
        return False
    return hashlib.sha256(code).hexdigest() == origin.code_sha256


def require_trust(origin: Origin, folder: Path) -> None:
    """Return if the factory may be run.

    Args:
        origin: of kind "factory".
        folder: the run folder, which may hold a copy of the code.

    Raises:
        UnsafeInputError: the user never named this code, or its file has changed or moved.
    """
    if is_trusted(origin):
        return
    code, _, name = origin.reference.rpartition(":")
    copies = sorted(folder.rglob(Path(code).name)) if code.endswith(".py") and folder.is_dir() else []
    suggestion = f"{copies[0]}:{name}" if copies else origin.reference
    known = any(reference == origin.reference for reference, _ in _entries())
    why = "has changed or moved since you last named it" if known else "was never named by you on this machine"
    raise UnsafeInputError(
        f"this run's network is built by code that {why}: {origin.reference}",
        hint=f"read the code; if you trust it, pass --arch {suggestion}",
    )


def _entries() -> list[list[str | None]]:
    try:
        data = json.loads(ledger_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(data, list):
        return []
    return [entry for entry in data if isinstance(entry, list) and len(entry) == 2]
