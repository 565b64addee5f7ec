"""How a workflow tells a person what it does, without knowing how it will be shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Narrator(Protocol):
    """Hears what a workflow does; the command line shows it, tests collect it."""

    def heading(self, text: str) -> None:
        """A new stage begins."""

    def note(self, text: str) -> None:
        """Something worth knowing."""

    def warn(self, text: str) -> None:
        """Something that a person should look at."""

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows of text."""

    def progress(self, task: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` steps of `task`; the last call of a task has done == total."""


class Silent:
    """A narrator that says nothing."""

    def heading(self, text: str) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Say nothing."""

    def progress(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Say nothing."""
