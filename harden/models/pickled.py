"""Files of torch.save and pickle, opened without running code.

Naming a class in a file never leads to calling it with arguments from the file. The file is read as data, with a
stand-in for every class (`pickles.inert`); what may stand in it is a list of layers and of a few values beside them
(`pickles.names`); and networks are made of the data, part by part (`pickles.rebuild`).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harden.archives import ArchiveError
from harden.errors import ModelError, UnsafeInputError, WriteError
from harden.files import write_torch
from harden.models.formats import FileKind, kind_of, unsafe_archive
from harden.models.loaded import one_line
from harden.models.pickles import names
from harden.models.pickles.inert import read_inert
from harden.models.pickles.rebuild import RefusedError, UnusableError, rebuild
from harden.models.pickles.scan import PickleScan, TooLargeError, scan
from harden.vision import import_torchvision

_EMA = re.compile(r"(?<![a-z0-9])ema(?![a-z0-9])")
_PROTOCOL = 2
"""The pickle protocol that torch reads without running code, and that it writes unless told otherwise."""
_MANY = 8
"""Names that an error lists."""


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

    Quantised tensors come dequantised.

    Raises:
        UnsafeInputError: it names things outside the lists or asks for more memory than it brings, and `trust` is off.
        ModelError: the file is damaged, or its tensors are not stored value by value.
    """
    kind = kind_of(path)
    if trust:
        return _read_trusted(path)
    try:
        found = scan(path)
    except (ArchiveError, TooLargeError) as error:
        raise unsafe_archive(path, error) from error
    except Exception as error:  # whatever junk makes the opcode reader raise
        raise _damaged(path, error) from error
    for name in sorted(found.imports & names.NOT_DENSE.keys()):
        raise _no_values(path, f"it holds {names.NOT_DENSE[name]}")
    refused = _refused(found)
    if refused:
        raise _unsafe(path, refused)
    if found.protocol > _PROTOCOL:
        raise _unsafe(path, (f"pickle protocol {found.protocol}",), old=True)
    try:
        inert = read_inert(path, (name for name in found.imports if not names.is_read_by_torch(name)))
        return rebuild(inert, size=path.stat().st_size)
    except RefusedError as error:
        raise _unsafe(path, (str(error),)) from error
    except UnusableError as error:
        raise _no_values(path, str(error)) from error
    except pickle.UnpicklingError as error:
        if kind is FileKind.PICKLE and found.imports:
            raise _unsafe(path, found.imports, old=True) from error
        raise _damaged(path, error) from error
    except Exception as error:  # KeyError, EOFError, RuntimeError, ...: torch has no one type for a damaged file
        raise _damaged(path, error) from error


def _refused(found: PickleScan) -> set[str]:
    """Return the names that a file must not import, call or make instances of."""
    refused = {name for name in found.imports if not names.is_known(name)}
    refused |= {name for name in found.calls if not names.may_be_called(name)}
    if names.GETATTR in found.calls and not found.imports & {layer for layer, _ in names.BOUND}:
        refused.add(names.GETATTR)
    return refused | {name for name in found.instances if not names.may_be_made(name)}


def _read_trusted(path: Path) -> object:
    import_torchvision()
    try:
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=False)
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


def _holds(content: dict[Any, Any], key: Any) -> bool:
    return isinstance(content.get(key), nn.Module)


def _unsafe(path: Path, names: Iterable[str], *, old: bool = False) -> UnsafeInputError:
    listed = sorted(names)
    more = f" and {len(listed) - _MANY} more" if len(listed) > _MANY else ""
    wants = f"it wants to import or call {', '.join(listed[:_MANY])}{more}"
    why = f"its format cannot be read without running code ({wants})" if old else wants
    return UnsafeInputError(
        f"opening {path} could run code from the file: {why}",
        hint="give the network with --arch path/file.py:callable and pass only its weights (a state_dict); or, if you "
        "know who made the file, --trust-pickle, which lets it run any code as you",
    )


def _no_values(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path} cannot be used: {why}",
        hint="save it again with dense tensors on the CPU: {name: tensor.cpu() for name, tensor in "
        "model.state_dict().items()}",
    )


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path} is truncated, damaged or not a torch file ({one_line(error)})", hint="download or copy the file again"
    )
