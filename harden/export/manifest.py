"""What an export consists of: the hash of every file, what was found when it was made, and how to find it again.

It shows that files were damaged or mixed up. It is no signature: whoever can change a file can change this one too.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from harden.errors import ExportError, NoExportError
from harden.files import write_whole

MANIFEST = "manifest.json"
SCHEMA = "harden-export/1"
MOST_QUERIES = 10_000
"""Of Square, for each image: far more than any export takes; with a stranger's number it could run for ever."""


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        weights: fingerprint of the model that was exported.
        files: relative POSIX path -> SHA-256, of every file of the export but this one.
        audit: how the quick audit was done (eps, queries, seed).
        standing: per model file and attack, how many images of the sample were still classified correctly.
        tolerance: largest difference of any score between the model and its fp32 files, as a share of their scale.
        max_drop: largest drop of accuracy, as a share, that counts as agreement.
        any_size: whether the ONNX files take images of any size.
    """

    weights: str
    files: Mapping[str, str]
    audit: Mapping[str, Any]
    standing: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    tolerance: float = 1e-4
    max_drop: float = 0.02
    any_size: bool = False

    def write(self, folder: Path) -> None:
        """Write manifest.json into `folder`.

        Raises:
            RunFolderError: it cannot be written.
        """
        document = {"schema": SCHEMA, **{name: _plain(value) for name, value in vars(self).items()}}
        write_whole(folder / MANIFEST, json.dumps(document, indent=1, sort_keys=True) + "\n")

    def changed(self, folder: Path) -> tuple[tuple[str, str], ...]:
        """Return (file, what is wrong) for every file of `folder` that is missing or is not what it was."""
        found = []
        for name, digest in sorted(self.files.items()):
            path = folder / name
            try:
                if not path.is_file():
                    found.append((name, "is missing"))
                elif sha256_of(path) != digest:
                    found.append((name, "has changed"))
            except (OSError, ValueError) as error:  # no file can have that name, or it may not be read
                found.append((name, f"cannot be read ({type(error).__name__})"))
        return tuple(found)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of `folder`.

    Raises:
        ExportError: there is none, or it is damaged, or from another version.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise NoExportError(
            f"{folder} is no export: it has no {MANIFEST}", hint="name a folder that `harden export` wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} is damaged ({type(error).__name__})", hint="export the model again") from error
    try:
        if data["schema"] != SCHEMA:
            raise ExportError(
                f"{path} has schema {data['schema']!r}; this version reads {SCHEMA!r}", hint="export the model again"
            )
        manifest = Manifest(
            weights=str(data["weights"]),
            files={_inside(name): str(digest) for name, digest in data["files"].items()},
            audit={
                "eps": _within(data["audit"]["eps"], 0, 1),
                "queries": int(_within(data["audit"]["queries"], 1, MOST_QUERIES)),
                "seed": int(data["audit"]["seed"]),
            },
            standing={
                name: {kind: int(count) for kind, count in counts.items()} for name, counts in data["standing"].items()
            },
            any_size=bool(data.get("any_size", False)),
            tolerance=_within(data["tolerance"], 0, sys.float_info.max),
            max_drop=_within(data["max_drop"], 0, 1),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ExportError(f"{path} is damaged ({type(error).__name__})", hint="export the model again") from error
    return manifest


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inside(name: str) -> str:
    """Return `name` if it is the path of a file below the folder: a stranger wrote the list.

    Raises:
        ValueError: it leads elsewhere.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or set(name) & set("\\*?["):
        raise ValueError(f"{name!r} lies outside, or is a pattern")
    return name


def _within(value: Any, least: float, most: float) -> float:
    """Return `value` as a float.

    Raises:
        ValueError: it is no number from `least` to `most`.
    """
    number = float(value)
    if not least <= number <= most:  # false of NaN too
        raise ValueError(f"{number} is not within [{least}, {most}]")
    return number


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return value
