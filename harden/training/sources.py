"""Which attacks craft the training examples, epoch by epoch: the source attacks, or N-FGSM where they overfit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harden.attacks import CRAFTERS

CURE = 0.1
"""Share of all epochs that N-FGSM takes over for after a first overfitting, before the source attack returns."""
REMEDY = "nfgsm"


class Sources:
    """The source attacks of a run.

    Attributes:
        now: keys of `CRAFTERS` that craft, one for each adversarial domain; none for a defence that crafts nothing.
        used: all that crafted so far, in order.
    """

    def __init__(self, first: Sequence[str]) -> None:
        self.now = tuple(first)
        self.used = list(first)
        self._first = self.now
        self._cured = False
        self._back_at: int | None = None

    @property
    def curable(self) -> bool:
        """Whether a single-step attack crafts that N-FGSM could replace: only these overfit catastrophically."""
        return any(_curable(name) for name in self.now)

    def overfitted(self, epoch: int, epochs: int) -> str:
        """Go on from N-FGSM: for some epochs after `epoch` (from 0) of `epochs` the first time, then for good.

        Return how long, in words that end a sentence.
        """
        self.now = tuple(REMEDY if _curable(name) else name for name in self.now)
        if REMEDY not in self.used:
            self.used.append(REMEDY)
        if self._cured:
            return ""
        self._cured = True
        cure = max(1, round(CURE * epochs))
        self._back_at = epoch + 1 + cure
        return f" for {cure} epoch{'s' if cure > 1 else ''}"

    def stay(self) -> None:
        """Let what crafts now go on for good: a cure that collapses too is no time to return."""
        self._back_at = None

    def returned(self, epoch: int) -> bool:
        """Whether the source attacks take over again now that `epoch` epochs are done."""
        if self._back_at is None or epoch < self._back_at:
            return False
        self.now, self._back_at = self._first, None
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; `load_state_dict` reads it."""
        return {"now": list(self.now), "used": self.used, "cured": self._cured, "back_at": self._back_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another run was."""
        self.now, self.used = tuple(state["now"]), state["used"]
        self._cured, self._back_at = state["cured"], state["back_at"]


def _curable(name: str) -> bool:
    return name != REMEDY and CRAFTERS[name](0.0).steps == 1
