"""Networks that the user's own code builds: `path/file.py:callable` or `pkg.mod:callable`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from harden.errors import MissingModelError, ModelError
from harden.models.frozen import keep_frozen
from harden.models.loaded import LoadedModel
from harden.models.origin import Origin, require_sizes
from harden.models.soundness import require_sound
from harden.models.user_code import user_code
from harden.registry import did_you_mean

_REFERENCE = re.compile(r"(?P<file>.+\.py)|(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*)", re.DOTALL)
_CALLABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")

_CALLED_WITH = (
    "the callable is called with num_classes and in_channels if its signature names them, else without arguments"
)
LIBRARIES = ("timm", "torchvision")
"""What stands before the colon where no module does."""
_ASSUMED = {"num_classes": 1000, "in_channels": 3, "in_chans": 3}


def is_reference(spec: str) -> bool:
    """Return whether `spec` has the form `path/file.py:callable` or `pkg.mod:callable`."""
    code, colon, name = spec.rpartition(":")
    if spec.partition(":")[0] in LIBRARIES:
        return False
    return bool(colon and _REFERENCE.fullmatch(code) and _CALLABLE.fullmatch(name))


def build(reference: str, *, classes: int | None, in_channels: int | None) -> LoadedModel:
    """Import the callable that `reference` names, call it, and return the network that it built.

    `num_classes` and `in_channels` (or `in_chans`) are passed if the callable's signature names them. Where they are
    None the callable's own defaults hold, and 1,000 classes of RGB images where it has none.

    Raises:
        ModelError: no such file, module or callable, an exception in the user's code, or a result that is no module.
    """
    path = locate(reference)
    code = path.read_bytes()
    function = _callable(reference, path, code)
    offered = {"num_classes": classes, "in_channels": in_channels, "in_chans": in_channels}
    arguments: dict[str, int] = {}
    for parameter in _parameters(function):
        value = offered.get(parameter.name)
        if value is None and parameter.default is parameter.empty:
            value = _ASSUMED.get(parameter.name)
        if value is not None:
            arguments[parameter.name] = value
    module = _call(function, arguments, reference, path)
    origin = Origin("factory", _absolute(reference, path), arguments, code_sha256=hashlib.sha256(code).hexdigest())
    passed = ", ".join(f"{name}={value}" for name, value in arguments.items())
    note = f"ran the code in {path}: {reference.rpartition(':')[2]}({passed})"
    return LoadedModel(module, origin, has_weights=False, notes=(note, *keep_frozen(module, maker="the code")))


def find_callable(reference: str) -> tuple[Callable[..., Any], Path, str]:
    """Import the callable that `reference` names; return it, the file that holds it and the file's sha256.

    Raises:
        ModelError: no such file, module or callable, or an exception in the user's code.
    """
    path = locate(reference)
    code = path.read_bytes()
    return _callable(reference, path, code), path, hashlib.sha256(code).hexdigest()


def origin_of(reference: str, arguments: dict[str, Any]) -> Origin:
    """Return the origin of a network that `reference`, as its file is now, would build. Runs nothing.

    Raises:
        ModelError: there is no such file or module.
    """
    path = locate(reference)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Origin("factory", _absolute(reference, path), arguments, code_sha256=digest)


def rebuild(origin: Origin) -> nn.Module:
    """Run the factory of `origin` again. Only for origins that `trust.is_trusted` accepts.

    Raises:
        ModelError: as `build`; also if the file is not the one that `origin.code_sha256` describes.
        UnsafeInputError: the origin has arguments that `build` never gives.
    """
    require_sizes(origin, numbers=("num_classes", "in_channels", "in_chans"))
    path = locate(origin.reference)
    code = path.read_bytes()
    if hashlib.sha256(code).hexdigest() != origin.code_sha256:
        raise ModelError(f"{path} has changed since the model was built", hint="name the right file with --arch")
    module = _call(_callable(origin.reference, path, code), origin.arguments, origin.reference, path)
    keep_frozen(module, maker="the code")
    return module


def locate(reference: str) -> Path:
    """Return the absolute path of the file that `reference` would run, without running anything.

    Raises:
        ModelError: there is no such file or module.
    """
    code = reference.rpartition(":")[0]
    if code.endswith(".py"):
        path = Path(code).expanduser().resolve()
        if not path.is_file():
            siblings = [entry.name for entry in path.parent.glob("*.py")] if path.parent.is_dir() else []
            raise MissingModelError(
                f"no file {code}{did_you_mean(path.name, siblings)}",
                hint="--arch takes path/file.py:callable; the path is relative to the current folder",
            )
        return path
    search: list[str] | None = [str(Path.cwd()), *sys.path]
    found = None
    parts = code.split(".")
    for end in range(1, len(parts) + 1):
        found = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), search)
        if found is None:
            break
        locations = found.submodule_search_locations
        search = None if locations is None else list(locations)
        if search is None and end < len(parts):
            found = None
            break
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise MissingModelError(
            f"no Python module {code!r} that could hold a network{did_you_mean(code, LIBRARIES)}",
            hint="install the package, run from the folder that holds it, or name the file: path/file.py:callable",
        )
    return Path(found.origin).resolve()


def _absolute(reference: str, path: Path) -> str:
    code, _, name = reference.rpartition(":")
    return f"{path.as_posix()}:{name}" if code.endswith(".py") else reference


def _callable(reference: str, path: Path, code: bytes) -> Callable[..., Any]:
    named, _, name = reference.rpartition(":")
    with user_code(f"importing {named}", hint=_CALLED_WITH, file=path):
        module = _run_file(path, code) if named.endswith(".py") else importlib.import_module(named)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            raise MissingModelError(
                f"{named} has no {part!r}{did_you_mean(part, public)}",
                hint=f"callables in it: {', '.join(public[:12])}" if public else "the file defines no callable",
            )
        found = getattr(found, part)
    if not callable(found) or isinstance(found, nn.Module):
        raise MissingModelError(
            f"{reference} is a {type(found).__name__}, not a function or class that builds a network",
            hint="write a function that returns the network, and name that",
        )
    function: Callable[..., Any] = found
    return function


def _run_file(path: Path, code: bytes) -> ModuleType:
    """Run exactly the bytes that were hashed, as a module of a name that no other module has."""
    digest = hashlib.sha256(str(path).encode() + b"\0" + code).hexdigest()
    name = f"harden_user_code_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, None, origin=str(path)))
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and pickle look their module up while it is still being run
    try:
        exec(compile(code, str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return []
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter for parameter in parameters if parameter.kind in by_name]


def _call(function: Callable[..., Any], arguments: dict[str, Any], reference: str, path: Path) -> nn.Module:
    doing = f"calling {reference.rpartition(':')[2]}()"
    with user_code(doing, hint=_CALLED_WITH, file=path):
        module = function(**arguments)
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{reference} returned {type(module).__name__}, not a torch.nn.Module",
            hint="the callable must build and return the network",
        )
    require_sound(module, reference)
    with user_code(doing, file=path):
        return module.float()
