"""Starting the processes of one run on this machine, or taking a place among those that torchrun started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from harden.cli.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, exit_code
from harden.cli.streams import write_directly
from harden.errors import HardenError, ProcessLostError, UsageError
from harden.process_exit import leave

if TYPE_CHECKING:
    from harden.distributed import Processes, Seat

LOCALHOST = "127.0.0.1"
FEWEST_ALLOWED = 8
"""So many processes may be asked for on any machine."""
GRACE_SECONDS = 60.0
"""How long the leader may take to notice that a follower is gone, before this program ends without it."""

_FOLLOWER = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from harden.cli.main import main; main()"


@contextmanager
def together(count: int | None) -> Iterator[Processes]:
    """Yield the processes of this run: those that torchrun started, or `count` of them, or this one alone.

    Of `count` this one leads. The others are started with the same command; what a terminal sends, such as Ctrl-C, goes
    to the leader, which tells them. They end with it.

    Raises:
        UsageError: `count` is impossible, or not what torchrun started.
        ProcessLostError: a process did not come.
    """
    from harden import distributed
    from harden.resources import count_cores

    if count is not None and count < 1:
        raise UsageError(f"--processes {count} does nothing", hint="give a number from 1 on, or leave it out")
    if count is not None and count > (most := max(FEWEST_ALLOWED, count_cores().usable)):
        raise UsageError(
            f"--processes {count} is more than this machine can run at once: it has {count_cores().usable} cores",
            hint=f"at most {most}: one for each GPU, or fewer than there are cores",
        )
    seat = distributed.seat_in(os.environ)
    if seat is not None and count not in (None, seat.size):
        raise UsageError(
            f"torchrun started {seat.size} processes, and --processes asks for {count}", hint="leave --processes out"
        )
    if seat is not None:
        processes = distributed.join(seat)
        try:
            yield processes
        finally:
            processes.dismiss()
    elif count is None or count == 1:
        yield distributed.ALONE
    else:
        with _led(count) as processes:
            yield processes


def following(processes: Processes, work: Callable[[], None]) -> None:
    """Do a follower's work, and leave it to the leader to tell the user where it fails.

    Raises:
        typer.Exit: it failed; with the exit code that the leader will have, too.
    """
    try:
        work()
    except ProcessLostError:
        raise typer.Exit(EXIT_FAILURE) from None
    except HardenError as error:
        processes.last_words(error.message)
        raise typer.Exit(exit_code(error)) from None
    except Exception as error:
        processes.last_words(f"{type(error).__name__}: {str(error)[:300]}")
        if os.environ.get("HARDEN_DEBUG"):
            raise
        raise typer.Exit(EXIT_FAILURE) from None


@contextmanager
def _led(count: int) -> Iterator[Processes]:
    """Start `count` - 1 followers, and lead them."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from harden import distributed
    from harden.resources import count_cores

    # A socket of ours, because torch's own would listen on every network.
    with socket.create_server((LOCALHOST, 0)) as server:
        port = server.getsockname()[1]
        store = TCPStore(
            LOCALHOST, port, count, is_master=True, wait_for_workers=False, master_listen_fd=server.detach()
        )
    threads = max(1, count_cores().usable // count)
    children = [_start(distributed.Seat(rank, count, rank, count), port, threads) for rank in range(1, count)]
    processes = None
    try:
        seat = distributed.Seat(0, count, 0, count)
        processes = distributed.join(seat, store=store, threads=threads, waiting=lambda: _require(children))
        for child in children:
            threading.Thread(target=_watch, args=(child, processes), daemon=True).start()
        yield processes
    finally:
        if processes is not None:
            processes.dismiss()
        for child in children:
            _end(child)


def _start(seat: Seat, port: int, threads: int) -> subprocess.Popen[bytes]:
    """Start a follower with this program's command; a session of its own keeps it from a terminal's signals."""
    variables = {"OMP_NUM_THREADS": str(threads), **os.environ, **seat.environment(port)}
    # -P and our own sys.path: the current folder must not be searched where it is not searched now.
    path = json.dumps([str(entry) for entry in sys.path])
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _FOLLOWER, path, *sys.argv[1:]],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _require(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank, child in enumerate(children, 1):
        if child.poll() is not None:
            raise ProcessLostError(
                f"process {rank} of 0 to {len(children)} ended before it could begin ({_how(child.returncode)})",
                hint="fewer --processes, or the same command with --debug",
            )


def _watch(child: subprocess.Popen[bytes], processes: Processes) -> None:
    """End this program where a follower ends badly and the leader, waiting for it on a GPU, does not notice."""
    code = child.wait()
    if code in (EXIT_OK, EXIT_INTERRUPTED):  # a stop that all have agreed on: the leader may still be writing
        return
    time.sleep(GRACE_SECONDS)
    if processes.size > 1:
        write_directly(
            f"error: a process of this run is gone ({_how(code)}); what was finished is kept: continue with harden fit "
            "--resume and the folder, or the same harden report\n"
        )
        leave(EXIT_FAILURE)


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let a follower end by itself, which it does without a leader, or else end it."""
    try:
        child.wait(GRACE_SECONDS / 10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
