"""What the first BatchNorm of a network remembers of its inputs in training, against what it gets now."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harden.models.classifier import Normalisation
from harden.models.modes import evaluating
from harden.models.normalisations import apply
from harden.tensors import as_float_images

_BATCH = 250
_SHIFTED = 1 / 8
"""Share of the side by which random crops of padded images are usually shifted: 4 of 32 pixels."""


class FirstNorm:
    """The inputs of the BatchNorm that is called first, summed up over forward passes in eval mode."""

    def __init__(self) -> None:
        self._norm: _BatchNorm | None = None
        self._count = 0
        self._sum = torch.zeros(())
        self._squares = torch.zeros(())

    def see(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Add the inputs of one call; a forward hook."""
        assert isinstance(norm, _BatchNorm)
        if self._norm is None:
            self._norm = norm
        if norm is self._norm:
            values = inputs[0].detach().float().transpose(0, 1).flatten(1).cpu().double()
            self._count += values.shape[1]
            self._sum = self._sum + values.sum(1)
            self._squares = self._squares + values.square().sum(1)

    def divergence(self) -> float | None:
        """Return the Kullback-Leibler divergence of what it got from what it remembers.

        Both are taken for normal distributions, channel by channel; the mean over channels, in nats. None if no
        BatchNorm with running statistics was called.
        """
        if self._norm is None or self._norm.running_mean is None or self._norm.running_var is None:
            return None
        mean = self._sum / self._count
        variance = (self._squares / self._count - mean.square()).clamp_min(0) + self._norm.eps
        known = self._norm.running_var.detach().cpu().double() + self._norm.eps
        shift = (mean - self._norm.running_mean.detach().cpu().double()).square() / known
        return float((variance / known + shift - 1 - (variance / known).log()).mean() / 2)


@contextmanager
def watching_first_norm(module: nn.Module, *, stopping: bool = False) -> Iterator[FirstNorm]:
    """Let a new `FirstNorm` see every forward pass of `module`; nothing stays on the module.

    Args:
        module: the network.
        stopping: whether a pass ends there, with an exception of `StoppedError`.
    """
    first = FirstNorm()

    def see(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        first.see(norm, inputs)
        if stopping:
            raise StoppedError

    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    handles = [norm.register_forward_pre_hook(see) for norm in norms]
    try:
        yield first
    finally:
        for handle in handles:
            handle.remove()


class StoppedError(Exception):
    """A forward pass has got as far as it was wanted."""


def training_divergence(module: nn.Module, normalisation: Normalisation, images: Tensor) -> float | None:
    """Return how far the first BatchNorm's inputs under a normalisation are from those in training, in nats.

    Training usually sees random crops of padded images, whose black borders change the statistics: on a ResNet-20 for
    CIFAR-10 more than the choice between ImageNet's statistics and CIFAR-10's (0.039 and 0.069 nats on whole images,
    0.001 and 0.017 on crops with black borders). So the smallest of three divergences counts: of whole images, of
    crops with black borders, and of crops with borders of zeros after the normalisation.

    Args:
        module: the network; modes are restored. Each pass ends at its first BatchNorm.
        normalisation: what to try.
        images: (N, C, H, W) float in [0, 1] or uint8.

    Returns:
        None without BatchNorm, or where no pass reaches it.
    """
    if not any(isinstance(m, _BatchNorm) and m.running_mean is not None for m in module.modules()):
        return None
    device = next((tensor.device for tensor in module.parameters()), images.device)
    views: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda pixels: apply(normalisation, pixels),
        lambda pixels: apply(normalisation, _cropped(pixels)),
        lambda pixels: _cropped(apply(normalisation, pixels)),
    )
    found = []
    for view in views:
        with watching_first_norm(module, stopping=True) as first, evaluating(module):
            for batch in torch.split(images, _BATCH):
                with suppress(StoppedError):
                    module(view(as_float_images(batch.to(device))))
        found.append(first.divergence())
    return min((value if math.isfinite(value) else math.inf for value in found if value is not None), default=None)


def _cropped(images: Tensor) -> Tensor:
    """Return random crops (N, C, H, W) of images that are padded with zeros; always the same ones."""
    height, width = images.shape[2:]
    up, left = (max(1, round(_SHIFTED * side)) for side in (height, width))
    padded = nn.functional.pad(images, (left, left, up, up))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(2 * up + 1, (len(images),), generator=generator).tolist()
    columns = torch.randint(2 * left + 1, (len(images),), generator=generator).tolist()
    return torch.stack(
        [
            image[:, row : row + height, column : column + width]
            for image, row, column in zip(padded, rows, columns, strict=True)
        ]
    )
