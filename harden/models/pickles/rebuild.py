"""Networks made of data: each object that a file describes is checked against the lists, and only then made.

A class is made without its constructor, as `pickle` does it, and filled with a state whose every part was checked: no
hooks, no key that shadows a method, no callable that is not on a list.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harden.models.pickles import names
from harden.models.pickles.inert import Instance, Named

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, torch.qscheme)
_DEEPEST = 150
"""Containers and layers inside one another. The deepest network of timm has some twenty."""
_OWN_STATE = frozenset(vars(nn.Module()))
_PARTS = {"_parameters": (Tensor,), "_buffers": (Tensor,), "_modules": (nn.Module,)}
_FILLS = 16
"""Bytes of values for each byte of the file that holds them: tensors may share their bytes, within reason."""
_FEW = 64 * 2**20
_MOST_LAYERS = 1_000_000
"""Layers of a network, those that stand in several places counted in each."""


class RefusedError(Exception):
    """Something in a file that is on no list, in the words of the message to the user."""


class UnusableError(Exception):
    """Something harmless in a file that is of no use, in the words of the message to the user."""


def rebuild(content: object, *, size: int) -> object:
    """Return `content` with its stand-ins made real.

    Args:
        content: of `read_inert`.
        size: bytes of the file.

    Raises:
        RefusedError: it holds something that could run code.
        UnusableError: it holds tensors without values, refers to itself, or asks for far more memory than it brings.
    """
    return _Rebuild(size).value(content, "")


class _Rebuild:
    def __init__(self, size: int) -> None:
        self._made: dict[tuple[int, bool], object] = {}
        self._open: set[tuple[int, bool]] = set()
        self._kept: list[object] = []  # an id is only unique while its object lives
        self._left = max(_FEW, _FILLS * size)
        self._layers: dict[int, int] = {}

    def value(self, found: object, key: str) -> Any:
        """Return one value of the file, each object once; `key` is the attribute that holds it, for what is kept."""
        if isinstance(found, _PLAIN):
            return found
        if isinstance(found, Named):
            return self._kept_class(found.named, key)
        number = id(found), key in names.KEPT_UNDER
        if number in self._made:
            return self._made[number]
        if number in self._open:
            raise UnusableError("an object in it contains itself")
        if len(self._open) > _DEEPEST:
            raise UnusableError(f"its objects are more than {_DEEPEST} deep inside one another")
        self._open.add(number)
        made = self._make(found, key)
        self._open.discard(number)
        self._kept.append(found)
        self._made[number] = made
        return made

    def _make(self, found: object, key: str) -> object:
        if isinstance(found, Tensor):
            return self._tensor(found)
        if isinstance(found, Instance):
            return self._instance(found, key)
        if isinstance(found, dict) and type(found) in (dict, OrderedDict, Counter):
            # Not found.items(), which the file may have replaced on this dictionary.
            pairs = ((self.value(name, key), self.value(value, key)) for name, value in dict.items(found))
            return OrderedDict(pairs) if type(found) is OrderedDict else dict(pairs)
        if isinstance(found, (list, tuple, set)) and type(found) in (list, tuple, set, torch.Size):
            return type(found)([self.value(value, key) for value in found])
        raise RefusedError(f"a value of the type {type(found).__name__}")

    def _tensor(self, tensor: Tensor) -> Tensor:
        """Return a tensor without whatever else the file attached to it."""
        if type(tensor) not in (Tensor, nn.Parameter):
            raise RefusedError(f"a tensor of the type {type(tensor).__name__}")
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            raise RefusedError("a tensor with hooks")
        if tensor.layout is not torch.strided or tensor.is_meta:
            raise UnusableError("it holds tensors that are not stored value by value")
        self._left -= math.prod(tensor.shape) * tensor.element_size()
        if self._left < 0:
            raise UnusableError("its tensors have far more values than the file holds")
        vars(tensor).clear()
        return tensor.dequantize() if tensor.is_quantized else tensor

    def _instance(self, found: Instance, key: str) -> object:
        name = found.named
        if names.is_layer(name):
            if found.called or found.arguments:
                raise RefusedError(f"a call of {name}")
            return self._layer(found)
        if name == names.PARTIAL:
            return self._partial(found, key)
        if name in names.NUMPY_SCALAR:
            return _number(found)
        if name in names.DESCRIPTIONS and not found.called:
            made = object.__new__(names.resolve(name))
            vars(made).update(self._state(found, made))
            return made
        if name in names.ENUMS:
            return _member(found)
        if name == names.GETATTR:
            raise RefusedError(f"a call of {name}")
        return None  # beside the weights, and of no use here

    def _layer(self, found: Instance) -> nn.Module:
        try:
            kind = names.resolve(found.named)
        except LookupError:
            raise RefusedError(found.named) from None
        layer: nn.Module = kind.__new__(kind)
        state = self._state(found, layer)
        parts = [part for part in state["_modules"].values() if part is not None]
        self._layers[id(layer)] = 1 + sum(self._layers.get(id(part), 1) for part in parts)
        if self._layers[id(layer)] > _MOST_LAYERS:
            raise UnusableError(f"its network has more than {_MOST_LAYERS:,} layers")
        layer.__setstate__(state)  # type: ignore[no-untyped-call]
        for name, value in vars(layer).items():
            if isinstance(value, Instance):  # a method of its own, which can be bound only now
                vars(layer)[name] = getattr(layer, str(value.arguments[1]))
        return layer

    def _state(self, found: Instance, made: object) -> dict[str, Any]:
        if not isinstance(found.state, dict) or not all(isinstance(key, str) for key in found.state):
            raise RefusedError(f"{found.named} without a state")
        is_layer = isinstance(made, nn.Module)
        if is_layer and not {"training", *_PARTS} <= found.state.keys():
            raise RefusedError(f"{found.named} without {', '.join(sorted({'training', *_PARTS} - found.state.keys()))}")
        state = {}
        for key, value in found.state.items():
            if is_layer and (key in _OWN_STATE or "hook" in key):
                state[key] = self._own(found.named, key, value, made)
            elif _is_own_method(found, key, value):
                state[key] = value
            elif _shadows(made, key) or (key == "_all_weights" and not _is_plain(value)):
                raise RefusedError(f"{found.named} with {key}, which would replace what its class defines")
            else:
                state[key] = self.value(value, key)
                if state[key] is None and value is not None:
                    raise RefusedError(
                        f"{found.named} with {value.named} as {key}" if isinstance(value, Instance) else key
                    )
        return state

    def _own(self, name: str, key: str, value: object, made: object) -> object:
        """Return one entry of the state that every layer has: parts with plain names, and no hooks."""
        if key in _PARTS:
            if not isinstance(value, dict):
                raise RefusedError(f"{name} with {key} of the type {type(value).__name__}")
            parts = {part: self.value(held, "") for part, held in dict.items(value)}
            for part, held in parts.items():
                if not isinstance(part, str) or not names.is_part_name(part) or _shadows(made, part):
                    raise RefusedError(f"{name} with a part of the name {str(part)[:80]!r}")
                if held is not None and not isinstance(held, _PARTS[key]):
                    raise RefusedError(f"{name} with {type(held).__name__} in {key}")
            return type(vars(nn.Module())[key])(parts)
        kept = self.value(value, "")
        if key == "_non_persistent_buffers_set":
            allowed = isinstance(kept, set) and all(isinstance(n, str) for n in kept)
        elif key == "training":
            allowed = isinstance(kept, bool)
        else:
            allowed = not kept or (key == "_is_full_backward_hook" and kept is True)
        if not allowed:
            raise RefusedError(f"{name} with {key}")
        return kept

    def _partial(self, found: Instance, key: str) -> object:
        """Return a norm layer's class with arguments, as torchvision's transformers keep it."""
        state = found.state
        if not (found.called and isinstance(state, tuple) and len(state) == 4 and isinstance(state[0], Named)):
            raise RefusedError("a partial of something other than a class of norm layers")
        function, arguments, keywords, attributes = state
        kept = self._kept_class(function.named, key)
        plain = isinstance(keywords, dict) and all(
            type(name) is str and name.isidentifier() and type(value) in (int, float, bool)
            for name, value in keywords.items()
        )
        if arguments != () or attributes or not plain:
            raise RefusedError(f"a partial of {function.named} with other arguments than numbers")
        return functools.partial(kept, **keywords)

    def _kept_class(self, name: str, key: str) -> Any:
        """Return a class or function that the file has as a value: an activation, or what a network was built with."""
        is_function = name in names.FUNCTIONS or name in names.TIMM_FUNCTIONS
        if not is_function and not (name in names.KEPT_CLASSES and key in names.KEPT_UNDER):
            raise RefusedError(f"{name} as a value" + (f" of {key}" if key else ""))
        try:
            return names.resolve(name)
        except LookupError:
            raise RefusedError(name) from None


def _is_own_method(found: Instance, key: str, value: object) -> bool:
    allowed = names.BOUND.get((found.named, key), frozenset())
    return (
        isinstance(value, Instance)
        and value.named == names.GETATTR
        and len(value.arguments) == 2
        and value.arguments[0] is found
        and value.arguments[1] in allowed
    )


def _shadows(made: object, key: str) -> bool:
    """Return whether an attribute of this name would hide a method, a property or a special name of the class."""
    missing = object()
    defined = inspect.getattr_static(type(made), key, missing)
    if key.startswith("__") or key in _OWN_STATE or key == "_compiled_call_impl":
        return True
    return defined is not missing and not isinstance(defined, (*_PLAIN, tuple))


def _is_plain(value: object) -> bool:
    """Return whether a value is a list of lists of texts, as recurrent layers name their weights."""
    return isinstance(value, list) and all(
        isinstance(names_, list) and all(isinstance(name, str) for name in names_) for names_ in value
    )


def _member(found: Instance) -> object:
    """Return the member of an enumeration that the file calls by its value."""
    for member in names.resolve(found.named):
        if found.called and len(found.arguments) == 1 and member.value == found.arguments[0]:
            return member
    raise RefusedError(f"{found.named} with {str(found.arguments)[:80]}")


def _number(found: Instance) -> object:
    """Return a number of numpy's as Python's; None for anything else, which no weights file needs."""
    match found.arguments:
        case (Instance(named=names.NUMPY_DTYPE, arguments=(str() as kind, *_)), bytes() as raw):
            known = {f"{letter}{width}": f"{letter}{width}" for letter in "iuf" for width in (1, 2, 4, 8)} | {"b1": "?"}
            dtype = known.get(kind.lstrip("<|="))
            if dtype is not None and dtype != "f1" and len(raw) == np.dtype(dtype).itemsize:
                return np.frombuffer(raw, np.dtype(dtype))[0].item()
    return None
