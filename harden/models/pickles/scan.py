"""What a pickle would import, call and allocate, read from its opcodes without running any of them.

torch's weights-only unpickler lets a pickle *call* every class that it may *name*. A pickled network only ever needs
to name its classes (instances are made without calling them), so calls are looked at separately here.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from torch._utils import IMPORT_MAPPING, NAME_MAPPING

from harden.archives import ArchiveError, check_archive
from harden.models.formats import ZIP_MAGIC

COMPUTED = "something computed"
"""Stands among the calls for a callee that is not named by the pickle itself."""
_REBUILD_TYPED = "torch._tensor._rebuild_from_type_v2"
"""torch's function that calls the function in its first argument."""
_LOADED = ("data/", "constants/")
"""Folders of an archive whose storages torch reads; it keeps the shapes of a trace in another."""
_TENSORS = ("torch._utils._rebuild_", "torch.nn.parameter.Parameter")
_ITEM_BYTES = {"Double": 8, "Float": 4, "Long": 8, "Int": 4, "Short": 2, "Half": 2, "BFloat16": 2, "ComplexFloat": 8}
"""Bytes of a number by the first part of its storage's name; one byte for all others."""

MOST_TENSORS = 100_000
"""Tensors in a file. The networks of timm have some thousands."""
_MOST_STEPS, _MOST_HASHED = 5_000_000, 10_000_000
"""Opcodes of a file, and elements of tuples that are keys of dictionaries: each is an object, or is visited."""
_ENCODE, _ENCODINGS = "_codecs.encode", ("latin1", "latin-1")
"""How a pickle of the second protocol writes bytes; other encodings blow their input up."""
_LARGEST_TUPLE, _DEEPEST_TUPLE = 10**6, 1000
"""Elements of a tuple that is written out, and tuples inside one another: Python visits all of them to hash one."""


class TooLargeError(ValueError):
    """A small file that asks for much memory or time."""


@dataclass(frozen=True)
class PickleScan:
    """The dotted names that a pickle imports, those of them that it calls, and those that it makes instances of.

    `protocol` is the pickle protocol that the file was written in.
    """

    imports: frozenset[str]
    calls: frozenset[str]
    instances: frozenset[str]
    protocol: int = 2


def scan(path: Path) -> PickleScan:
    """Read every pickle in a torch.save file (zip or legacy) or a plain pickle.

    The first bytes decide which of them it is, as they do for torch: zip archives are otherwise found by their end, and
    a file can be a pickle at the front and an archive at the back.

    Raises:
        ArchiveError: it is an archive that two readers could read differently, or two files in one.
        TooLargeError: it declares more values than it holds, or more tensors than any network has.
        ValueError, OSError, zipfile.BadZipFile: it is damaged.
    """
    found = _Found()
    with path.open("rb") as file:
        zipped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if zipped:
        entries = check_archive(path)
        with zipfile.ZipFile(path) as archive:
            for entry in entries:
                if entry.filename.casefold().endswith(".pkl"):
                    found.folder = f"{entry.filename[:-4]}/"
                    _scan_stream(io.BytesIO(archive.read(entry)), found)
        return found.result({entry.filename: entry.file_size for entry in entries})
    if zipfile.is_zipfile(path):
        raise ArchiveError("it is a pickle with a zip archive behind it")
    with path.open("rb") as file:
        _scan_stream(file, found)
        try:
            # A legacy file is five pickles in a row (magic, version, system, object, keys), then the raw tensors.
            for _ in range(4):
                _scan_stream(file, found)
        except TooLargeError:
            raise
        except ValueError:
            pass  # a plain pickle is one
    return found.result({"": path.stat().st_size})


@dataclass(frozen=True)
class _Named:
    """A global on the symbolic stack."""

    name: str


class _Tuple:
    """A tuple on the symbolic stack.

    Attributes:
        items: its elements.
        size: how many elements it has when it is written out.
        depth: tuples inside one another.
    """

    def __init__(self, items: list[object]) -> None:
        inside = [item for item in items if isinstance(item, _Tuple)]
        self.items = items
        self.size: int = len(items) + sum(item.size for item in inside)
        self.depth: int = 1 + max((item.depth for item in inside), default=0)
        if self.size > _LARGEST_TUPLE or self.depth > _DEEPEST_TUPLE:
            raise TooLargeError(f"it holds a tuple of {self.size:,} elements, {self.depth:,} tuples deep")


@dataclass
class _Found:
    """What was met so far.

    `storages` are the bytes that tensors declare, by entry of the archive; `folder` is where those of the pickle at
    hand are, and "" if the file is not an archive.
    """

    imports: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    instances: set[str] = field(default_factory=set)
    storages: dict[str, int] = field(default_factory=dict)
    folder: str = ""
    tensors: int = 0
    hashed: int = 0
    steps: int = 0
    protocol: int = 0

    @property
    def _is_loaded(self) -> bool:
        return not self.folder or self.folder.casefold().endswith(_LOADED)

    def named(self, argument: object) -> _Named:
        name = _named(argument)
        self.imports.add(name)
        return _Named(name)

    def call(self, callee: object, arguments: object) -> None:
        name = callee.name if isinstance(callee, _Named) else COMPUTED
        self.calls.add(name)
        if name == _REBUILD_TYPED:
            inner = arguments.items[0] if isinstance(arguments, _Tuple) and arguments.items else None
            self.calls.add(inner.name if isinstance(inner, _Named) else COMPUTED)
        elif name == _ENCODE:
            encoding = arguments.items[-1] if isinstance(arguments, _Tuple) and len(arguments.items) == 2 else None
            if encoding not in _ENCODINGS:
                self.calls.add(f"{name} to {str(encoding)[:20]}")
        self._count(name)

    def step(self, opcode: str, argument: object) -> None:
        """Count an opcode; a reader may make room for as many objects as the memo has indices."""
        self.steps += 1
        if opcode == "PROTO" and isinstance(argument, int):
            self.protocol = max(self.protocol, argument)
        far = opcode in ("PUT", "BINPUT", "LONG_BINPUT") and int(str(argument)) > _MOST_STEPS
        if far or self.steps > _MOST_STEPS:
            raise TooLargeError(f"it makes more than {_MOST_STEPS:,} objects")

    def hash(self, keys: list[object]) -> None:
        """Count what is visited to hash the keys of a dictionary."""
        self.hashed += sum(key.size for key in keys if isinstance(key, _Tuple))
        if self.hashed > _MOST_HASHED:
            raise TooLargeError(f"its dictionaries have tuples of more than {_MOST_HASHED:,} elements as keys")

    def instance(self, callee: object) -> None:
        name = callee.name if isinstance(callee, _Named) else COMPUTED
        self.instances.add(name)
        self._count(name)

    def persistent(self, described: object) -> object:
        """Count a storage, which stands beside the pickle; return the class that a file of the old format describes."""
        match described.items if isinstance(described, _Tuple) else ():
            case ["storage", kind, str() as key, _, int() as count, *_] if self._is_loaded:
                word = kind.name.rpartition(".")[2].removesuffix("Storage") if isinstance(kind, _Named) else ""
                self.storages[self.folder + key] = max(count, 0) * _ITEM_BYTES.get(word, 1)
            case ["module", _Named() as kind, *_]:
                return kind
        return None

    def result(self, held: dict[str, int]) -> PickleScan:
        """Return what was found.

        Args:
            held: bytes by entry of the archive; those of the file under "".

        Raises:
            TooLargeError: a storage declares more than its entry holds.
        """
        total = sum(held.values())
        for record, declared in self.storages.items():
            if declared > (held.get(record, 0) if self.folder else total):
                raise TooLargeError(f"{record} declares {declared:,} bytes of values and holds fewer")
        if sum(self.storages.values()) > total:
            raise TooLargeError(f"it declares {sum(self.storages.values()):,} bytes of values and holds {total:,}")
        return PickleScan(
            frozenset(self.imports), frozenset(self.calls), frozenset(self.instances), protocol=self.protocol
        )

    def _count(self, name: str) -> None:
        self.tensors += name.startswith(_TENSORS)
        if self.tensors > MOST_TENSORS:
            raise TooLargeError(f"it holds more than {MOST_TENSORS:,} tensors; no network has as many")


def _scan_stream(file: IO[bytes], found: _Found) -> None:
    """Run one pickle on a symbolic stack of names, texts, numbers and tuples; everything else is None."""
    stack = _Stack()
    for opcode, argument, _ in pickletools.genops(file):
        found.step(opcode.name, argument)
        try:
            _step(opcode, argument, stack, found)
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError(f"damaged pickle at {opcode.name}") from error


class _Stack:
    """The symbolic stack above the last mark, the stacks below the marks, and the memo."""

    def __init__(self) -> None:
        self.top: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[object, object] = {}

    def push(self, value: object) -> None:
        self.top.append(value)

    def pop(self) -> object:
        return self.top.pop()

    def mark(self) -> None:
        self.marked.append(self.top)
        self.top = []

    def pop_mark(self) -> list[object]:
        items, self.top = self.top, self.marked.pop()
        return items


def _step(opcode: pickletools.OpcodeInfo, argument: object, stack: _Stack, found: _Found) -> None:
    name = opcode.name
    if name == "GLOBAL":
        stack.push(found.named(argument))
    elif name == "STACK_GLOBAL":
        attribute, module = stack.pop(), stack.pop()
        stack.push(found.named(f"{module} {attribute}"))
    elif name in ("REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"):
        _call(name, argument, stack, found)
    elif name == "MARK":
        stack.mark()
    elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
        stack.memo[argument] = stack.top[-1]
    elif name == "MEMOIZE":
        stack.memo[len(stack.memo)] = stack.top[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.push(stack.memo[argument])
    elif name == "DUP":
        stack.push(stack.top[-1])
    elif name in ("APPENDS", "SETITEMS", "ADDITEMS", "POP_MARK"):
        items = stack.pop_mark()
        found.hash(items[::2] if name == "SETITEMS" else items if name == "ADDITEMS" else [])
    elif name == "SETITEM":
        stack.pop()
        found.hash([stack.pop()])
    elif name == "TUPLE":
        items = stack.pop_mark()
        stack.push(_Tuple(items))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        items = [stack.pop() for _ in range(int(name[-1]))]
        stack.push(_Tuple(items[::-1]))
    elif name in ("LIST", "DICT", "FROZENSET"):
        stack.pop_mark()
        stack.push(None)
    elif name == "BINPERSID":
        stack.push(found.persistent(stack.pop()))
    else:
        for _ in opcode.stack_before:
            stack.pop()
        for _ in opcode.stack_after:
            stack.push(argument if isinstance(argument, str | int) else None)


def _call(name: str, argument: object, stack: _Stack, found: _Found) -> None:
    """Take the callee and its arguments off the stack."""
    if name == "INST":
        stack.pop_mark()
        found.call(found.named(argument), None)
    elif name == "OBJ":
        items = stack.pop_mark()
        found.call(items[0] if items else None, None)
    else:
        if name == "NEWOBJ_EX":
            stack.pop()
        arguments, callee = stack.pop(), stack.pop()
        if name == "REDUCE":
            found.call(callee, arguments)
        else:
            found.instance(callee)
    stack.push(None)


def _named(argument: object) -> str:
    """Return the dotted name of a global, in the words of Python 3 as torch's unpickler reads it."""
    module, _, attribute = str(argument).partition(" ")
    if (module, attribute) in NAME_MAPPING:
        module, attribute = NAME_MAPPING[module, attribute]
    else:
        module = IMPORT_MAPPING.get(module, module)
    return f"{module}.{attribute}"
