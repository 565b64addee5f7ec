"""What a pickle would import and what it would call, read from its opcodes without running any of them.

torch's weights-only unpickler lets a pickle *call* every class that it may *name*. A pickled network only ever needs
to name its classes (instances are made without calling them), so calls are looked at separately here.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from torch._utils import IMPORT_MAPPING, NAME_MAPPING

from harden.models.formats import ZIP_MAGIC

COMPUTED = "something computed"
"""Stands among the calls for a callee that is not named by the pickle itself."""


_END_RECORD = struct.Struct("<4s16xH")
"""What a zip archive ends in: a magic number, and the length of the comment that would follow."""


@dataclass(frozen=True)
class PickleScan:
    """The dotted names that a pickle imports, and those of them that it calls."""

    imports: frozenset[str]
    calls: frozenset[str]


def scan(path: Path) -> PickleScan:
    """Read every pickle in a torch.save file (zip or legacy) or a plain pickle.

    The first bytes decide which of them it is, as they do for torch: zip archives are otherwise found by their end, and
    a file can be a pickle at the front and an archive at the back.

    Raises:
        ValueError: the opcodes cannot be read, or the file is two files in one; it is damaged or made to deceive.
    """
    imports: set[str] = set()
    calls: set[str] = set()
    with path.open("rb") as file:
        zipped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if zipped:
        _require_one_archive(path)
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith("data.pkl"):
                    _scan_stream(io.BytesIO(archive.read(entry)), imports, calls)
        return PickleScan(frozenset(imports), frozenset(calls))
    if zipfile.is_zipfile(path):
        raise ValueError("a pickle with a zip archive behind it")
    with path.open("rb") as file:
        _scan_stream(file, imports, calls)
        try:
            # A legacy file is five pickles in a row (magic, version, system, object, keys), then the raw tensors.
            for _ in range(4):
                _scan_stream(file, imports, calls)
        except ValueError:
            pass  # a plain pickle is one
    return PickleScan(frozenset(imports), frozenset(calls))


def _require_one_archive(path: Path) -> None:
    """Raise unless every reader finds the same entries: one archive from the first byte to the last, no name twice."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if min((entry.header_offset for entry in entries), default=0) != 0:
        raise ValueError("a zip archive behind other data")
    if len(set(names)) != len(names):
        raise ValueError("a zip archive with two entries of one name")
    with path.open("rb") as file:
        file.seek(-_END_RECORD.size, io.SEEK_END)
        magic, comment = _END_RECORD.unpack(file.read())
    if magic != b"PK\x05\x06" or comment:
        raise ValueError("a zip archive with other data behind it")


@dataclass(frozen=True)
class _Named:
    """A global on the symbolic stack."""

    name: str


def _scan_stream(file: IO[bytes], imports: set[str], calls: set[str]) -> None:
    """Run one pickle on a symbolic stack that knows globals and strings; everything else is None."""
    stack: list[object] = []
    marks: list[list[object]] = []
    memo: dict[object, object] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        try:
            if name == "GLOBAL":
                stack.append(_named(argument, imports))
            elif name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_named(f"{module} {attribute}", imports))
            elif name == "INST":
                _named(argument, imports)
                calls.add(str(argument).replace(" ", "."))
                stack = marks.pop()
                stack.append(None)
            elif name in ("REDUCE", "OBJ", "NEWOBJ_EX", "NEWOBJ"):
                for _ in range(2 if name == "NEWOBJ_EX" else 0 if name == "OBJ" else 1):
                    stack.pop()
                if name == "OBJ":
                    callee: object = stack[0] if stack else None
                    stack = marks.pop()
                else:
                    callee = stack.pop()
                if name in ("REDUCE", "OBJ"):
                    calls.add(callee.name if isinstance(callee, _Named) else COMPUTED)
                stack.append(None)
            elif name == "MARK":
                marks.append(stack)
                stack = []
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "DUP":
                stack.append(stack[-1])
            elif name in ("APPENDS", "SETITEMS", "ADDITEMS", "POP_MARK"):
                stack = marks.pop()
            elif name in ("TUPLE", "LIST", "DICT", "FROZENSET"):
                stack = marks.pop()
                stack.append(None)
            else:
                for _ in opcode.stack_before:
                    stack.pop()
                stack.extend(argument if isinstance(argument, str) else None for _ in opcode.stack_after)
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError(f"damaged pickle at {name}") from error


def _named(argument: object, imports: set[str]) -> _Named:
    module, _, attribute = str(argument).partition(" ")
    # Protocol 2 writes the names of Python 2; torch's unpickler translates them in the same way.
    if (module, attribute) in NAME_MAPPING:
        module, attribute = NAME_MAPPING[module, attribute]
    else:
        module = IMPORT_MAPPING.get(module, module)
    name = f"{module}.{attribute}"
    imports.add(name)
    return _Named(name)
