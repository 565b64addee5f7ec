"""Networks to craft examples on: a surrogate of another family than the audited model, and EAT's static networks.

All of them are small enough for a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harden.models.classifier import Classifier
from harden.models.paper import conv_norm_elu, conv_static_a, conv_static_b, dense_static_a, dense_static_b
from harden.models.trial import GRAY, RGB
from harden.vision import import_timm

Size = tuple[int, int, int]
"""(C, H, W) of one image."""

SMALL = 64
"""Height and width that networks for small images make larger ones fit."""

LEAST = 16
"""Height and width that they make smaller images fit, of which their convolutions would leave nothing."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray, as Pillow converts (ITU-R 601-2)."""


@dataclass(frozen=True)
class Architecture:
    """A network that can be trained to craft on.

    Attributes:
        name: for print, and part of the name in the cache.
        version: raised whenever `build` or its training changes, so that older ones are not taken from the cache.
        kin: how the names of networks of its family begin.
        lr: peak learning rate of Adam.
        build: from the number of classes and the size of an image to the network.
    """

    name: str
    version: int
    kin: tuple[str, ...]
    lr: float
    build: Callable[[int, Size], nn.Module]


class Resize(nn.Module):
    """Makes images smaller or larger, by antialiased bilinear interpolation.

    Args:
        size: (height, width) of what comes out, in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Return images (N, C, h, w) of images (N, C, H, W)."""
        return F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)


def _resized(build: Callable[[int, Size], nn.Module]) -> Callable[[int, Size], nn.Module]:
    """Return what builds a network for images of `LEAST` to `SMALL` pixels, before which others are resized."""

    def built(classes: int, size: Size) -> nn.Module:
        height, width = _fitting_size(size, least=LEAST)
        network = build(classes, (size[0], height, width))
        return network if (height, width) == size[1:] else nn.Sequential(Resize((height, width)), network)

    return built


def _fitting_size(size: Size, *, least: int) -> tuple[int, int]:
    """Return the (height, width) of at most `SMALL` and at least `least` pixels nearest to that of images (C, H, W)."""
    scale = min(1.0, SMALL / max(size[1:]))
    height, width = (max(least, round(scale * side)) for side in size[1:])
    return height, width


def wide_dense(classes: int, size: Size) -> nn.Module:
    """Return the paper's surrogate for Fashion-MNIST: one wide convolution and fully connected layers.

    conv 64 k3, FC 300, dropout .5, FC 300, dropout .5, FC K, ReLU after each but the last. On images of more than 28
    pixels the convolution has a stride that keeps the first fully connected layer as small.
    """
    channels, height, width = size
    stride = -(-max(height, width) // 28)
    maps = nn.Sequential(nn.Conv2d(channels, 64, 3, stride=stride), nn.ReLU(), nn.Flatten())
    with torch.no_grad():
        features = maps(torch.zeros(1, *size)).shape[1]
    return nn.Sequential(
        *maps,
        nn.Linear(features, 300),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(300, 300),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(300, classes),
    )


def plain_conv(classes: int, size: Size) -> nn.Module:
    """Return an all-convolutional network after the paper's surrogate for CIFAR-10.

    As there: blocks of two convolutions, the second with stride 2, dropout between them, ELU, convolutions to K maps
    and global average pooling. Unlike there it has a third of the channels, halves images of more than 32 pixels once
    more, and has BatchNorm, without which it learns little in the few epochs that a CPU has time for. Images of more
    than 64 pixels are first made smaller: in one minute of one core on five kinds of flowers it got 58 % of the test
    images right from 64 pixels, 47 % from 96, and a small MobileNet 39 % from 160.
    """
    return nn.Sequential(
        *([Resize(_fitting_size(size, least=1))] if max(size[1:]) > SMALL else []),
        *conv_norm_elu(size[0], 32, stride=2 if max(size[1:]) > 32 else 1),
        *conv_norm_elu(32, 32, stride=2),
        nn.Dropout(0.2),
        *conv_norm_elu(32, 64),
        *conv_norm_elu(64, 64, stride=2),
        nn.Dropout(0.3),
        *conv_norm_elu(64, 96),
        *conv_norm_elu(96, 96, kernel=1),
        nn.Conv2d(96, classes, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def _mobilenet(classes: int, size: Size) -> nn.Module:
    module: nn.Module = import_timm().create_model("mobilenetv3_small_050", num_classes=classes, in_chans=size[0])
    return module


WIDE_DENSE = Architecture("wide-dense", 1, (), 1e-3, wide_dense)
PLAIN_CONV = Architecture("plain-conv", 1, ("vgg", "alexnet"), 3e-3, plain_conv)
MOBILENET = Architecture("mobilenetv3_small_050", 1, ("mobilenet",), 3e-3, _mobilenet)


def other_family(size: Size, *, classes: int, subject: nn.Module | None, reference: str) -> Architecture:
    """Return the architecture of a surrogate for images of `size`, of another family than the audited model's.

    The paper's for gray images up to 32 pixels, one like its for colour and for larger images; and for a subject that
    is just that, another.

    Args:
        size: (C, H, W) of one image.
        classes: number of classes.
        subject: the audited network; None for a black box.
        reference: where it came from ("resnet18.a1_in1k"), for the family of networks that have a name.
    """
    longest = max(size[1:])
    if size[0] == GRAY and longest <= 32:
        first, second = WIDE_DENSE, PLAIN_CONV
    else:
        first, second = PLAIN_CONV, WIDE_DENSE if longest <= SMALL else MOBILENET
    if first.kin and reference.rpartition(":")[2].lower().startswith(first.kin):
        return second
    return second if subject is not None and _same(subject, first.build(classes, size)) else first


def _same(one: nn.Module, other: nn.Module) -> bool:
    return [p.shape for p in one.parameters()] == [p.shape for p in other.parameters()]


def static_pair(size: Size) -> tuple[Architecture, Architecture]:
    """Return the two static networks of EAT for images (C, H, W) of `size`.

    The paper's for Fashion-MNIST and SVHN on gray images up to 32 pixels, else those for CIFAR; images of more than 64
    pixels are made smaller for them, and images of less than 16 larger.
    """
    if size[0] == GRAY and max(size[1:]) <= 32:
        return (
            Architecture("static-a", 1, (), 1e-3, _resized(dense_static_a)),
            Architecture("static-b", 1, (), 1e-3, _resized(dense_static_b)),
        )
    return (
        Architecture("conv-static-a", 1, (), 3e-3, _resized(conv_static_a)),
        Architecture("conv-static-b", 1, (), 3e-3, _resized(conv_static_b)),
    )


class Fitted(nn.Module):
    """A classifier that is asked about another model's images, and answers in that model's order of the classes.

    The conversion (size by antialiased bilinear interpolation, gray and RGB as Pillow converts) is differentiable.

    Args:
        classifier: the surrogate.
        size: (C, H, W) of the images that come in.
        order: the classifier's output for each of the classes that go out.
    """

    order: Tensor

    def __init__(self, classifier: Classifier, *, size: Size, order: tuple[int, ...]) -> None:
        super().__init__()
        self.classifier = classifier
        self.size = size
        self.register_buffer("order", torch.tensor(order), persistent=False)

    @property
    def converted(self) -> bool:
        """Whether the images have to be converted."""
        return self.size != self.classifier.input_size

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N, K) of images (N, C, H, W) float in [0, 1]."""
        channels, height, width = self.classifier.input_size
        if self.size[0] == RGB and channels == GRAY:
            weights = torch.tensor(LUMINANCE, device=images.device).view(1, 3, 1, 1)
            images = (images * weights).sum(dim=1, keepdim=True)
        elif self.size[0] == GRAY and channels == RGB:
            images = images.expand(-1, 3, -1, -1)
        if self.size[1:] != (height, width):
            images = F.interpolate(images, (height, width), mode="bilinear", antialias=True, align_corners=False)
        scores: Tensor = self.classifier(images)
        return scores[:, self.order]
