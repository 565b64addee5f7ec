"""The two types that everything else speaks to: `Scorer` and `Classifier`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Normalisation:
    """What happens to an image in [0, 1] before the user's module sees it: `(x - mean) / std`, channel by channel.

    Attributes:
        name: what to call it in print ("ImageNet", "none", "given", ...).
        mean: one number per input channel, on the [0, 1] scale.
        std: one positive number per input channel. A model of 0-255 inputs has mean 0 and std 1/255.
        flip_channels: whether the module wants BGR; mean and std are in the module's order.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip_channels: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Normalisation:
        """Read what `to_json` wrote."""
        return cls(data["name"], tuple(data["mean"]), tuple(data["std"]), data["flip_channels"])


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
