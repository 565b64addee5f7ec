"""The CIFAR ResNet-20 with parameter-free shortcuts (He et al. 2016, section 4.2, option A), as an --arch factory:

harden fit RESNET20.th --arch examples/resnet_cifar.py:resnet20 --data FOLDER
"""

from torch import Tensor, nn
from torch.nn.functional import pad, relu


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut that drops every second pixel and pads the channels with zeros."""

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.stride, self.padding = stride, (wide - narrow) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return relu(out + pad(shortcut, (0, 0, 0, 0, self.padding, self.padding)))


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels with `depth` blocks each."""

    def __init__(self, depth: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[Block(16, 16, 1) for _ in range(depth)])
        self.layer2 = nn.Sequential(Block(16, 32, 2), *[Block(32, 32, 1) for _ in range(depth - 1)])
        self.layer3 = nn.Sequential(Block(32, 64, 2), *[Block(64, 64, 1) for _ in range(depth - 1)])
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def resnet20(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """The 20-layer network: three blocks in each stage."""
    return CifarResNet(3, num_classes, in_channels)
