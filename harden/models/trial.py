"""What a module accepts and returns, found out by looking at it and by one forward pass."""

from __future__ import annotations

import torch
from torch import nn

from harden.errors import ModelError
from harden.models.classifier import scores_of
from harden.models.loaded import one_line
from harden.models.modes import evaluating


def expected_channels(module: nn.Module) -> int | None:
    """Return the number of image channels that the first convolution reads; None if there is no convolution.

    "First" is in the order of definition, which is the order of use in every network we know; a wrong guess is
    corrected by the trial forward pass.
    """
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.LazyConv2d)):
            return part.in_channels or None
    return None


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
        wanted = "gray" if channels == 1 else "RGB" if channels == 3 else f"{channels}-channel"
        raise ModelError(
            f"the model reads images of {channels} channel(s), the data has {in_channels}",
            hint=f"read the data as {wanted} images (--channels {channels}), or give an --arch for {in_channels}",
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
    with evaluating(module):
        try:
            output = module(images)
        except Exception as error:  # whatever the user's forward raises is the answer
            return error
    return scores_of(output).shape[1]
