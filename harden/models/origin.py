"""Where a model came from, in a form that a run folder can write down and read back."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from harden.errors import UnsafeInputError

_LARGEST = 100_000
"""Classes, channels and pixels that a config.json may ask for."""


@dataclass(frozen=True)
class NewHead:
    """Last layers that were replaced.

    Attributes:
        layers: their names in the module.
        classes: their outputs.
    """

    layers: tuple[str, ...]
    classes: int


@dataclass(frozen=True)
class Origin:
    """How to build the user's module again, without its weights.

    Attributes:
        kind: "timm", "torchvision", "factory" (a callable in a file or module) or "pickled" (a skeleton file beside
            the weights).
        reference: the timm or torchvision name, `path/file.py:callable`, `pkg.mod:callable`, or the file's name.
        arguments: keyword arguments of the constructor (JSON values).
        code_sha256: of the file that holds a factory's code; None where no user code is run.
        weights: where the weights were read from, for the record; None for a network that had none.
        head: the last layers that are not those that it is built with; None where all are.
    """

    kind: str
    reference: str
    arguments: dict[str, Any] = field(default_factory=dict)
    code_sha256: str | None = None
    weights: str | None = None
    head: NewHead | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Origin:
        """Read what `to_json` wrote."""
        head = data.get("head")
        return cls(**{**data, "head": NewHead(tuple(head["layers"]), head["classes"]) if head else None})


def require_sizes(
    origin: Origin,
    *,
    numbers: tuple[str, ...],
    pairs: tuple[str, ...] = (),
    shares: tuple[str, ...] = (),
    switches: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
    field: str = "origin.arguments",
) -> None:
    """Return if the arguments of `origin` are nothing but sizes and choices; a constructor may have others.

    These may load files. An argument may be in several of the lists.

    Args:
        origin: as a config.json says, which a stranger may have written.
        numbers: arguments that may be there, each an integer.
        pairs: arguments that may be there, each a list of two integers.
        shares: arguments that may be there, each a number.
        switches: arguments that may be there, each true or false.
        words: arguments that may be there, each a word of letters, digits and underscores.
        field: where config.json has the arguments.

    Raises:
        UnsafeInputError: any other argument, or one that is not of its type.
    """
    kinds: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...] = (
        (numbers, f"an integer up to {_LARGEST:,}", lambda value: _is_int(value) and abs(value) <= _LARGEST),
        (pairs, "two integers", lambda value: _is_list(value) and len(value) == 2 and all(map(_is_int, value))),
        (shares, "a number", lambda value: _is_int(value) or isinstance(value, float)),
        (switches, "true or false", lambda value: isinstance(value, bool)),
        (words, "a word", lambda value: isinstance(value, str) and re.fullmatch(r"\w*", value) is not None),
    )
    for name, value in origin.arguments.items():
        if any(name in names and fits(value) for names, _, fits in kinds):
            continue
        allowed = ", ".join(f"{name} ({what})" for names, what, _ in kinds for name in names)
        raise UnsafeInputError(
            f"config.json asks to build {origin.reference} with {field}.{name} = {str(value)[:80]!r}, which "
            f"could make {origin.kind} read a file or run code",
            hint=f"it may have only {allowed}; if you know who made this file, delete the field",
        )


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
