"""The only printer: results on standard output, everything on the way on standard error."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harden.cli.pace import Pace
from harden.cli.streams import failure_of
from harden.durations import duration
from harden.errors import WriteError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

PLAIN_SECONDS = 15.0
"""How often a piped run says how far it is."""
DEFAULT_WIDTH = 100


class Terminal:
    """A narrator that shows a person what happens: a live bar on a terminal, plain lines when piped.

    Args:
        quiet: show warnings only.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        self.quiet = quiet
        self.out: Console = _console(Console, sys.stdout)
        self.err: Console = _console(Console, sys.stderr)
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._paces: dict[str, Pace] = {}
        self._told: dict[str, float] = {}
        self._reached: dict[str, int] = {}

    def heading(self, text: str) -> None:
        """A new stage begins."""
        if not self.quiet:
            self._close()
            self.err.print()
            self.err.print(text, style="bold cyan", markup=False, highlight=False)

    def note(self, text: str) -> None:
        """Something worth knowing."""
        if not self.quiet:
            self.err.print(f"  {text}", markup=False, highlight=False, soft_wrap=False)

    def warn(self, text: str) -> None:
        """Something that a person should look at."""
        self.err.print(f"warning: {text}", style="yellow", markup=False, highlight=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows of text."""
        if self.quiet:
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim", show_edge=False)
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.err.print(table)

    def progress(self, task: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` steps of `task`."""
        if self.quiet or total <= 0:
            return
        now = time.monotonic()
        if done < self._reached.get(task, 0):  # the same task once more, of another model
            self._paces.pop(task, None)
            self._told.pop(task, None)
        self._reached[task] = done
        if task not in self._paces:
            self._paces[task] = Pace(now, done)
        left = self._paces[task].left(now, done, total)
        if not self.err.is_terminal:
            if now - self._told.setdefault(task, now) >= PLAIN_SECONDS and done < total and left is not None:
                self._told[task] = now
                self.err.print(f"  {task}: {done} of {total}, {_eta(left)}", markup=False, highlight=False)
            return
        if self._progress is None:
            self._progress = _bars(self.err)
            self._progress.start()
        if task not in self._bars:
            for other in self._bars.values():
                self._progress.remove_task(other)
            self._bars = {task: self._progress.add_task(task, total=total, left="")}
        self._progress.update(self._bars[task], completed=done, total=total, left=_eta(left))
        if done >= total:
            self._close()

    def result(self, *renderables: Any) -> None:
        """Print results on standard output."""
        self._close()
        for renderable in renderables:
            self.out.print(renderable, markup=False, highlight=False)

    def verbatim(self, text: str) -> None:
        """Print on standard output what is to be copied: never broken into lines."""
        self._close()
        self.out.print(text, markup=False, highlight=False, soft_wrap=True)

    def json(self, document: Any) -> None:
        """Print a document as one line of JSON on standard output.

        Raises:
            WriteError: it cannot be written there.
        """
        self._close()
        stream = self.out.file
        print(json.dumps(document), file=stream)
        failure = failure_of(stream)
        if failure is not None:
            raise WriteError(
                f"the JSON cannot be written to standard output: {failure.strerror}",
                hint="send standard output to a file on a disk with space, or to a program that reads all of it",
            )

    def error(self, message: str, hint: str | None) -> None:
        """Print an error and its repair on standard error."""
        self._close()
        self.err.print(f"error: {message}", style="bold red", markup=False, highlight=False)
        if hint:
            self.err.print(f"  try: {hint}", markup=False, highlight=False)

    @property
    def width(self) -> int:
        """Columns of standard output."""
        return self.out.width

    @property
    def encoding(self) -> str:
        """Of standard output."""
        return self.out.encoding

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._bars = None, {}


def _eta(seconds: float | None) -> str:
    return "" if seconds is None else f"about {duration(seconds)} left"


def _console(kind: type[Console], stream: Any) -> Console:
    """A console; where the stream is no terminal, as wide as COLUMNS says or 100 columns.

    Letters that the stream's encoding lacks, of class names or folders, are written as escapes.
    """
    import os

    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    if stream.isatty() or os.environ.get("COLUMNS"):
        return kind(file=stream)
    return kind(file=stream, width=DEFAULT_WIDTH)


def _bars(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
    )
    from rich.text import Text

    class Elapsed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(duration(task.elapsed or 0.0))

    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        Elapsed(),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
    )
