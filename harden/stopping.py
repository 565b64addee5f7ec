"""Whether to go on, asked between two units of work: the user pressed Ctrl-C, or the time that was allowed is over.

Every loop over units of work (listed files, chunks of decoded images, batches, attack steps, probes) calls `ask` once
per unit. Callers that can stop the work answer with `asking`; without an answer `ask` does nothing. Threads have no
answer of their own: the thread that waits for them asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Answer = Callable[[], None]
"""Returns to go on, or raises what ends the work."""

_answers: ContextVar[tuple[Answer, ...]] = ContextVar("answers", default=())


def ask() -> None:
    """Return to go on with the next unit of work.

    Raises:
        HardenError: what the answer raises: `Interrupted`, or `BudgetError` once the time is over.
    """
    for answer in _answers.get():
        answer()


@contextmanager
def asking(answer: Answer) -> Iterator[None]:
    """Let `answer` be asked too, until the end of the context."""
    token = _answers.set((*_answers.get(), answer))
    try:
        yield
    finally:
        _answers.reset(token)


@contextmanager
def held() -> Iterator[None]:
    """Ask nothing until the end of the context, for a unit of work that must be done wholly or not at all."""
    token = _answers.set(())
    try:
        yield
    finally:
        _answers.reset(token)
