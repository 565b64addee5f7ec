"""What to do when memory runs out: the same work in smaller parts."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor

from harden.errors import text_of
from harden.stopping import ask

_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out; torch has a class for GPUs only."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in text_of(error) for word in _WORDS)


def release() -> None:
    """Give back what nobody holds any more; call it outside the `except`, which holds the tensors of its frames."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def by_parts(rows: Tensor, size: int, work: Callable[[int, Tensor], None]) -> int:
    """Work on `rows` (N,) in parts of `size`; a part for which memory runs out is halved, and so are those after it.

    Args:
        rows: (N,) int64, in order.
        size: rows of a part.
        work: called with the number of the part and its rows; it must be possible to call it again for the same rows.

    Returns:
        Rows of a part that memory was enough for.

    Raises:
        HardenError: the work is to stop (see `harden.stopping`).
        MemoryError: memory ran out for one row alone. It is the caller's to say what would help.
    """
    number, done = 0, 0
    while done < len(rows):
        ask()
        part = rows[done : done + size]
        failed = None
        try:
            work(number, part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failed = str(error)
        if failed is not None:
            if len(part) == 1:
                raise MemoryError(failed)
            size = (len(part) + 1) // 2
            release()
            continue
        number, done = number + 1, done + len(part)
    return size
