"""The networks behind the paper's tables, which are those of ATDA (Song et al., 2019), as `--arch` factories.

harden fit harden.models.paper:cifar_net --data torchvision:cifar100 --pretrain 50
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

GROUPS = 32
"""Of the group normalisation; the paper does not say how many."""


def strided_cnn(num_classes: int = 10, in_channels: int = 1) -> nn.Module:
    """Fashion-MNIST (28 x 28 gray: 1,568 features) and SVHN (32 x 32 RGB: 2,048 features).

    conv 16 k4 s2, ReLU, conv 32 k4 s2, ReLU, flatten, FC 100, ReLU, FC K; both convolutions padded by 1.
    """
    side = 7 if in_channels == 1 else 8
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * side * side, 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )


def cifar_net(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """CIFAR-10 and CIFAR-100: features of 192 x 8 x 8 after the second dropout, GroupNorm and ELU throughout."""

    def conv(taken: int, given: int, kernel: int = 3, stride: int = 1) -> Iterator[nn.Module]:
        yield nn.Conv2d(taken, given, kernel, stride=stride, padding=kernel // 2)
        yield nn.GroupNorm(GROUPS, given)
        yield nn.ELU()

    return nn.Sequential(
        *conv(in_channels, 96),
        *conv(96, 96),
        *conv(96, 96, stride=2),
        nn.Dropout(0.5),
        *conv(96, 192),
        *conv(192, 192),
        *conv(192, 192, stride=2),
        nn.Dropout(0.5),
        *conv(192, 192),
        *conv(192, 192, kernel=1),
        nn.Conv2d(192, num_classes, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def conv_norm_elu(taken: int, given: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Return a convolution that keeps the size (but for its stride), BatchNorm and ELU."""
    layer = nn.Conv2d(taken, given, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [layer, nn.BatchNorm2d(given), nn.ELU()]


def dense_static_a(classes: int, size: tuple[int, int, int]) -> nn.Module:
    """EAT's first static network for Fashion-MNIST and SVHN: conv 32 k5 s2 twice, FC 128."""
    return _dense_static(classes, size, kernel=5, first=0.0, middle=0.1)


def dense_static_b(classes: int, size: tuple[int, int, int]) -> nn.Module:
    """EAT's second: dropout on the images, conv 32 k3 s2 twice, FC 128."""
    return _dense_static(classes, size, kernel=3, first=0.2, middle=0.0)


def _dense_static(classes: int, size: tuple[int, int, int], *, kernel: int, first: float, middle: float) -> nn.Module:
    maps = [
        *([nn.Dropout(first)] if first else []),
        nn.Conv2d(size[0], 32, kernel, stride=2),
        nn.ReLU(),
        nn.Conv2d(32, 32, kernel, stride=2),
        nn.ReLU(),
        *([nn.Dropout(middle)] if middle else []),
        nn.Flatten(),
    ]
    with torch.no_grad():
        features = nn.Sequential(*maps).eval()(torch.zeros(1, *size)).shape[1]
    return nn.Sequential(*maps, nn.Linear(features, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, classes))


def conv_static_a(classes: int, size: tuple[int, int, int]) -> nn.Module:
    """EAT's first static network for CIFAR, narrowed to a third; see `_conv_static`."""
    return _conv_static(classes, size, first=32)


def conv_static_b(classes: int, size: tuple[int, int, int]) -> nn.Module:
    """EAT's second: as the first, with twice as many channels in the first convolution."""
    return _conv_static(classes, size, first=64)


def _conv_static(classes: int, size: tuple[int, int, int], *, first: int) -> nn.Module:
    """[conv k5, conv k1, pool 3 s2, dropout] twice, conv k3, conv k1, conv to K maps, global average; ELU.

    As in the paper but for two things, for which see `plain_conv`: a third of the channels, and BatchNorm.
    """
    return nn.Sequential(
        *conv_norm_elu(size[0], first, 5),
        *conv_norm_elu(first, 32, 1),
        nn.MaxPool2d(3, stride=2),
        nn.Dropout(0.5),
        *conv_norm_elu(32, 64, 5),
        *conv_norm_elu(64, 64, 1),
        nn.MaxPool2d(3, stride=2),
        nn.Dropout(0.5),
        *conv_norm_elu(64, 86, 3),
        *conv_norm_elu(86, 86, 1),
        nn.Conv2d(86, classes, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
