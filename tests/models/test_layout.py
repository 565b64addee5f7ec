from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harden.models.layout import laid_out, lay_out, layout_of
from tests.attacks.nets import as_classifier

CLASSES = ("a", "b", "c")
IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Flattens(nn.Module):
    """The network of many tutorials: `.view` on a feature map, which only works channels first."""

    def __init__(self, *, only_in_training: bool = False):
        super().__init__()
        self.only_in_training = only_in_training
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Linear(6 * 16, 3)

    def forward(self, x):
        x = F.max_pool2d(self.second(F.relu(self.first(x))), 2)
        viewed = self.training or not self.only_in_training
        return self.head(x.view(x.size(0), -1) if viewed else x.flatten(1))


class ReadsStorage(nn.Module):
    """Answers by what lies first in memory: no sane module, but one whose answers the layout would change."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x):
        maps = self.second(self.first(x))
        return torch.as_strided(maps, (len(x), 3), (maps[0].numel(), 1))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 6, 3), nn.Flatten(),
        nn.Linear(96, 3),
    )  # fmt: skip


def test_a_network_with_convolutions_gets_its_channels_last_and_stays_what_it_is():
    classifier = as_classifier(convolutional(), classes=CLASSES).train()
    classifier.module[4].eval()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    random = torch.get_rng_state()
    lay_out(classifier)
    assert layout_of(classifier) is torch.channels_last
    assert laid_out(IMAGES.expand(-1, 3, -1, -1), classifier).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.get_rng_state(), random)
    assert classifier.module[1].training
    assert not classifier.module[4].training
    after = classifier.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    "module", [Flattens(), Flattens(only_in_training=True), ReadsStorage()], ids=["view", "view in training", "strides"]
)
def test_a_network_that_channels_last_would_break_stays_as_it_is(module):
    classifier = as_classifier(module, classes=CLASSES)
    expected = classifier(IMAGES)
    lay_out(classifier)
    assert layout_of(classifier) is torch.contiguous_format
    assert torch.equal(classifier(laid_out(IMAGES, classifier)), expected)


@pytest.mark.parametrize("module", [nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), lambda images: images])
def test_what_has_no_convolutions_has_no_layout(module):
    if isinstance(module, nn.Module):
        lay_out(as_classifier(module, classes=CLASSES))
    assert laid_out(IMAGES, module) is IMAGES
