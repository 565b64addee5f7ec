"""Robust accuracy against eps: how much is left at smaller and at larger radii than the audited one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harden.audit.metrics import Proportion, wilson


@dataclass(frozen=True)
class EpsCurve:
    """Images that withstand one attack at rising radii; an image that fell at one counts as fallen at larger ones.

    Attributes:
        definition: of the attack, without eps.
        norm: "linf", "l2" or "l1".
        eps: radii on the [0, 1] scale, rising, the first 0 (clean).
        standing: how many images withstand each.
        total: images attacked, the wrong ones included.
    """

    definition: str
    norm: str
    eps: tuple[float, ...]
    standing: tuple[int, ...]
    total: int

    def accuracies(self) -> tuple[Proportion, ...]:
        """Robust accuracy at each radius."""
        return tuple(wilson(count, self.total) for count in self.standing)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return {
            "definition": self.definition,
            "norm": self.norm,
            "eps": list(self.eps),
            "standing": list(self.standing),
            "total": self.total,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EpsCurve:
        """Read what `to_json` wrote."""
        return cls(data["definition"], data["norm"], tuple(data["eps"]), tuple(data["standing"]), data["total"])
