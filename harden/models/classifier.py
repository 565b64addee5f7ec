"""The two types that everything else speaks to: `Scorer` and `Classifier`."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harden.errors import ModelError, UserCodeError
from harden.models.origin import Origin
from harden.models.output_subset import OutputSubset
from harden.models.outputs import Readings, scores_of
from harden.models.user_code import user_code

_FEW = 2
"""Images that a network which fails on more is tried on."""


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
        subset: which of the module's outputs the logits are; None: all of them, in their order.
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
        subset: OutputSubset | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.normalisation = normalisation
        self.classes = classes
        self.input_size = input_size
        self.origin = origin
        self.subset = subset
        self._readings: Readings = {}
        shape = (1, len(normalisation.mean), 1, 1)
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std).view(shape), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, C, H, W) float in [0, 1].

        Raises:
            ModelError: the module fails (a `UserCodeError`), or does not return K scores for each image.
        """
        if self.normalisation.flip_channels:
            images = images.flip(1)
        scores = network_scores(
            self.module, (images - self.mean) / self.std, classes=self.outputs, readings=self._readings
        )
        require_outputs(scores, self.outputs)
        return scores if self.subset is None else self.subset.of(scores)

    @property
    def outputs(self) -> int:
        """How many scores the module itself gives for an image."""
        return self.subset.outputs if self.subset is not None else len(self.classes)

    @property
    def device(self) -> torch.device:
        """The device that images must be on."""
        return self.mean.device


def require_outputs(scores: Tensor, outputs: int) -> None:
    """Return if there are `outputs` scores for each image.

    Raises:
        ModelError: there are more or fewer.
    """
    if scores.shape[1] != outputs:
        raise ModelError(
            f"the network gave {scores.shape[1]} scores for an image, and {outputs} were expected",
            hint="use data with one class for each of its outputs; their number must not change between calls",
        )


def network_scores(
    module: nn.Module, images: Tensor, *, classes: int | None = None, readings: Readings | None = None
) -> Tensor:
    """Return the scores (N, K) of a network that the user brings: every forward pass of one goes through here.

    Args:
        module: the network.
        images: (N, C, H, W) as it wants them.
        classes, readings: see `scores_of`.

    Raises:
        UserCodeError: whatever its forward raises.
        ModelError: it returns something other than scores of these images.
    """
    if torch.compiler.is_compiling():  # traced for an export, where nothing may surround the network's own operations
        return scores_of(module(images), images=None, classes=classes, readings=readings)
    shape = "x".join(map(str, images.shape[1:]))
    try:
        with user_code(f"the network's forward pass of {len(images)} images of {shape}"):
            scores = scores_of(module(images), images=len(images), classes=classes, readings=readings)
    except UserCodeError as error:
        raise _explained(error, module, images) from error.__cause__
    if scores.device != images.device:
        raise ModelError(
            f"the network returns scores on the device {scores.device} for images on {images.device}",
            hint="return them where the images are: scores.to(images.device)",
        )
    return scores


def _explained(error: UserCodeError, module: nn.Module, images: Tensor) -> ModelError:
    """Return an error that says what the network wants, where that can be found out, or else `error`."""
    wanted = _further_arguments(module) if isinstance(error.__cause__, TypeError) else ()
    if wanted:
        what = "a second argument" if len(wanted) == 1 else f"{len(wanted)} more arguments"
        return ModelError(
            f"the network cannot be given images alone: its forward wants {what}: {', '.join(wanted)}",
            hint="wrap it in a module whose forward takes the images and fills in the rest, and name that with --arch",
        )
    few = images[:_FEW].detach()
    if error.ended or len(few) == len(images):
        return error
    try:
        with torch.no_grad(), user_code("another forward pass"):
            module(few)
    except UserCodeError:
        return error
    return UserCodeError(
        f"the network takes {len(few)} images at once and fails on {len(images)}: {error.reason}",
        reason=error.reason,
        hint="its forward must take any number of images; take the limit out",
    )


def _further_arguments(module: nn.Module) -> tuple[str, ...]:
    """Return the arguments behind the first one that `forward` cannot do without."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(p.name for p in parameters[1:] if p.default is p.empty and p.kind not in kinds)
