"""The processes of a run, seen from one of them, and what it can exchange with the others."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup, Store  # type: ignore[attr-defined]

from harden.errors import Interrupted, ProcessLostError, UsageError
from harden.memory import is_out_of_memory

LOOK_SECONDS = 0.1
"""How often a follower looks whether the leader has said something."""
MEETING_SECONDS = 0.01
"""How often a process that waits where all `meet` looks whether they have."""
FAREWELL_SECONDS = 5.0
"""How long the leader waits for the last words of a process that is gone, or for the followers to go."""
_BROKEN = re.compile("connection (closed|reset|refused)|broken pipe|timed out", re.IGNORECASE)
BUCKET = 2**23
"""Values that are summed in one exchange: 32 MiB of float32, which is all the memory that the sum takes."""


class _MemoryElsewhere(MemoryError):  # noqa: N818 - as is MemoryError
    """Memory ran out in another process, and all of them know."""


class Processes:
    """The processes of a run, seen from one of them; `ALONE` where there is only this one, which exchanges nothing.

    Attributes:
        rank: of this one, from 0.
        size: how many there are.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        store: Store | None = None,
        *,
        meeting: ProcessGroup | None = None,
        gpus: bool = False,
    ) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._meeting = meeting
        self._gpus = gpus
        self._words = 0
        self._shared = 0
        self._looked = 0.0
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
        """Return if the processes of this machine can work on `device`.

        Raises:
            UsageError: there are fewer GPUs than processes.
        """
        if self.size > 1 and device.type == "cuda" and not self._gpus:
            count = torch.cuda.device_count()
            raise UsageError(
                f"each process works on a GPU of its own, and this machine has {count}",
                hint=f"start {count} here, or work on the CPU with --device cpu",
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
                values.detach().copy_(self.spread(values.detach().contiguous()))

    def spread(self, values: Tensor) -> Tensor:
        """Return the leader's `values`, which have the same shape and dtype in each; in place."""
        if self.size > 1:
            self._exchange(partial(dist.broadcast, values, 0))
        return values

    def gather(self, data: bytes) -> list[bytes]:
        """Return the `data` of every process, in the order of their ranks."""
        if self.size == 1:
            return [data]
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(data)
        ends = self.sum(lengths).cumsum(0).tolist()
        flat = torch.zeros(ends[-1], dtype=torch.uint8)
        if data:
            flat[ends[self.rank] - len(data) : ends[self.rank]] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        everything = self.sum(flat).numpy().tobytes()
        return [everything[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    # -- work in pieces that differ in length --------------------------------------------------------------------------

    def claims(self, count: int) -> Iterator[int]:
        """Yield which of `count` pieces of work this process takes: always the next that none has taken yet."""
        if self.size == 1:
            yield from range(count)
            return
        key = f"claimed/{self._shared}"
        self._shared += 1
        while (number := self._take(key)) < count:
            yield number

    def meet(self, waiting: Callable[[], None] | None = None) -> None:
        """Go on once all processes have come here, however long the others work.

        Args:
            waiting: called again and again meanwhile; may raise.

        Raises:
            ProcessLostError: another one is gone.
        """
        if self.size == 1:
            return
        try:
            arrival = dist.all_reduce(torch.zeros(1), group=self._meeting, async_op=True)
            while not arrival.is_completed():
                if waiting is not None:
                    waiting()
                time.sleep(MEETING_SECONDS)
            arrival.wait()
        except RuntimeError as error:
            if waiting is not None:  # a stop that all have heard may be why another one is gone
                waiting()
            raise self._lost() from error

    def unite(self, own: Tensor, *values: Tensor) -> None:
        """Replace row by row what is in `values` (N, ...) by what that process has which says true in `own` (N,).

        Bit for bit; no two say true for the same row, and where none does there will be zeros.
        """
        if self.size == 1:
            return
        for each in values:
            each[~own] = 0
            self.sum(each.view(torch.int64 if each.element_size() == 8 else torch.int32))

    def _take(self, key: str) -> int:
        assert self._store is not None
        try:
            return self._store.add(key, 1) - 1
        except RuntimeError as error:
            raise self._lost() from error

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

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Raise a `ProcessLostError` where exchanges that others than these methods have (FSDP) break inside."""
        try:
            yield
        except Exception as error:
            broken = isinstance(error, RuntimeError) and _BROKEN.search(str(error))
            if self.size > 1 and (broken or isinstance(error, dist.DistError)):
                raise self._lost() from error
            raise

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

    def as_leader(self, say: Callable[[], str]) -> str:
        """Return what `say` returns (not empty) in the leader, where alone it is called, however long that takes.

        Raises:
            ProcessLostError: the leader has ended.
        """
        if self.leads:
            word = say()
            self.tell(word)
            return word
        heard = self.hear()
        if heard is None:
            raise ProcessLostError("the leader of this run has ended")
        return heard

    def require_leader(self) -> None:
        """Go on with work that is shared, if the leader does; cheap enough to be asked after every pass.

        Raises:
            ProcessLostError: it has let the followers go, or is gone.
        """
        if self._store is None or self.leads or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            ended = self._store.check([f"word/{self._words}"])  # it has nothing to say meanwhile but goodbye
        except RuntimeError as error:
            raise self._lost() from error
        if ended:
            raise ProcessLostError("the leader of this run has ended")

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
            self._meeting = None  # else its connections stay open, and a follower that waits in it cannot go
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
