"""The index of timm's and torchvision's networks by the names and shapes of their parameters.

It ships as `architectures.json` and is made by `python -m tests.models.make_architectures`. The number of classes and
of input channels are left out of it, so that weights for any data are found.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
"""Of a state dict, by key."""

INDEX_FILE = "architectures.json"
_DIGITS = 16
_SKETCHED = 24
"""Parameters of a network that are kept to compare it by: a similarity is known to about a twentieth."""


@dataclass(frozen=True)
class Place:
    """Where a number stands: the `axis` of the tensor `key`."""

    key: str
    axis: int

    def read(self, shapes: Shapes) -> int:
        """Return the number in a state dict that has the key."""
        return shapes[self.key][self.axis]


@dataclass(frozen=True)
class Architecture:
    """One set of names and shapes, and the networks that have it.

    Attributes:
        names: `timm:NAME` and `torchvision:NAME`.
        keys: digest of the names of the parameters and buffers.
        shapes: digest of the names with the shapes, but for the open axes.
        open: axes whose length follows the number of classes or of input channels, by key.
        classes: where the number of classes stands; None where it stands nowhere.
        channels: where the number of input channels stands; None where it is fixed.
        sketch: of the names with the shapes; see `similarity`.
    """

    names: tuple[str, ...]
    keys: str
    shapes: str
    open: Mapping[str, tuple[int, ...]]
    classes: Place | None
    channels: Place | None
    sketch: frozenset[int]

    def has(self, shapes: Shapes) -> bool:
        """Whether these are its names and shapes, for some number of classes and channels."""
        return self.keys == digest(shapes) and self.shapes == digest(described(shapes, self.open))


def digest(texts: Iterable[str]) -> str:
    """Return 16 hexadecimal digits that change with the set of texts."""
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:_DIGITS]


def described(shapes: Shapes, open_axes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return one text for each key, with its shape but for the lengths of the open axes."""
    return [
        f"{key} {'x'.join('?' if axis in open_axes.get(key, ()) else str(n) for axis, n in enumerate(shape))}"
        for key, shape in shapes.items()
    ]


def sketch_of(texts: Iterable[str]) -> frozenset[int]:
    """Return the smallest hashes of a set of texts (bottom-k sketch, Cohen and Kaplan 2007)."""
    hashes = {int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts}
    return frozenset(sorted(hashes)[:_SKETCHED])


def similarity(one: frozenset[int], other: frozenset[int]) -> float:
    """Return about how many of the texts of two sketched sets are in both, as a share of their union in [0, 1]."""
    smallest = sorted(one | other)[:_SKETCHED]
    return sum(number in one and number in other for number in smallest) / len(smallest) if smallest else 0.0


@functools.cache
def architectures() -> tuple[Architecture, ...]:
    """Return the index that ships."""
    text = importlib.resources.files("harden.models").joinpath(INDEX_FILE).read_text(encoding="utf-8")
    return from_json(json.loads(text))


def from_json(data: dict[str, Any]) -> tuple[Architecture, ...]:
    """Read what `to_json` wrote."""
    tables = [{key: tuple(axes) for key, axes in table.items()} for table in data["open"]]
    return tuple(
        Architecture(
            names=tuple(names),
            keys=keys,
            shapes=shapes,
            open=tables[table],
            classes=Place(*classes) if classes else None,
            channels=Place(*channels) if channels else None,
            sketch=_numbers(sketch),
        )
        for names, keys, shapes, table, classes, channels, sketch in data["networks"]
    )


def to_json(found: Iterable[Architecture], made_with: Mapping[str, str]) -> str:
    """Return the index as JSON, one line for each architecture, by name.

    Args:
        found: the architectures.
        made_with: versions of the libraries.
    """
    tables: list[Mapping[str, tuple[int, ...]]] = []
    lines = []
    for one in sorted(found, key=lambda one: one.names):
        if one.open not in tables:
            tables.append(one.open)
        places = [[place.key, place.axis] if place else None for place in (one.classes, one.channels)]
        row = [one.names, one.keys, one.shapes, tables.index(one.open), *places, _text(one.sketch)]
        lines.append(json.dumps(row, separators=(",", ":")))
    open_lines = ",\n".join(json.dumps(table, separators=(",", ":")) for table in tables)
    networks = ",\n".join(lines)
    return f'{{"made_with":{json.dumps(dict(made_with))},\n"open":[\n{open_lines}\n],\n"networks":[\n{networks}\n]}}\n'


def _text(sketch: frozenset[int]) -> str:
    return base64.b64encode(struct.pack(f">{len(sketch)}I", *sorted(sketch))).decode()


def _numbers(text: str) -> frozenset[int]:
    packed = base64.b64decode(text)
    return frozenset(struct.unpack(f">{len(packed) // 4}I", packed))
