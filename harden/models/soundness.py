"""Whether what somebody calls a network can be walked through, copied and trained at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harden.errors import ModelError

_DEEPEST = 200
"""Levels of modules inside modules; torch walks through them by recursion."""


def require_sound(module: nn.Module, name: str) -> None:
    """Return if the modules of a network form a tree (a module may occur in it twice) and hold ordinary tensors.

    Args:
        module: as the user's code built it, or as it was in a file; nothing in it is called.
        name: of the network, for the message.

    Raises:
        ModelError: naming the layer.
    """
    _visit(module, (), {}, name)
    for kind, owner, key, tensor in _tensors(module):
        problem = _problem(tensor)
        if problem is not None:
            where = f"{owner}.{key}" if owner else key
            raise ModelError(f"{name} cannot be used: the {kind} {where!r} {problem[0]}", hint=problem[1])


def _visit(
    part: nn.Module, path: tuple[str, ...], above: dict[int, str], name: str, seen: set[int] | None = None
) -> None:
    seen = set() if seen is None else seen
    where = ".".join(path) or "the network itself"
    if id(part) in above:
        raise ModelError(
            f"{name} cannot be used: the layer {where!r} contains itself, as {above[id(part)]!r}",
            hint="keep a reference to an outer module outside the module tree, for instance in a tuple",
        )
    if len(path) > _DEEPEST:
        raise ModelError(
            f"{name} cannot be used: its modules lie inside one another more than {_DEEPEST} levels deep",
            hint="put the layers side by side, in one nn.Sequential",
        )
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, torch.jit.ScriptModule):
        raise ModelError(
            f"{name} cannot be used: {where!r} is a compiled TorchScript program, which cannot be trained",
            hint="build the network itself, without torch.jit; `harden report` audits the program as a file",
        )
    for field in ("_modules", "_parameters", "_buffers"):
        if not isinstance(part.__dict__.get(field), dict):
            raise ModelError(
                f"{name} cannot be used: {where!r} ({type(part).__name__}) has no dictionary {field}",
                hint="call super().__init__() first in its __init__, or save the file again",
            )
    for key, child in part._modules.items():
        if child is None:
            continue
        if not isinstance(child, nn.Module):
            raise ModelError(
                f"{name} cannot be used: {'.'.join((*path, str(key)))!r} is registered as a layer and is "
                f"{type(child).__name__}",
                hint="register modules only, or save the file again",
            )
        _visit(child, (*path, str(key)), {**above, id(part): where}, name, seen)


def _tensors(module: nn.Module) -> list[tuple[str, str, str, Any]]:
    return [
        (kind, owner, key, tensor)
        for owner, part in module.named_modules()
        for kind, held in (("parameter", part._parameters), ("buffer", part._buffers))
        for key, tensor in held.items()
        if tensor is not None
    ]


def _problem(tensor: object) -> tuple[str, str] | None:
    """Return what is wrong with a parameter or buffer and what repairs it; None if it is an ordinary tensor."""
    if not isinstance(tensor, Tensor):
        return f"is {type(tensor).__name__}, not a tensor", "register tensors only, or save the file again"
    if nn.parameter.is_lazy(tensor):
        return None
    if tensor.is_meta:
        return "lies on the meta device, which stores no values", "build the network on the CPU (torch.device('cpu'))"
    if tensor.is_quantized:
        return "is quantised, and cannot be trained or attacked", "use the weights from before the quantisation"
    if tensor.layout is not torch.strided:
        return f"is sparse ({tensor.layout})", "make it dense: tensor.to_dense()"
    return None
