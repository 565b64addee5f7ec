"""What a module accepts and returns, found out by looking at it and by one forward pass."""

from __future__ import annotations

import torch
from torch import nn

from harden.errors import ModelError
from harden.models.classifier import scores_of
from harden.models.loaded import one_line
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


def accepted_channels(module: nn.Module, preferred: int | None, image_size: tuple[int, int]) -> int:
    """Return how many channels the images of the module must have, found by forward passes.

    Args:
        module: the network.
        preferred: channels of the images at hand; taken if the module takes them. None: whatever it takes.
        image_size: (height, width) in pixels.

    Raises:
        ModelError: it takes neither gray nor RGB images of that size, or returns something other than scores.
    """
    first = preferred or expected_channels(module) or RGB
    for channels in (first, *(other for other in (RGB, GRAY) if other != first)):
        if isinstance(refusal_of(module, channels, image_size), int):
            return channels
    output_classes(module, first, image_size)  # tells why not
    return first


def output_classes(module: nn.Module, in_channels: int, image_size: tuple[int, int]) -> int:
    """Return K of the scores (N, K) that the module gives for images (N, in_channels, *image_size).

    Raises:
        ModelError: the module refuses such images, or returns something other than scores.
    """
    refusal = refusal_of(module, in_channels, image_size)
    if isinstance(refusal, int):
        return refusal
    channels = expected_channels(module)
    size = f"{in_channels}x{image_size[0]}x{image_size[1]}"
    if channels is not None and channels != in_channels:
        raise ModelError(
            f"the model reads images of {channels} channel(s), the data has {in_channels}",
            hint="choose a model of gray or RGB images, or give an --arch that builds one",
        )
    raise ModelError(
        f"the model cannot take {size} images: {one_line(refusal)}",
        hint="resize the data to the size that the model was made for (--image-size), or choose another model",
    ) from refusal


def refusal_of(module: nn.Module, in_channels: int, image_size: tuple[int, int]) -> Exception | int:
    """Return the number of classes that one forward pass gives, or the exception that it raised.

    Raises:
        ModelError: the forward pass works but returns no scores (N, K).
    """
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    images = torch.zeros(2, in_channels, *image_size, device=device)
    ask()
    with evaluating(module):
        try:
            output = module(images)
        except Exception as error:  # whatever the user's forward raises is the answer
            return error
    return scores_of(output).shape[1]
