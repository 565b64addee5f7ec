"""report.json: everything per image, for other programs and for writing the other formats again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from harden.errors import DataError
from harden.files import write_whole
from harden.report.report import Report


def dumps(report: Report) -> str:
    """Return the document: strict JSON with one top-level key per line, the derived summary near the top."""
    return strict(report.to_json())


def strict(document: dict[str, Any]) -> str:
    """Return a dictionary as strict JSON, a line for each key; what is not finite becomes null."""
    lines = (
        f"{json.dumps(key)}: {json.dumps(_finite(value), separators=(',', ':'), allow_nan=False)}"
        for key, value in document.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def loads(text: str) -> Report:
    """Read what `dumps` wrote.

    Raises:
        DataError: it is not JSON, has another schema, or lacks a field.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise DataError(f"this is not a report: {error}", hint="run `harden report` again to write it anew") from error
    if not isinstance(data, dict):
        raise DataError("this is not a report: expected an object", hint="run `harden report` again to write it anew")
    try:
        return Report.from_json(_with_nan(data))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise DataError(
            f"this report is damaged: {type(error).__name__} {error}", hint="run `harden report` again to write it anew"
        ) from error


def write(report: Report, path: Path) -> Path:
    """Write the document to `path`, whole or not at all.

    Raises:
        RunFolderError: the file cannot be written.
    """
    return write_whole(path, dumps(report))


def read(path: Path) -> Report:
    """Read the document at `path`.

    Raises:
        DataError: there is no such file, or it is not a report.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path}: {error}", hint="name the report.json that `harden report` or `harden fit` wrote"
        ) from error
    return loads(text)


def _finite(value: Any) -> Any:
    """Replace NaN and infinities by null: JSON has neither, and a diverged loss is no reason to lose a report."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


def _with_nan(data: dict[str, Any]) -> dict[str, Any]:
    """Turn the nulls among the scalars of the history back into NaN (numpy does so for arrays)."""
    for epoch in (data.get("history") or {}).get("epochs", ()):
        epoch["scalars"] = {name: math.nan if v is None else v for name, v in epoch["scalars"].items()}
    return data
