"""TorchScript files as programs. A TorchScript is code: one that could touch other files is opened only on trust."""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from pathlib import Path

import torch

from harden.errors import ModelError, UnsafeInputError
from harden.models.black_box import Program
from harden.models.loaded import one_line

_FILE_OPERATORS = re.compile(rb"\b(?:from_file|save)\b|\bops\.(?!prims?\b|quantized\b|mkldnn\b|torchvision\b)\w+")
"""torch's operators that open a file, and those of libraries that nobody has looked at. Every call in the source text
of a TorchScript names its operator; there is no other way to it."""


def open_torchscript(path: Path, *, classes: int | None = None, trust: bool) -> Program:
    """Return the network in a TorchScript file, on the CPU and in eval mode.

    Args:
        path: a file of `torch.jit.save`.
        classes: number of classes of the data, if it is known.
        trust: load it whatever operators it calls.

    Raises:
        UnsafeInputError: it calls operators that could read or write files, and `trust` is off.
        ModelError: torch cannot load it.
    """
    suspects = _suspects(path)
    if suspects and not trust:
        raise UnsafeInputError(
            f"{path} is a program that could read or write other files: it calls {', '.join(suspects)}",
            hint="if you know who made the file: --trust-pickle, which lets it do so as you",
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except Exception as error:  # RuntimeError, but torch promises no type
        raise ModelError(
            f"torch cannot load the TorchScript in {path}: {one_line(error)}", hint="save it again with this torch"
        ) from error
    return Program(path.name, "TorchScript", module, hashlib.sha256(path.read_bytes()).hexdigest(), wanted=classes)


def _suspects(path: Path) -> list[str]:
    found: set[str] = set()
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".py"):
                    found.update(match.decode() for match in _FILE_OPERATORS.findall(archive.read(name)))
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{path} is truncated or damaged", hint="download or copy the file again") from error
    return sorted(found)
