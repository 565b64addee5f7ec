"""A run's time budget: how much of it the run has spent, kept beside its checkpoint so that a resumed run knows."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harden.durations import duration, larger_budget
from harden.errors import BudgetError
from harden.files import write_whole
from harden.stopping import asking
from harden.workflows.run_files import read_run_file

KEEP_SECONDS = 5.0
"""How often the spent seconds are written down; what a killed process did since then is not counted."""


GRACE = 0.03
"""Share of a budget by which a run may overrun it, for what cannot be stopped half-way."""


@contextmanager
def time_limit(seconds: float | None, began: float) -> Iterator[None]:
    """End the work in this context once a budget is spent; None for no budget.

    Raises:
        BudgetError: it is spent; the hint names a larger one.
    """

    def answer() -> None:
        if seconds is not None and time.monotonic() - began >= seconds * (1 + GRACE):
            raise BudgetError(
                f"the budget of {duration(seconds)} was spent before the run ended", hint=larger_budget(2 * seconds)
            )

    with asking(answer):
        yield


class Budget:
    """Seconds that a run may take, counted while it runs: the pause before a `--resume` costs nothing.

    Args:
        path: where to keep it.
        seconds: for the whole run.
        spent: by the processes that ran it before this one.
        began: when this process did, on the clock of `time.monotonic`.
        attack_pass, finish_seconds: what the plan measured (see `Timing` and `Plan`); 0 before there is one.

    Attributes:
        drift: how many times as long as planned a pass has taken of late.
    """

    def __init__(
        self,
        path: Path,
        seconds: float,
        *,
        began: float,
        spent: float = 0.0,
        attack_pass: float = 0.0,
        finish_seconds: float = 0.0,
    ) -> None:
        self.path = path
        self.seconds = seconds
        self.began = began - spent
        self.attack_pass = attack_pass
        self.finish_seconds = finish_seconds
        self.drift = 1.0
        self._kept = began

    @classmethod
    def read(cls, path: Path, *, began: float) -> Budget:
        """Return what `keep` wrote, as of a process that began at `began`.

        Raises:
            RunFolderError: the file is missing or damaged.
        """
        names = ("seconds", "spent", "attack_pass", "finish_seconds")

        def numbers(file: Path) -> tuple[float, ...]:
            data = json.loads(file.read_text(encoding="utf-8"))
            found = tuple(float(data[name]) for name in names)
            if not all(map(math.isfinite, found)) or min(found) < 0:
                raise ValueError(f"{dict(zip(names, found, strict=True))} are no seconds")
            return found

        seconds, spent, attack_pass, finish_seconds = read_run_file(path, numbers)
        return cls(path, seconds, began=began, spent=spent, attack_pass=attack_pass, finish_seconds=finish_seconds)

    def training_is_over(self) -> bool:
        """Return whether what comes after training needs all the time that is left."""
        return time.monotonic() >= self.deadline - self.finish_seconds * self.drift

    def share_left(self) -> float:
        """Return the time that is left as a share of what the rest needs, in [0, 1]; the rest is the end of the run."""
        needed = self.finish_seconds * self.drift
        return 1.0 if needed <= 0 else min(1.0, max(0.0, self.deadline - time.monotonic()) / needed)

    @property
    def deadline(self) -> float:
        """When the budget is spent, on the clock of `time.monotonic`, if the run is not stopped until then."""
        return self.began + self.seconds

    def tick(self) -> None:
        """Write down what is spent, if that was not done for a while."""
        if time.monotonic() - self._kept >= KEEP_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write down what is spent."""
        self._kept = time.monotonic()
        values = {
            "seconds": self.seconds,
            "spent": round(self._kept - self.began, 3),
            "attack_pass": self.attack_pass,
            "finish_seconds": self.finish_seconds,
        }
        write_whole(self.path, json.dumps(values, indent=1) + "\n")
