"""`os._exit` kept from ending the program while code that the user brings may run.

It would end with 0 and no report. Python cannot keep code from ending the process past Python: a C extension that calls
`_exit`, a signal that the code sends to its own process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

leave = os._exit
"""The real one."""
_process = os.getpid()
"""The one that runs the user's code; others were forked by that code, and end as they like."""


@contextmanager
def exit_refused() -> Iterator[None]:
    """Let `os._exit` raise `SystemExit` meanwhile."""
    global _process
    _process = os.getpid()
    before, os._exit = os._exit, _refuse
    try:
        yield
    finally:
        os._exit = before


def _refuse(status: int) -> NoReturn:
    if os.getpid() != _process:
        leave(status)
    raise SystemExit(f"os._exit({status})")
