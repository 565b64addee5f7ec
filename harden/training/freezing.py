"""Which parameters keep their values, and which modules rest with them."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn

from harden.errors import UsageError


def frozen_names(module: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Return the names of the parameters that patterns (as for file names) or names of layers select.

    Raises:
        UsageError: a pattern selects none, or all of them together select every parameter.
    """
    names = {name for name, _ in module.named_parameters()}
    selected: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatch.fnmatch(name, pattern) or name.startswith(pattern + ".")}
        if not found:
            raise UsageError(
                f"--freeze {pattern!r} matches no parameter of the model",
                hint="`harden inspect MODEL` lists the layers; patterns work as for file names, e.g. 'layer1.*'",
            )
        selected |= found
    if selected == names:
        raise UsageError("--freeze leaves nothing to train", hint="give narrower patterns")
    return selected


def resting_modules(module: nn.Module) -> tuple[nn.Module, ...]:
    """Return the modules without submodules that stay in eval mode: those whose parameters are all frozen.

    A frozen BatchNorm must not go on averaging. One without parameters of its own (`affine=False`) rests with the
    module around it. Containers stay as they are, whatever parameters of their own are frozen (a transformer's class
    token), since what is inside them trains.
    """
    resting: list[nn.Module] = []

    def visit(part: nn.Module, surrounding_rests: bool) -> None:
        own = list(part.parameters(recurse=bool(list(part.children()))))
        rests = not any(p.requires_grad for p in own) if own else surrounding_rests
        if rests and not list(part.children()):
            resting.append(part)
        for child in part.children():
            visit(child, rests)

    visit(module, False)
    return tuple(dict.fromkeys(resting))
