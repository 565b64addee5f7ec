"""What loading a model gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from harden.errors import text_of
from harden.models.origin import Origin


@dataclass(frozen=True)
class Stated:
    """What the files of a network say of its images and classes; None where they are silent.

    Attributes:
        size: (height, width) in pixels.
        mean, std: normalisation per channel on the [0, 1] scale, in the network's order of channels.
        flip_channels: whether that order is BGR.
        where: what states the normalisation, for print.
        labels: class names in the order of the outputs.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None
    flip_channels: bool = False
    where: str = "config.json's"


@dataclass(frozen=True)
class LoadedModel:
    """A module, where it came from and what was done to get it.

    Attributes:
        module: the user's network, float32, on the CPU.
        origin: how to build it again.
        has_weights: whether every layer, the last one included, has trained weights.
        notes: what was done, one plain sentence each.
        stated: what its config.json says, where it has one.
    """

    module: nn.Module
    origin: Origin
    has_weights: bool
    notes: tuple[str, ...] = ()
    stated: Stated = Stated()


def one_line(error: BaseException) -> str:
    """Return `Type: first line of the message`, for a message to the user."""
    text = text_of(error).strip()
    first = text.splitlines()[0][:200] if text else ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
