"""What a module accepts and returns, found out by looking at it and by one forward pass."""

from __future__ import annotations

import torch
from torch import nn

from harden.errors import ModelError, UserCodeError
from harden.models.classifier import network_scores
from harden.models.modes import evaluating
from harden.stopping import ask

GRAY, RGB = 1, 3


def expected_channels(module: nn.Module) -> int | None:
    """Return the number of image channels that the first convolution reads; None if there is no convolution.

    "First" is in the order of definition, which is the order of use in every network we know; `accepted_channels` does
    not rely on it.
    """
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.LazyConv2d)):
            return part.in_channels or None
    return None


def initialise(module: nn.Module, in_channels: int, image_size: tuple[int, int]) -> None:
    """Give lazy layers, if there are any, their sizes by a forward pass of images (N, in_channels, *image_size).

    Raises:
        ModelError: they have none after it.
    """
    if not _lazy(module):
        return
    refusal = refusal_of(module, in_channels, image_size)
    if lazy := _lazy(module):
        why = f": {refusal.reason}" if isinstance(refusal, UserCodeError) else ""
        raise ModelError(
            f"the lazy parameter {lazy[0]!r} has no size after a forward pass{why}",
            hint="use layers of stated sizes in the --arch code, or give the --image-size that it is made for",
        )


def _lazy(module: nn.Module) -> list[str]:
    return [name for name, tensor in module.named_parameters() if nn.parameter.is_lazy(tensor)]


def accepted_channels(
    module: nn.Module, preferred: int | None, image_size: tuple[int, int], *, classes: int | None = None
) -> int:
    """Return how many channels the images of the module must have, found by forward passes.

    Args:
        module: the network.
        preferred: channels of the images at hand; taken if the module takes them. None: whatever it takes.
        image_size: (height, width) in pixels.
        classes: of the data, if there are any.

    Raises:
        ModelError: it takes neither gray nor RGB images of that size, or returns something other than scores.
    """
    first = preferred or expected_channels(module) or RGB
    for channels in (first, *(other for other in (RGB, GRAY) if other != first)):
        if isinstance(refusal_of(module, channels, image_size, classes=classes), int):
            return channels
    output_classes(module, first, image_size, classes=classes)  # tells why not
    return first


def output_classes(
    module: nn.Module, in_channels: int, image_size: tuple[int, int], *, classes: int | None = None
) -> int:
    """Return K of the scores (N, K) that the module gives for images (N, in_channels, *image_size).

    Where it returns several, scores of as many `classes` as the data has are preferred, or without data of as many as
    its last layer gives.

    Raises:
        ModelError: the module refuses such images, or returns something other than scores.
    """
    refusal = refusal_of(module, in_channels, image_size, classes=classes)
    if isinstance(refusal, int):
        return refusal
    if refusal.ended:
        raise refusal
    channels = expected_channels(module)
    size = f"{in_channels}x{image_size[0]}x{image_size[1]}"
    if channels is not None and channels != in_channels:
        raise ModelError(
            f"the model reads images of {channels} channel(s), the data has {in_channels}",
            hint="choose a model of gray or RGB images, or give an --arch that builds one",
        )
    raise ModelError(
        f"the model cannot take {size} images: {refusal.reason}",
        hint="resize the data to the size that the model was made for (--image-size), repair what its forward does, or "
        "choose another model",
    ) from refusal


def _width_of_last_layer(module: nn.Module) -> int | None:
    """Return how many classes the last linear layer or convolution, in the order of definition, may be for."""
    layers = [part for part in module.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    if not layers:
        return None
    width = layers[-1].out_features if isinstance(layers[-1], nn.Linear) else layers[-1].out_channels
    return max(width, 2)  # a single score is enough for two classes


def refusal_of(
    module: nn.Module, in_channels: int, image_size: tuple[int, int], *, classes: int | None = None
) -> UserCodeError | int:
    """Return the number of classes that one forward pass gives, or the error that it ended in.

    Raises:
        ModelError: the forward pass works but returns no scores (N, K), or wants more than images.
    """
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    classes = classes or _width_of_last_layer(module)
    images = torch.zeros(2, in_channels, *image_size, device=device)
    ask()
    with evaluating(module):
        try:
            return network_scores(module, images, classes=classes).shape[1]
        except UserCodeError as error:
            return error
