"""Which parameters keep their values."""

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
