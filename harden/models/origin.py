"""Where a model came from, in a form that a run folder can write down and read back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


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
