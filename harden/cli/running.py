"""Around every command: errors become a message and an exit code, and Ctrl-C asks before it ends."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

import typer

from harden import stopping
from harden.cli.streams import write_directly

if TYPE_CHECKING:
    from harden.cli.console import Terminal

ECHO_SECONDS = 1.0
"""Signals that come so soon after one another are one, where torchrun started the program."""


def run_command(body: Callable[[Terminal], None], *, quiet: bool = False, shared: bool = False) -> None:
    """Run `body` with a terminal; exit with the documented code on failure.

    With HARDEN_DEBUG=1 (the flag --debug) errors keep their traceback.

    Args:
        body: what the command does.
        quiet: print results only.
        shared: whether several processes, as torchrun starts them, do this together. Others are refused: each would do
            all of it, and write over the same files.
    """
    from harden.cli.console import Terminal
    from harden.cli.errors import EXIT_FAILURE, EXIT_INTERRUPTED, exit_code, refused_by_system
    from harden.errors import HardenError
    from harden.process_exit import exit_refused

    terminal = Terminal(quiet=quiet)
    try:
        if not shared:
            _require_one_process()
        # Libraries and the user's own code print as they like; standard output is for results.
        chatter = Chatter(terminal.err.file)
        with redirect_stdout(chatter), redirect_stderr(chatter), exit_refused():
            body(terminal)
    except typer.Exit:
        raise
    except HardenError as error:
        if os.environ.get("HARDEN_DEBUG"):
            raise
        terminal.error(error.message, error.hint)
        raise typer.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        terminal.error("stopped", None)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BaseException as error:
        if os.environ.get("HARDEN_DEBUG"):
            raise
        if (refused := refused_by_system(error)) is not None:
            terminal.error(refused.message, refused.hint)
            raise typer.Exit(exit_code(refused)) from None
        terminal.error(*_explained(error))
        raise typer.Exit(EXIT_FAILURE) from None


def _explained(error: BaseException) -> tuple[str, str]:
    """Return the message and the repair for an error that nobody raised for the user."""
    from harden.errors import text_of
    from harden.memory import is_out_of_memory

    if is_out_of_memory(error):
        return (
            f"memory ran out ({text_of(error)[:200]})",
            "a smaller --image-size, fewer images, another --device, or fewer programs beside it",
        )
    if "harden.models.user_code" in sys.modules:
        from harden.models.user_code import failure, place_of

        if place_of(error) is not None:  # in a backward pass, a hook, a copy: wherever torch calls it
            found = failure(error, "your code")
            return found.message, found.hint or ""
    if isinstance(error, RecursionError):
        return (
            "calls went deeper than Python allows, as they do where one module of a network contains itself",
            "look at the network for modules that contain each other; --debug shows the calls",
        )
    return (
        f"this is a defect in harden: {type(error).__name__}: {text_of(error)[:300]}",
        "run the same command with --debug for the traceback, and report it",
    )


class Chatter(io.TextIOBase):
    """Standard output and error of libraries and the user's code: it goes to `stream`, and closing it does nothing."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write to the other stream; text that it cannot take is left out."""
        with suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the other stream."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def writable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Leave the other stream open."""

    def fileno(self) -> int:
        """Return that of the other stream."""
        return self._stream.fileno()


def _require_one_process() -> None:
    """Return if this process is not one of several that were started with the same command.

    Raises:
        UsageError: torchrun's variables say that it is.
    """
    from harden.errors import UsageError

    size = os.environ.get("WORLD_SIZE", "")
    if "RANK" in os.environ and size.isdecimal() and int(size) > 1:
        raise UsageError(
            f"{size} processes were started with this command (RANK and WORLD_SIZE are set), and only harden fit "
            "and harden report share their work among several",
            hint="start it without torchrun, or unset RANK and WORLD_SIZE",
        )


@contextmanager
def stoppable(wanted: bool = True) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C or SIGTERM finish the current unit of work (see `harden.stopping`); a second ends at once.

    torchrun passes on to its processes what a terminal has sent to each of them already: that is one signal.

    Args:
        wanted: whether signals are to be caught; otherwise nothing is changed.

    Yields:
        Whether there was a signal.
    """
    if not wanted:
        yield lambda: False
        return
    from harden.errors import Interrupted

    asked: float | None = None
    previous: dict[int, Any] = {}
    among_others = "WORLD_SIZE" in os.environ
    leads = os.environ.get("RANK", "0") == "0"

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        now = time.monotonic()
        if asked is not None and not (among_others and now - asked < ECHO_SECONDS):
            raise KeyboardInterrupt
        if asked is None and leads:
            # Not through rich: a handler may run in the middle of its printing.
            write_directly("\nstopping after this step; again to end at once\n")
        asked = now if asked is None else asked

    def answer() -> None:
        if asked is not None:
            raise Interrupted("stopped")

    for number in map(int, (signal.SIGINT, signal.SIGTERM)):
        previous[number] = signal.signal(number, on_signal)
    try:
        with stopping.asking(answer):
            yield lambda: asked is not None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def typed_command() -> str:
    """Return the command as the user typed it, for the record."""
    import shlex

    return shlex.join(["harden", *sys.argv[1:]])
