"""What loading a model gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from harden.models.origin import Origin


@dataclass(frozen=True)
class LoadedModel:
    """A module, where it came from and what was done to get it.

    Attributes:
        module: the user's network, float32, on the CPU.
        origin: how to build it again.
        has_weights: whether every layer, the last one included, has trained weights.
        notes: what was done, one plain sentence each.
    """

    module: nn.Module
    origin: Origin
    has_weights: bool
    notes: tuple[str, ...] = ()


def one_line(error: BaseException) -> str:
    """Return `Type: first line of the message`, for a message to the user."""
    text = str(error).strip()
    first = text.splitlines()[0][:200] if text else ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
