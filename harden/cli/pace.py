"""How long a task still takes, by its pace of late: one attack's passes cost more than another's."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 20.0
"""The pace is that of so long, or of a `SHARE` of the time since the task began where that is longer."""
SHARE = 0.25


class Pace:
    """Hears how far one task is, and estimates.

    Args:
        now: seconds on any clock that does not go back.
        done: steps that were done before the clock.
    """

    def __init__(self, now: float, done: int) -> None:
        self._began = now
        self._marks: deque[tuple[float, int]] = deque([(now, done)])

    def left(self, now: float, done: int, total: int) -> float | None:
        """Return the seconds left at `now`, with `done` of `total` steps done; None while nothing is known."""
        window = max(WINDOW_SECONDS, SHARE * (now - self._began))
        # A mark before the window stays, so that the pace is never that of less than the window.
        while len(self._marks) > 1 and self._marks[1][0] <= now - window:
            self._marks.popleft()
        since, before = self._marks[0]
        if now - self._marks[-1][0] >= window / 50:
            self._marks.append((now, done))
        if done <= before or now <= since:
            return None
        return (now - since) * max(0, total - done) / (done - before)
