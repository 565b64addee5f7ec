"""Files of torch.save and pickle, opened without running code: an allow-list on top of torch's weights-only reader.

A pickle may name the layers and networks of torch, timm and torchvision, and a short list of harmless things. Each
name is resolved, and what it resolves to has to be defined where the name says, so that a path through a module's
imports (`torch.nn.functional.os`) leads nowhere. It may *call* only torch's own rebuilding functions and the few
names of `_CALLABLE`.
"""

from __future__ import annotations

import argparse
import enum
import functools
import importlib
import inspect
import pickle
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._weights_only_unpickler import _get_allowed_globals
from torch.fx import GraphModule
from torch.serialization import safe_globals

from harden.errors import ModelError, UnsafeInputError, WriteError
from harden.files import write_torch
from harden.models.formats import FileKind, kind_of
from harden.models.loaded import one_line
from harden.models.pickle_scan import scan
from harden.vision import import_timm, import_torchvision

_EMA = re.compile(r"(?<![a-z0-9])ema(?![a-z0-9])")
_MODULES = (
    "torch.nn.modules.",
    "torch.nn.parallel.data_parallel.",
    "torchvision.models.",
    "torchvision.ops.",
    "timm.layers.",
    "timm.models.",
)
_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "selu", "silu", "mish", "hardtanh", "hardswish", "hardsigmoid")
_FUNCTIONS = {f"torch.nn.functional.{name}" for name in (*_ACTIVATIONS, "sigmoid", "tanh", "softmax")}
_FUNCTIONS |= {"torch._C._nn.gelu"}
# `functools.partial` runs nothing when it is made, and can only ever call what this same list lets a pickle name.
# argparse.Namespace and numpy's numbers and arrays stand beside the weights in many checkpoints (arguments, best
# accuracy); numpy's readers of both take raw bytes and refuse object arrays.
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]  # the module that holds it was renamed in numpy 2
_CALLABLE: dict[str, Any] = {
    "functools.partial": functools.partial,
    "argparse.Namespace": argparse.Namespace,
    "numpy.dtype": np.dtype,
    "numpy._core.multiarray.scalar": _NUMPY_SCALAR,
    "numpy.core.multiarray.scalar": _NUMPY_SCALAR,
}


def load_pickled(path: Path, *, trust: bool) -> nn.Module:
    """Return the network in `path`, a file of `torch.save(module)`, on the CPU.

    Args:
        path: a file of torch.save (zip or legacy) or pickle.dump.
        trust: read the pickle with Python's own unpickler, which runs whatever the file says.

    Raises:
        UnsafeInputError: the file names things outside the allow-list, and `trust` is off.
        ModelError: the file is damaged or holds no network.
    """
    content = read_pickle(path, trust=trust)
    module = module_in(content)
    if module is None:
        raise ModelError(f"{path} holds {type(content).__name__}, not a network", hint="give the network with --arch")
    return module


def module_in(content: object) -> nn.Module | None:
    """Return the network that a file's content is or, as a training checkpoint, has under a customary key.

    Averaged (EMA) networks go before raw ones. A DataParallel around it is taken off.
    """
    if isinstance(content, dict):
        keys = (*(key for key in content if is_averaged(key)), "model", "net", "network", "module")
        content = next((content[key] for key in keys if _holds(content, key)), None)
    while isinstance(content, nn.DataParallel):
        content = content.module
    return content if isinstance(content, nn.Module) else None


def is_averaged(key: object) -> bool:
    """Return whether a key has the word "ema" in it, as what is averaged over training has."""
    return _EMA.search(str(key).lower()) is not None


def save_skeleton(module: nn.Module, path: Path) -> None:
    """Write `module` (its structure is what matters) so that `load_pickled` reads it back under the allow-list.

    Raises:
        ModelError: the module cannot be pickled, or not in a form that is read back without trust.
        WriteError: the file cannot be written.
    """
    try:
        write_torch(path, module)
        load_pickled(path, trust=False)
    except UnsafeInputError as error:
        path.unlink(missing_ok=True)
        raise ModelError(
            f"this network cannot be kept in the run folder: {error.message}",
            hint="load it as code: --arch path/file.py:callable",
        ) from error
    except (ModelError, WriteError):
        path.unlink(missing_ok=True)
        raise
    except Exception as error:  # pickling a lambda, a lock, a hook, ...: many unrelated types
        path.unlink(missing_ok=True)
        raise ModelError(
            f"this network cannot be pickled: {one_line(error)}", hint="load it as code: --arch path/file.py:callable"
        ) from error


def read_pickle(path: Path, *, trust: bool) -> object:
    """Return what is in a torch.save file or a plain pickle: a module, or a checkpoint dictionary, on the CPU.

    Raises:
        UnsafeInputError: it names things outside the allow-list, and `trust` is off.
        ModelError: the file is damaged.
    """
    kind = kind_of(path)
    try:
        found = scan(path)
    except Exception as error:  # whatever junk makes the opcode reader raise
        raise _damaged(path, error) from error
    allowed, refused = _sort(found.imports)
    refused |= {name for name in found.calls if not _may_be_called(name, allowed)}
    if trust:
        return _read_trusted(path)
    if refused:
        raise _unsafe(path, refused)
    try:
        # A tuple lets the pickle's own name stand for the object (`numpy.core` is called `numpy._core` today).
        with safe_globals([(obj, name) for name, obj in allowed.items()]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return _torch_load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        if kind is FileKind.PICKLE and found.imports:
            raise _unsafe(path, found.imports, old=True) from error
        raise _damaged(path, error) from error
    except Exception as error:  # KeyError, EOFError, RuntimeError, ...: torch has no one type for a damaged file
        raise _damaged(path, error) from error


def _torch_load(path: Path, *, weights_only: bool) -> object:
    # An open file, because torch.load takes a path that ends in .safetensors for what its name says.
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=weights_only)


def _read_trusted(path: Path) -> object:
    import_torchvision()
    try:
        return _torch_load(path, weights_only=False)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ModelError(
            f"{path} needs code that is not here: {one_line(error)}",
            hint="run from the folder that has the code, or give the network with --arch path/file.py:callable",
        ) from error
    except Exception as error:
        try:
            with path.open("rb") as file:
                return pickle.load(file)  # a plain pickle.dump, which torch does not read
        except Exception:
            raise _damaged(path, error) from error


def _sort(names: frozenset[str]) -> tuple[dict[str, Any], set[str]]:
    """Return the objects behind the names that are allowed, and the names that are not."""
    allowed: dict[str, Any] = {}
    refused: set[str] = set()
    if "numpy.dtype" in names:  # `numpy.dtype("f8")` is an instance of a class that the pickle does not name
        for kind in vars(np.dtypes).values():
            if isinstance(kind, type) and issubclass(kind, np.dtype) and kind is not np.dtypes.ObjectDType:
                allowed[f"numpy.dtypes.{kind.__name__}"] = kind
    for name in names:
        if name in _get_allowed_globals():
            continue
        resolved = _resolve(name)
        if resolved is None:
            refused.add(name)
        else:
            allowed[name] = resolved
    return allowed, refused


def _resolve(name: str) -> Any:
    if name in _CALLABLE:
        return _CALLABLE[name]
    if name.startswith("numpy.dtypes."):
        kind = getattr(np.dtypes, name.removeprefix("numpy.dtypes."), None)
        return kind if isinstance(kind, type) and issubclass(kind, np.dtype) else None
    if name in _FUNCTIONS:
        return getattr(nn.functional, name.rpartition(".")[2])
    if not name.startswith(_MODULES):
        return None
    module_name, _, attribute = name.rpartition(".")
    try:
        if name.startswith("timm."):
            import_timm()
        elif name.startswith("torchvision."):
            import_torchvision()
        module = sys.modules.get(module_name) or importlib.import_module(module_name)
    except ImportError:
        return None
    found = vars(module).get(attribute)
    home = f"{getattr(found, '__module__', '')}."
    if not home.startswith(_MODULES):
        return None
    if isinstance(found, type):
        # A GraphModule is rebuilt by running source text that the pickle brings along.
        if issubclass(found, nn.Module) and not issubclass(found, GraphModule):
            return found
        return found if issubclass(found, enum.Enum) else None
    return found if inspect.isfunction(found) and home == "timm.layers.activations." else None


def _may_be_called(name: str, allowed: dict[str, Any]) -> bool:
    if name in _get_allowed_globals() or name in _CALLABLE:
        return True
    found = allowed.get(name)
    return isinstance(found, type) and issubclass(found, (enum.Enum, np.dtype))


def _holds(content: dict[Any, Any], key: Any) -> bool:
    return isinstance(content.get(key), nn.Module)


def _unsafe(path: Path, names: Iterable[str], *, old: bool = False) -> UnsafeInputError:
    listed = sorted(names)
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    wants = f"it wants to import or call {', '.join(listed[:8])}{more}"
    why = f"its old format cannot be read without running code ({wants})" if old else wants
    return UnsafeInputError(
        f"opening {path} could run code from the file: {why}",
        hint="give the network with --arch path/file.py:callable and pass only its weights (a state_dict); or, if you "
        "know who made the file, --trust-pickle, which lets it run any code as you",
    )


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path} is truncated, damaged or not a torch file ({one_line(error)})", hint="download or copy the file again"
    )
