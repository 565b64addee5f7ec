"""The one boundary around code that the user brings: networks, what builds them, score functions, TorchScript, ONNX.

Whatever such code raises becomes a `UserCodeError` with the user's file and line; `sys.exit` and `os._exit` do not end
the program, which would exit with 0 and no report. What it changes for the whole process (the default dtype, the number
of threads, the working folder, ...) is put back.

Python cannot stop code that ends the process past Python: a C extension that calls `_exit`, a signal that the code
sends to itself.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils import _device

import harden
from harden.errors import HardenError, UserCodeError
from harden.memory import is_out_of_memory
from harden.models.loaded import one_line

_REPAIR = "repair the code there; --debug shows the whole traceback"
_INSTALLED = tuple(
    {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        str(Path(torch.__file__).parent),
        str(Path(harden.__file__).parent),
    }
)
"""Folders whose code is not the user's own."""
_named: set[str] = set()
"""Files that the user named, wherever they are."""
_process = os.getpid()
"""The one that runs the user's code; others were forked by that code."""


@contextmanager
def user_code(doing: str, *, hint: str = _REPAIR, file: Path | None = None) -> Iterator[None]:
    """Run code that the user brings.

    Args:
        doing: what is about to happen, for the message.
        hint: what the user should know or do.
        file: the user's file, whose neighbours can be imported meanwhile.

    Raises:
        UserCodeError: whatever the code raises. What harden itself raises, Ctrl-C and running out of memory pass.
    """
    added = [str(file.parent), str(Path.cwd())] if file is not None else []
    sys.path[:0] = added
    if file is not None:
        _named.add(str(file))
    before = [read() for read, _ in _STATE]
    global _process
    _process = os.getpid()
    leave, os._exit = os._exit, _refuse_exit
    try:
        yield
    except (HardenError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            raise
        raise failure(error, doing, hint=hint) from error
    finally:
        os._exit = leave
        for (read, write), value in zip(_STATE, before, strict=True):
            if read() != value:
                write(value)
        for entry in added:
            if entry in sys.path:
                sys.path.remove(entry)


def failure(error: BaseException, doing: str, *, hint: str = _REPAIR) -> UserCodeError:
    """Return the error to raise for what the user's code raised."""
    place = place_of(error)
    reason = f"{one_line(error)} ({place})" if place else one_line(error)
    return UserCodeError(f"{doing} failed: {reason}", reason=reason, ended=not isinstance(error, Exception), hint=hint)


def place_of(error: BaseException) -> str | None:
    """Return "FILE, line N" of the innermost line of the user's own code that `error` passed; None without one."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{Path(error.filename).name}, line {error.lineno}"
    passed = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(file, line) for file, line in passed if _is_the_users(file)]
    return f"{Path(own[-1][0]).name}, line {own[-1][1]}" if own else None


def _is_the_users(file: str) -> bool:
    return file in _named or not file.startswith(("<", *_INSTALLED))


def _refuse_exit(status: int) -> NoReturn:
    """Stand in for `os._exit` while the user's code runs; processes that it has forked end as they would."""
    if os.getpid() != _process:
        _LEAVE(status)
    raise SystemExit(f"os._exit({status})")


_LEAVE = os._exit


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # somebody removed it
        return None


def _filters() -> Sequence[Any]:
    return list(warnings.filters)


def _set_filters(filters: Sequence[Any]) -> None:
    warnings.resetwarnings()  # tells the warnings module that they have changed
    warnings.filters[:] = filters  # type: ignore[index]


_STATE: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (lambda: _device.CURRENT_DEVICE, torch.set_default_device),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (np.geterr, lambda kinds: np.seterr(**kinds)),
    (_working_folder, lambda folder: folder is None or os.chdir(folder)),
    (_filters, _set_filters),
    (sys.getrecursionlimit, sys.setrecursionlimit),
)
"""What belongs to the whole process: how to read it, and how to put it back."""
