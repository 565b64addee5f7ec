"""How far an audit is: the work that is done and that is to be expected, in forward passes through the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harden.attacks import Passes

FALLEN_SHARE = 0.15
"""What an attack spends on an image that it fools, as a share of what it spends on one that stands."""


class Meter:
    """Counts the work of all attacks of an audit and expects the rest.

    Args:
        plan: (name, passes on an image that stands to the end, what one of them takes) of each attack, in order; see
            `Attack.pass_cost`.
        images: correctly classified ones.
        progress: called with (attack, work done, work expected in all), in forward passes; None: nobody listens.
    """

    def __init__(
        self, plan: Sequence[tuple[str, int, float]], images: int, progress: Callable[[str, int, int], None] | None
    ) -> None:
        self._plan = plan
        self._images = images
        self._standing = images
        self._progress = progress
        self._nth = 0
        self._done = 0.0
        self._rows = 0
        self._workers = 1
        self._passes: Passes | None = None

    def begin(self, rows: int, workers: int = 1) -> None:
        """The next attack begins on so many images; so many processes are expected to do about as much as this one."""
        self._rows = rows
        self._workers = workers

    def passes(self) -> Passes:
        """Return the counter of the attack that has begun."""
        self._passes = Passes(heard=self._tell)
        return self._passes

    def end(self, standing: int) -> None:
        """The attack is over (or was known already), and so many images withstand everything so far."""
        if self._passes is not None:
            self._done += self._passes.total * self._plan[self._nth][2]
        self._standing, self._passes = standing, None
        self._nth += 1

    def _tell(self) -> None:
        if self._progress is None or self._passes is None:
            return
        name, _, cost = self._plan[self._nth]
        so_far = self._passes.total * self._workers * cost
        expected = self._expected(self._nth, self._rows)
        rows, spent = self._passes.settled
        if rows:  # from here on by what it took so far
            expected = spent * cost * self._rows / rows
        expected = max(expected, so_far)
        later = sum(self._expected(nth, self._standing) for nth in range(self._nth + 1, len(self._plan)))
        self._progress(name, round(self._done + so_far), round(self._done + expected + later))

    def _expected(self, nth: int, rows: int) -> float:
        _, passes, cost = self._plan[nth]
        share = self._standing / max(1, self._images)
        return rows * passes * cost * (share + FALLEN_SHARE * (1 - share) if rows > self._standing else 1)
