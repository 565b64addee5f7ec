"""Taking a seat among the processes of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from harden.distributed.processes import LOOK_SECONDS, Processes
from harden.distributed.seat import Seat
from harden.errors import ProcessLostError

PATIENCE = timedelta(minutes=30)
"""How long a process waits for another in an exchange before it takes that one for lost."""
LONG_PATIENCE = timedelta(days=7)
"""How long where processes `meet`: one may have a batch of an attack before it that takes hours."""


def join(
    seat: Seat,
    *,
    store: Store | None = None,
    threads: int | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> Processes:
    """Take a seat among the processes of a run, and wait until all are taken.

    Where the machine has a GPU for each of its processes, "cuda" means that of this one from here on.

    Args:
        seat: of this process.
        store: what the processes find each other in; None: what torchrun's variables say.
        threads: that this process may compute with while it has a seat; None: as many as it does.
        waiting: called while others have not come; may raise.

    Raises:
        ProcessLostError: another one did not come.
    """
    gpus = torch.cuda.is_available() and torch.cuda.device_count() >= seat.local_size
    if gpus:
        torch.cuda.set_device(seat.local_rank)
    try:
        found = next(rendezvous("env://", timeout=PATIENCE))[0] if store is None else store
        words = PrefixStore("words", found)
        words.set(f"here/{seat.rank}", "")
        while seat.rank == 0 and not words.check([f"here/{rank}" for rank in range(seat.size)]):
            waiting()
            time.sleep(LOOK_SECONDS)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo",
            store=PrefixStore("exchange", found),
            rank=seat.rank,
            world_size=seat.size,
            timeout=PATIENCE,
        )
        meeting = dist.new_group(backend="gloo", timeout=LONG_PATIENCE)
    except (RuntimeError, ValueError) as error:  # the latter for variables that are not there
        raise ProcessLostError(
            f"the {seat.size} processes of this run did not find each other: {str(error)[:200]}",
            hint="start all of them at once, and see that they reach MASTER_ADDR at MASTER_PORT",
        ) from error
    processes = Processes(seat.rank, seat.size, words, meeting=meeting, gpus=gpus)
    if threads is not None:
        torch.set_num_threads(min(threads, torch.get_num_threads()))
    return processes
