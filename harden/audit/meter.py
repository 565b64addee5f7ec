"""How far an audit is, in passes through the model: what is done, and what is to be expected."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harden.attacks import Passes

FALLEN_SHARE = 0.15
"""What an attack spends on an image that it fools, as a share of what it spends on one that stands."""


class Meter:
    """Counts passes over all attacks of an audit and expects the rest.

    Args:
        plan: (name, passes on an image that stands to the end) of each attack, in order.
        images: correctly classified ones.
        progress: called with (attack, passes done, passes expected in all); None: nobody listens.
    """

    def __init__(
        self, plan: Sequence[tuple[str, int]], images: int, progress: Callable[[str, int, int], None] | None
    ) -> None:
        self._plan = plan
        self._images = images
        self._standing = images
        self._progress = progress
        self._nth = 0
        self._done = 0
        self._rows = 0
        self._passes: Passes | None = None

    def begin(self, rows: int) -> None:
        """The next attack begins on so many images."""
        self._rows = rows

    def passes(self) -> Passes:
        """Return the counter of the attack that has begun."""
        self._passes = Passes(heard=self._tell)
        return self._passes

    def end(self, standing: int) -> None:
        """The attack is over (or was known already), and so many images withstand everything so far."""
        if self._passes is not None:
            self._done += self._passes.total
        self._standing, self._passes = standing, None
        self._nth += 1

    def _tell(self) -> None:
        if self._progress is None or self._passes is None:
            return
        name, _ = self._plan[self._nth]
        done = self._done + self._passes.total
        expected = self._expected(self._nth, self._rows)
        rows, spent = self._passes.settled
        if rows:  # from here on by what it took so far
            expected = round(spent * self._rows / rows)
        expected = max(expected, self._passes.total)
        later = sum(self._expected(nth, self._standing) for nth in range(self._nth + 1, len(self._plan)))
        self._progress(name, done, self._done + expected + later)

    def _expected(self, nth: int, rows: int) -> int:
        share = self._standing / max(1, self._images)
        return round(rows * self._plan[nth][1] * (share + FALLEN_SHARE * (1 - share) if rows > self._standing else 1))
