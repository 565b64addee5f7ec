"""TorchScript files as programs. A TorchScript is code: one that calls other operators than those of a list, which
only compute, is opened only on trust.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.resources
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch

from harden.archives import ArchiveError, check_archive
from harden.errors import ModelError, UnsafeInputError
from harden.models.black_box import Program
from harden.models.formats import unsafe_archive
from harden.models.loaded import one_line
from harden.models.pickles.scan import TooLargeError, scan

OPERATORS_FILE = "torchscript_operators.json"
"""Operators by namespace; made by `python -m tests.models.make_operators`."""
_CLASSES = ("quantized", "xnnpack")
"""Namespaces of the classes in C++ that a TorchScript may have: they hold packed weights."""
_LANGUAGE = """
torch ops CONSTANTS __torch__ annotate uninitialized unchecked_cast isinstance getattr hasattr range len int float
complex bool str list dict tuple set min max abs round sum sorted zip enumerate print inf nan infj nanj Exception
AssertionError ValueError RuntimeError IndexError KeyError TypeError NotImplementedError Tensor Optional List Dict
Tuple Final Module NoneType number Device device Any Union Enum NamedTuple Interface self __annotations__
"""
"""Names that the language itself gives a meaning."""


def open_torchscript(path: Path, *, classes: int | None = None, trust: bool) -> Program:
    """Return the network in a TorchScript file, on the CPU and in eval mode.

    Args:
        path: a file of `torch.jit.save`.
        classes: number of classes of the data, if it is known.
        trust: load it whatever operators it calls.

    Raises:
        UnsafeInputError: it calls operators that are not on the list, and `trust` is off.
        ModelError: torch cannot load it.
    """
    suspects = sorted(_suspects(path))
    if suspects and not trust:
        raise UnsafeInputError(
            f"{path} is a program that could read or write other files: it calls {', '.join(suspects[:8])}",
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


@functools.cache
def _operators() -> dict[str, frozenset[str]]:
    text = importlib.resources.files(__package__).joinpath(OPERATORS_FILE).read_text(encoding="utf-8")
    return {space: frozenset(names) for space, names in json.loads(text).items()}


def _suspects(path: Path) -> set[str]:
    """Return what the code and the objects in a TorchScript use that is on no list."""
    sources, found = [], set()
    try:
        entries = check_archive(path)
        with zipfile.ZipFile(path) as archive:
            for entry in entries:
                if entry.filename.casefold().endswith(".py"):
                    sources.append(ast.parse(_plain_text(archive.read(entry))))
        found |= {name for name in scan(path).imports if ".classes." in name and not _is_known_class(name.split("."))}
    except (ArchiveError, TooLargeError) as error:
        raise unsafe_archive(path, error) from error
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise UnsafeInputError(
            f"{path} is a program whose code cannot be read ({one_line(error)})",
            hint="export it again with torch.jit.script or torch.jit.trace",
        ) from error
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{path} is truncated or damaged", hint="download or copy the file again") from error
    own = {name for source in sources for name in _defined(source)}
    for source in sources:
        found |= set(_used(source, own))
    return found


def _plain_text(source: bytes) -> str:
    """Return a source text that Python and TorchScript read in the same way.

    They disagree on what ends a comment, on encodings that a comment declares, and on some ways of writing texts over
    several lines. What torch writes has none of these.

    Raises:
        SyntaxError: it has other characters than printable ASCII, or one of these ways.
    """
    if not re.fullmatch(rb"[\x20-\x7e\n]*", source) or re.search(rb"\\\n|\"\"\"|'''", source):
        raise SyntaxError("its text has characters or line breaks that torch does not write")
    return source.decode("ascii")


def _is_known_class(parts: list[str]) -> bool:
    return parts[:3] == ["__torch__", "torch", "classes"] and len(parts) > 3 and parts[3] in _CLASSES


def _defined(source: ast.Module) -> Iterator[str]:
    """Yield the names of functions, classes, attributes and variables that a source text defines."""
    for node in ast.walk(source):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.Assign) and _is_annotations(node.targets[0]):
            yield _text_of(node.targets[0])


def _is_annotations(target: ast.expr) -> bool:
    return (
        isinstance(target, ast.Subscript)
        and isinstance(target.value, ast.Name)
        and target.value.id == "__annotations__"
        and isinstance(target.slice, ast.Constant)
    )


def _text_of(target: ast.expr) -> str:
    assert isinstance(target, ast.Subscript)
    assert isinstance(target.slice, ast.Constant)
    return str(target.slice.value)


def _used(source: ast.Module, own: set[str]) -> Iterator[str]:
    """Yield what a source text uses that is on no list: operators, attributes, names, classes in C++.

    Any mention of an operator counts, called or not, since it could be called under another name.
    """
    inner: set[int] = set()
    language = _LANGUAGE.split()
    for node in ast.walk(source):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            chain, below = _chain(node)
            inner |= below
            if not _is_known(chain, own):
                yield ".".join(chain).removeprefix(".")
        elif isinstance(node, ast.Name) and id(node) not in inner:
            # A bare `torch` or `ops` could get another name.
            if node.id in ("torch", "ops") or (node.id not in own and node.id not in language):
                yield node.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            name = node.args[1] if len(node.args) == 2 else None
            text = name.value if isinstance(name, ast.Constant) else None
            if not isinstance(text, str) or not _is_known(["", text], own):
                yield f"getattr({text!r})"


def _chain(node: ast.Attribute) -> tuple[list[str], set[int]]:
    """Return the names in `a.b.c`, the first "" if `a` is another expression, and the nodes inside."""
    names, inner = [node.attr], set()
    value: ast.expr = node.value
    while isinstance(value, ast.Attribute):
        names.append(value.attr)
        inner.add(id(value))
        value = value.value
    if isinstance(value, ast.Name):
        names.append(value.id)
        inner.add(id(value))
    else:
        names.append("")
    return names[::-1], inner


def _is_known(chain: list[str], own: set[str]) -> bool:
    first, *rest = chain
    allowed = _operators()
    if first == "torch":
        return len(rest) == 1 and rest[0] in allowed["aten"]
    if first == "ops":
        return len(rest) == 2 and rest[1] in allowed.get(rest[0], frozenset())
    if first == "CONSTANTS":
        return len(rest) == 1
    if first == "__torch__":
        return "classes" not in rest or _is_known_class(chain)
    if rest[-1] == "unpack":
        rest = rest[:-1]  # of packed weights, which only their own classes have
    # On a tensor, a method of this name is the operator, even if the code has an attribute of the name as well.
    return all(name in allowed["aten"] or (name in own and not hasattr(torch.ops.aten, name)) for name in rest)
