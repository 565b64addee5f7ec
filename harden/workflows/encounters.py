"""Which attacks a model has met, over all the runs that it went through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harden.attacks import ATTACKS, CRAFTERS
from harden.audit.result import Exposure
from harden.audit.runner import exposures_of


@dataclass(frozen=True)
class Encounters:
    """The attacks that a model was trained on and selected by; config.json keeps them.

    Attributes:
        source_attacks: keys of `CRAFTERS`, in order.
        selection_attacks: keys of `ATTACKS`.
    """

    source_attacks: tuple[str, ...] = ()
    selection_attacks: tuple[str, ...] = ()

    def followed_by(self, later: Encounters) -> Encounters:
        """Return these and those of a later run, each once."""
        return Encounters(
            tuple(dict.fromkeys((*self.source_attacks, *later.source_attacks))),
            tuple(dict.fromkeys((*self.selection_attacks, *later.selection_attacks))),
        )

    def exposures(self, eps: float) -> dict[str, Exposure]:
        """Return what an audit at `eps` should say of each attack, by its name.

        Whoever trained on FGSM-EP has seen FGSM: its first epoch is that, and every later step is one.
        """
        crafters = [CRAFTERS[name](eps) for name in self.source_attacks]
        seen = [crafter.name for crafter in crafters]
        if any(crafter.remembers for crafter in crafters):
            seen.append(CRAFTERS["fgsm"](eps).name)
        return exposures_of(
            training=seen,
            selection=[ATTACKS[name](eps).name for name in self.selection_attacks],
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return {name: list(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Encounters:
        """Read what `to_json` wrote, among other keys or not; None is a model that met no attack."""
        if not data:
            return cls()
        return cls(tuple(data.get("source_attacks", ())), tuple(data.get("selection_attacks", ())))
