"""The small network of `harden demo`."""

from __future__ import annotations

from torch import nn


def demo_net() -> nn.Module:
    """Return a convolutional network for 8 x 8 gray digits: (N, 1, 8, 8) to scores (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
