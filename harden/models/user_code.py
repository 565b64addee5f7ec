"""The one boundary around code that the user brings: networks, what builds them, score functions, TorchScript, ONNX.

Whatever such code raises becomes a `UserCodeError` with the user's file and line; `sys.exit` and `os._exit` do not end
the program, which would exit with 0 and no report. What it changes for the whole process (the default dtype, the number
of threads, the working folder, ...) is put back.
"""

from __future__ import annotations

import copy
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils import _device

import harden
from harden.errors import HardenError, UserCodeError
from harden.memory import is_out_of_memory
from harden.models.loaded import one_line
from harden.process_exit import exit_refused

_Module = TypeVar("_Module", bound=nn.Module)
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
    try:
        with exit_refused():
            yield
    except (HardenError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            raise
        raise failure(error, doing, hint=hint) from error
    finally:
        for (read, write), value in zip(_STATE, before, strict=True):
            if read() != value:
                write(value)
        for entry in added:
            if entry in sys.path:
                sys.path.remove(entry)


def copied(module: _Module) -> _Module:
    """Return a deep copy of a module that holds the user's network.

    Raises:
        UserCodeError: something in it cannot be copied.
    """
    hint = "keep what cannot be copied (locks, open files, results of a pass) out of the network's attributes"
    with user_code("copying the network", hint=hint):
        return copy.deepcopy(module)


def backward_pass() -> AbstractContextManager[None]:
    """Return the boundary around a backward pass through the user's network."""
    return user_code("the network's backward pass")


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
    if own:
        return f"{Path(own[-1][0]).name}, line {own[-1][1]}"
    return place_of(error.__cause__) if error.__cause__ is not None else None


def _is_the_users(file: str) -> bool:
    return file in _named or not file.startswith(("<", *_INSTALLED))


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # somebody removed it
        return None


def _set_working_folder(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


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
    (_working_folder, _set_working_folder),
    (_filters, _set_filters),
    (sys.getrecursionlimit, sys.setrecursionlimit),
)
"""What belongs to the whole process: how to read it, and how to put it back."""
