"""The small Fashion-MNIST network of Table 1(a), as an --arch factory:

harden fit FASHION_MNIST.pth --arch examples/fashion_cnn.py:fashion_cnn --data FOLDER
"""

from torch import nn


def fashion_cnn(num_classes: int = 10, in_channels: int = 1) -> nn.Module:
    """Two strided convolutions and two linear layers for 28x28 images; the keys are `0.weight` to `7.bias`."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )
