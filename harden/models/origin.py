"""Where a model came from, in a form that a run folder can write down and read back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from harden.errors import UnsafeInputError


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
    """

    kind: str
    reference: str
    arguments: dict[str, Any] = field(default_factory=dict)
    code_sha256: str | None = None
    weights: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Origin:
        """Read what `to_json` wrote."""
        return cls(**data)


def require_sizes(origin: Origin, *, numbers: tuple[str, ...], pairs: tuple[str, ...] = ()) -> None:
    """Return if the arguments of `origin` are nothing but sizes; a constructor may have others that load files.

    Args:
        origin: as a run folder says, which a stranger may have written.
        numbers: arguments that may be there, each an integer.
        pairs: arguments that may be there, each a list of two integers.

    Raises:
        UnsafeInputError: any other argument, or one that is not of its type.
    """
    for name, value in origin.arguments.items():
        if name in numbers and _is_int(value):
            continue
        if name in pairs and isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_int, value)):
            continue
        allowed = ", ".join((*(f"{n} (an integer)" for n in numbers), *(f"{n} (two integers)" for n in pairs)))
        raise UnsafeInputError(
            f"config.json asks to build {origin.reference} with origin.arguments.{name} = {str(value)[:80]!r}, which "
            f"could make {origin.kind} read a file or run code",
            hint=f"harden writes only {allowed}; if you know who made this folder, delete the field",
        )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
