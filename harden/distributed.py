"""Several processes that train one model, and everything that they tell each other.

The process with rank 0 leads: it prepares the run, prints, and writes every file. The others follow: they open the run
folder that the leader has made, and take their part of every batch and of every held-out measurement.

Not torch's DistributedDataParallel. It wraps one module and averages its gradients while they are computed; it supports
neither `autograd.grad`, which crafting needs, nor a loss that owns discriminators and taps features by a hook, and it
takes parts for equally large. Here every process weighs its loss, a mean over its own samples, by its share of the
batch, and after the backward pass all gradients are summed. That sum is the gradient of the mean over the whole batch,
whatever the loss consists of, class-wise terms included. The price: the sum does not overlap with the backward pass.

Where a process is slower or runs out of memory the others must not go on to another exchange than it does. So the
processes exchange at fixed points only, and whatever decides which point comes next is agreed upon there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from harden.errors import Interrupted, ProcessLostError, UsageError
from harden.memory import is_out_of_memory

PATIENCE = timedelta(minutes=30)
"""How long a process waits for another in an exchange before it takes that one for lost."""
LOOK_SECONDS = 0.1
"""How often a follower looks whether the leader has said something."""
FAREWELL_SECONDS = 5.0
"""How long the leader waits for the last words of a process that is gone, or for the followers to go."""
BUCKET = 2**23
"""Values that are summed in one exchange: 32 MiB of float32, which is all the memory that the sum takes."""


class _MemoryElsewhere(MemoryError):  # noqa: N818 - as is MemoryError
    """Memory ran out in another process, and all of them know."""


@dataclass(frozen=True)
class Seat:
    """Which of the processes this one is.

    Attributes:
        rank: from 0, which leads.
        size: how many there are.
        local_rank: among those of this machine.
        local_size: how many of them are on this machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int

    def environment(self, port: int) -> dict[str, str]:
        """Return torchrun's variables for a process on this machine that finds the leader at `port`."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }


def seat_in(environment: Mapping[str, str]) -> Seat | None:
    """Return the seat that torchrun's variables name; None for a process of its own.

    Raises:
        UsageError: they contradict each other.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local = int(environment.get("LOCAL_RANK", rank)), int(environment.get("LOCAL_WORLD_SIZE", size))
        sound = 0 <= rank < size and 0 <= local[0] < local[1] <= size
    except ValueError:
        sound = False
    if not sound:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        raise UsageError(
            "the environment names no process of a run: "
            + ", ".join(f"{name}={environment[name]}" for name in names if name in environment),
            hint="start with torchrun or --processes, or unset RANK and WORLD_SIZE",
        )
    return Seat(rank, size, *local) if size > 1 else None


class Processes:
    """The processes of a run, seen from one of them; `ALONE` where there is only this one, which exchanges nothing.

    Attributes:
        rank: of this one, from 0.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Store | None = None, *, gpus: bool = False) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._gpus = gpus
        self._words = 0
        self._broken = False
        self._threads = torch.get_num_threads()

    @property
    def leads(self) -> bool:
        """Whether this is the one that prepares, prints and writes."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Return which of `count` samples in order are this process's: as many as the others', or one more or less."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def require(self, device: torch.device) -> None:
        """Return if the processes of this machine can train on `device`.

        Raises:
            UsageError: there are fewer GPUs than processes.
        """
        if self.size > 1 and device.type == "cuda" and not self._gpus:
            count = torch.cuda.device_count()
            raise UsageError(
                f"each process trains on a GPU of its own, and this machine has {count}",
                hint=f"start {count} here, or train on the CPU with --device cpu",
            )

    # -- exchanges, in which all processes take part in the same order -------------------------------------------------

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes of `values`, which have the same shape and dtype in each; in place."""
        if self.size > 1:
            self._exchange(partial(dist.all_reduce, values))
        return values

    def sum_all(self, tensors: Sequence[Tensor]) -> None:
        """Replace each of `tensors` by its sum over all processes, many of them at a time."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = self.sum(torch.cat([tensor.detach().reshape(-1) for tensor in bucket]))
            for tensor, values in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.detach().copy_(values.view(tensor.shape))

    def whole(self, own: Tensor, count: int) -> Tensor:
        """Return the values (count, ...) of all samples, of which `own` (n, ...) are those of this process's part."""
        if self.size == 1:
            return own
        values = own.new_zeros((count, *own.shape[1:]))
        values[self.part(count)] = own
        return self.sum(values)

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in any process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor([int(flag)])).item())

    def make_alike(self, *modules: nn.Module) -> None:
        """Give the parameters and buffers of `modules` the leader's values in every process."""
        if self.size == 1:
            return
        for module in modules:
            for values in (*module.parameters(), *module.buffers()):
                kept = values.detach().contiguous()
                self._exchange(partial(dist.broadcast, kept, 0))
                values.detach().copy_(kept)

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Work of this process alone; where memory runs out in one of them, all of them raise a `MemoryError`."""
        try:
            yield
        except _MemoryElsewhere:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                self.any(True)
            raise
        self.agree_on_memory()

    def agree_on_memory(self) -> None:
        """Go on where memory has run out in no process.

        Raises:
            MemoryError: it has run out in another one.
        """
        if self.any(False):
            raise _MemoryElsewhere("memory ran out in another process")

    def _exchange(self, work: Callable[[], object]) -> None:
        try:
            work()
        except RuntimeError as error:  # torch has no class for a peer that is gone
            if is_out_of_memory(error):
                raise
            raise self._lost() from error

    # -- words, from the leader to all others --------------------------------------------------------------------------

    def tell(self, word: str) -> None:
        """Say `word` (not empty) to all followers, who `hear` it when they come to it."""
        if self._store is not None and self.leads:
            self._store.set(f"word/{self._words}", word)
            self._words += 1

    def hear(self, stop_requested: Callable[[], bool] = lambda: False) -> str | None:
        """Return the next word of the leader, once there is one; None where no more will come.

        Raises:
            Interrupted: a stop was requested meanwhile.
            ProcessLostError: the leader is gone.
        """
        if self._store is None:
            return None
        key = f"word/{self._words}"
        try:
            while not self._store.check([key]):
                if stop_requested():
                    raise Interrupted("stopped")
                time.sleep(LOOK_SECONDS)
            word = self._store.get(key).decode()
        except RuntimeError as error:  # torch.distributed's own errors are such
            raise self._lost() from error
        self._words += 1
        return word or None

    def last_words(self, text: str) -> None:
        """Leave for the leader why this process ends."""
        if self._store is not None:
            with suppress(RuntimeError):
                self._store.set(f"last/{self.rank}", text)

    def dismiss(self) -> None:
        """Let the followers go, if this is the leader, and exchange nothing any more; a second time does nothing."""
        if self._store is None:
            return
        with suppress(RuntimeError):
            if self.leads:
                self.tell("")
            else:
                self._store.add("gone", 1)
            dist.destroy_process_group()
            until = time.monotonic() + FAREWELL_SECONDS
            # The leader may hold what the followers read its last word from.
            while self.leads and not self._broken and self._store.add("gone", 0) < self.size - 1:
                if time.monotonic() > until:
                    break
                time.sleep(LOOK_SECONDS)
        torch.set_num_threads(self._threads)
        self._store, self.size = None, 1

    def _lost(self) -> ProcessLostError:
        """Return the error to raise where an exchange broke: which process is gone, and what it said last."""
        self._broken = True
        until = time.monotonic() + FAREWELL_SECONDS
        while self.leads and self._store is not None and time.monotonic() < until:
            try:
                for rank in range(1, self.size):
                    if self._store.check([f"last/{rank}"]):
                        said = self._store.get(f"last/{rank}").decode()
                        return ProcessLostError(f"process {rank} of 0 to {self.size - 1} ended: {said}")
            except RuntimeError:
                break
            time.sleep(LOOK_SECONDS)
        return ProcessLostError("another process of this run is gone (killed, or out of memory?)")


ALONE = Processes()
"""One process."""


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
    except RuntimeError as error:
        raise ProcessLostError(
            f"the {seat.size} processes of this run did not find each other: {str(error)[:200]}",
            hint="start all of them at once, and see that they reach MASTER_ADDR at MASTER_PORT",
        ) from error
    processes = Processes(seat.rank, seat.size, words, gpus=gpus)
    if threads is not None:
        torch.set_num_threads(min(threads, torch.get_num_threads()))
    return processes


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield `tensors` in lists of one dtype, each of about `BUCKET` values or of one tensor."""
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or filled + tensor.numel() > BUCKET):
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.numel()
    if bucket:
        yield bucket
