"""Which attack crafts the training examples, epoch by epoch: the source attack, or N-FGSM where that overfits."""

from __future__ import annotations

from typing import Any

CURE = 0.1
"""Share of all epochs that N-FGSM takes over for after a first overfitting, before the source attack returns."""
REMEDY = "nfgsm"


class Sources:
    """The source attack of a run.

    Attributes:
        now: key of `CRAFTERS` that crafts, or None for a defence that crafts nothing.
        used: all that crafted so far, in order.
    """

    def __init__(self, first: str | None) -> None:
        self.now = first
        self.used = [first] if first else []
        self._back_at: int | None = None

    def overfitted(self, epoch: int, epochs: int) -> str:
        """Go on from N-FGSM: for some epochs after `epoch` (from 0) of `epochs` the first time, then for good.

        Return how long, in words that end a sentence.
        """
        self.now = REMEDY
        if REMEDY in self.used:
            return ""
        self.used.append(REMEDY)
        cure = max(1, round(CURE * epochs))
        self._back_at = epoch + 1 + cure
        return f" for {cure} epoch{'s' if cure > 1 else ''}"

    def stay(self) -> None:
        """Let what crafts now go on for good: a cure that collapses too is no time to return."""
        self._back_at = None

    def returned(self, epoch: int) -> bool:
        """Whether the source attack takes over again now that `epoch` epochs are done."""
        if self._back_at is None or epoch < self._back_at:
            return False
        self.now, self._back_at = self.used[0], None
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; `load_state_dict` reads it."""
        return {"now": self.now, "used": self.used, "back_at": self._back_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another run was."""
        self.now, self.used, self._back_at = state["now"], state["used"], state["back_at"]
