"""Small networks and data that the tests of attacks, defences and the audit share."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from harden.models.classifier import Classifier, Normalisation
from harden.models.origin import Origin

DIGITS = tuple("0123456789")


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """All 1797 digits, (N, 1, 8, 8) float in [0, 1], and labels."""
    data = load_digits()
    return torch.tensor(data.images / 16, dtype=torch.float32)[:, None], torch.tensor(data.target)


def cnn(channels: int = 1, classes: int = 10) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, classes),
    )


@functools.cache
def trained_cnn() -> nn.Sequential:
    """A CNN that reads digits, trained on the first 1500. Shared: do not change it."""
    images, labels = digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = cnn()
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(6):
            for rows in torch.randperm(1500).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(images[rows]), labels[rows]).backward()
                optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return net.eval()


def held_out(count: int) -> tuple[Tensor, Tensor]:
    """`count` digits that `trained_cnn` was not trained on and reads correctly."""
    images, labels = digits()
    images, labels = images[1500:], labels[1500:]
    net = trained_cnn()
    with torch.no_grad():
        right = torch.nonzero(net(images).argmax(1) == labels).squeeze(1)[:count]
    assert len(right) == count
    return images[right].clone(), labels[right].clone()


class Modal(nn.Module):
    """Everything that a mode or a flag changes: two BatchNorms, dropout, a parameter that is frozen."""

    def __init__(self, channels: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding=1)
        self.frozen_norm = nn.BatchNorm2d(6)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.norm(self.frozen_norm(self.conv(images))))
        return self.head(self.drop(maps.mean(dim=(2, 3))))


def modal(seed: int = 0, **kwargs: int) -> Modal:
    """A `Modal` as a user might have it: training, one norm frozen in eval, one weight without gradient."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Modal(**kwargs)
    net.train()
    net.frozen_norm.eval()
    net.conv.weight.requires_grad_(False)
    return net


class Counting(nn.Module):
    """Counts the images that pass through `inner`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.images = 0
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        self.batches.append(len(images))
        return self.inner(images)


def as_classifier(
    module: nn.Module,
    *,
    classes: tuple[str, ...] = DIGITS,
    size: tuple[int, int, int] = (1, 8, 8),
    normalisation: Normalisation | None = None,
) -> Classifier:
    plain = Normalisation("none", (0.0,) * size[0], (1.0,) * size[0])
    return Classifier(
        module,
        normalisation=normalisation or plain,
        classes=classes,
        input_size=size,
        origin=Origin("factory", "tests:net"),
    )
