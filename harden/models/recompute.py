"""Activation checkpointing (Chen et al., 2016): blocks keep their inputs only, and run again in the backward pass.

A backward pass costs a forward pass more, and of n alike blocks the results inside are kept for one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from harden.errors import UsageError


def blocks_of(module: nn.Module) -> tuple[nn.Module, ...]:
    """Return the blocks that can run again on their own.

    They are the members of each `nn.Sequential` and `nn.ModuleList` of two or more that have parameters and modules
    inside: residual blocks, transformer blocks. Of blocks inside blocks the innermost ones.
    """
    sequences = [m for m in module.modules() if isinstance(m, (nn.Sequential, nn.ModuleList)) and len(m) >= 2]
    found = {id(member): member for sequence in sequences for member in sequence if _is_block(member)}
    return tuple(
        block for block in found.values() if not any(id(part) in found for part in block.modules() if part is not block)
    )


def _is_block(member: nn.Module) -> bool:
    return any(True for _ in member.children()) and any(True for _ in member.parameters())


@contextmanager
def recomputing(module: nn.Module) -> Iterator[int]:
    """Let the blocks of a network run again in backward passes meanwhile; yield how many there are.

    Values and gradients are the same. BatchNorm sees a batch once: when it runs again its statistics stay. Other layers
    that change with every forward pass in training (spectral norm's power iteration) change twice.

    Raises:
        UsageError: the network has no blocks.
    """
    blocks = [block for block in blocks_of(module) if "forward" not in block.__dict__]
    if not blocks:
        raise UsageError(
            "--recompute finds no blocks in this network (members of an nn.Sequential or nn.ModuleList that have "
            "layers inside)",
            hint="leave it out and take smaller parts of a batch: --accumulate",
        )
    for block in blocks:
        block.forward = partial(_again, block)  # type: ignore[method-assign]
    try:
        yield len(blocks)
    finally:
        for block in blocks:
            del block.__dict__["forward"]


def _again(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _AsBefore(block)

    run = type(block).forward
    return checkpoint(run, block, *inputs, use_reentrant=False, context_fn=contexts, **named)


class _AsBefore(AbstractContextManager[None]):
    """Lets a block run again as it ran at first, and keeps its running statistics as they are.

    Batches are still normalised by their own. A way of its own that a layer had to compute its result (`by_columns`) it
    has again. Entered once for every backward pass through the block: crafting may take one before the step's own.
    """

    def __init__(self, block: nn.Module) -> None:
        inside = [m for m in block.modules() if m is not block]
        self._norms = [m for m in inside if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._ways = {m: m.__dict__["forward"] for m in inside if "forward" in m.__dict__}

    def __enter__(self) -> None:
        self._kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in self._norms if norm.training]
        for norm, _, _ in self._kept:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        self._lent = [m for m in self._ways if "forward" not in m.__dict__]
        for m in self._lent:
            m.forward = self._ways[m]  # type: ignore[method-assign]

    def __exit__(self, *failure: object) -> None:
        for norm, momentum, count in self._kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
        for m in self._lent:
            del m.__dict__["forward"]
