"""Several processes as forks of a test, each with a seat among them."""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

import torch
import torch._dynamo  # what an optimiser imports, and FSDP: once, and not in every fork
import torch.distributed.fsdp
from torch.distributed import TCPStore

from harden.distributed import Processes, Seat, join

FORKED = "ignore:This process .* is multi-threaded:DeprecationWarning"
"""For `filterwarnings`: a test runner has threads, and the children touch nothing of those."""

PATIENCE = 90.0
"""Seconds after which a process is taken to hang."""
Work = Callable[[Processes], Any]


def in_processes(size: int, work: Work) -> list[Any]:
    """Return what `work` returns in each of `size` processes; raise what it raises there, in words."""
    context = multiprocessing.get_context("fork")
    server = TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)
    # The server looks up the names of who connects, and one that is forked meanwhile would wait for its lock for ever.
    all_forked = context.Event()
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    children = [
        context.Process(target=_seated, args=(rank, size, server.port, all_forked, work, pipe[1]))
        for rank, pipe in enumerate(pipes)
    ]
    try:
        for child, pipe in zip(children, pipes, strict=True):
            child.start()
            pipe[1].close()
        all_forked.set()
        answers = [_answer(pipe[0], rank) for rank, pipe in enumerate(pipes)]
        for child in children:
            child.join()
    finally:
        for child in children:
            if child.pid is not None:
                child.kill()
    failed = [answer["failed"] for answer in answers if isinstance(answer, dict) and "failed" in answer]
    assert not failed, "\n".join(failed)
    return answers


def _answer(pipe: Connection, rank: int) -> Any:
    assert pipe.poll(PATIENCE), f"process {rank} said nothing for {PATIENCE:.0f} s"
    try:
        return torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)
    except EOFError:
        return "gone"


def _seated(rank: int, size: int, port: int, all_forked: Event, work: Work, pipe: Connection) -> None:
    gc.freeze()  # what the parent left behind (stores with threads of their own) is not this one's to end
    torch.set_num_threads(1)
    all_forked.wait()
    try:
        processes = join(Seat(rank, size, rank, size), store=TCPStore("127.0.0.1", port, size, is_master=False))
        answer = work(processes)
        processes.dismiss()
    except Exception:
        answer = {"failed": traceback.format_exc()}
    buffer = io.BytesIO()
    torch.save(answer, buffer)
    pipe.send_bytes(buffer.getvalue())
    pipe.close()
    os._exit(0)
