"""The two types that everything else speaks to: `Scorer` and `Classifier`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harden.errors import ModelError
from harden.models.origin import Origin


class Scorer(Protocol):
    """Anything that maps images (N, C, H, W) float in [0, 1] to scores (N, K)."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Return scores (N, K)."""
        ...


class Basis(StrEnum):
    """How a normalisation came to be known."""

    GIVEN = "given"
    """By the user."""
    STATED = "stated"
    """By a config.json beside the weights, or by the weights file itself."""
    INSIDE = "inside"
    """The network normalises its images by itself."""
    FOUND = "found"
    """On labelled images."""
    TRAINED = "trained"
    """The network, or its last layer, has no other training than the one that this normalisation was chosen for."""


class Conflict(StrEnum):
    """Why a normalisation that was found is in doubt."""

    TIED = "tied"
    """Nothing tells it apart from others."""
    BATCHNORM_AGAINST_ACCURACY = "BatchNorm against accuracy"
    """The first BatchNorm was trained on other inputs than those that the network is most accurate on."""
    ACCURACY_AGAINST_LOSS = "accuracy against loss"
    """The most accurate one has a clearly higher loss than others."""


@dataclass(frozen=True)
class Doubt:
    """That another normalisation may be the right one.

    Attributes:
        conflict: why.
        rivals: what it may be instead, at least one.
    """

    conflict: Conflict
    rivals: tuple[Normalisation, ...]


@dataclass(frozen=True)
class Normalisation:
    """What happens to an image in [0, 1] before the user's module sees it: `(x - mean) / std`, channel by channel.

    Attributes:
        name: what to call it in print ("ImageNet", "none", "given", ...).
        mean: one number per input channel, on the [0, 1] scale.
        std: one positive number per input channel. A model of 0-255 inputs has mean 0 and std 1/255.
        flip_channels: whether the module wants BGR; mean and std are in the module's order.
        basis: how it came to be known; None where nobody says (a program, a run folder of an earlier version).
        doubt: that another one may be right; None where it is clear.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip_channels: bool = False
    basis: Basis | None = None
    doubt: Doubt | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Normalisation:
        """Read what `to_json` wrote."""
        basis, doubt = data.get("basis"), data.get("doubt")
        return cls(
            data["name"],
            tuple(data["mean"]),
            tuple(data["std"]),
            data["flip_channels"],
            Basis(basis) if basis is not None else None,
            Doubt(Conflict(doubt["conflict"]), tuple(map(cls.from_json, doubt["rivals"]))) if doubt else None,
        )


class Classifier(nn.Module):
    """A differentiable `Scorer`: images (N, C, H, W) float in [0, 1] in, logits (N, K) out.

    The normalisation lives inside, so that eps always means the [0, 1] scale. The user's own module is `module`; its
    state-dict keys are the ones that are saved and exported.

    Attributes:
        module: the user's module, unchanged.
        normalisation: applied before `module`.
        classes: K class names in the order of the logits.
        input_size: (C, H, W) of one image.
        origin: where the module came from.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        *,
        normalisation: Normalisation,
        classes: tuple[str, ...],
        input_size: tuple[int, int, int],
        origin: Origin,
    ) -> None:
        super().__init__()
        self.module = module
        self.normalisation = normalisation
        self.classes = classes
        self.input_size = input_size
        self.origin = origin
        shape = (1, len(normalisation.mean), 1, 1)
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std).view(shape), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, C, H, W) float in [0, 1]."""
        if self.normalisation.flip_channels:
            images = images.flip(1)
        return scores_of(self.module((images - self.mean) / self.std))

    @property
    def device(self) -> torch.device:
        """The device that images must be on."""
        return self.mean.device


def scores_of(output: object) -> Tensor:
    """Return the (N, K) scores in what a module returned.

    Modules with auxiliary heads return a tuple (torchvision's GoogLeNet and Inception in training mode) and some
    libraries return an object or dictionary with `logits`; the first, main scores are taken.

    Raises:
        ModelError: nothing in the output looks like scores (N, K).
    """
    if isinstance(output, dict):
        output = output.get("logits", output)
    elif hasattr(output, "logits"):
        output = output.logits
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if isinstance(output, Tensor):
        if output.ndim == 4 and output.shape[2:] == (1, 1):
            output = output.flatten(1)
        if output.ndim == 2:
            return output
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ModelError(
        f"the model must return scores of shape (N, classes); it returned {shape}",
        hint="pass a classifier, or an --arch whose forward returns one row of class scores per image",
    )
