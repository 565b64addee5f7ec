"""Whether a network in training is the function that it is in eval mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harden.errors import ModelError
from harden.models.modes import require_trainable, try_both_modes
from tests.attacks.nets import as_classifier


def network(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *more, nn.Flatten(), nn.Linear(144, 5))


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(1).to(x) * 1e-30 if self.training else x


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
        return x


@pytest.mark.parametrize(
    ("more", "same"),
    [
        ((), True),
        ((nn.GroupNorm(2, 4), nn.GELU()), True),
        ((nn.BatchNorm2d(4),), False),
        ((nn.Dropout(0.1),), False),
        ((nn.Dropout(0.0),), True),
        ((Noisy(),), False),  # the same scores, but random numbers were drawn
        ((Counting(),), False),  # the same scores, but a buffer has changed
    ],
)
def test_batchnorm_and_dropout_are_told_from_what_is_the_same_in_both(more: tuple[nn.Module, ...], same: bool) -> None:
    classifier = as_classifier(network(*more), classes=tuple("abcde"), size=(3, 8, 8))
    assert try_both_modes(classifier, torch.rand(4, 3, 8, 8)).same == same


def test_batchnorm_at_rest_is_the_same_in_both() -> None:
    classifier = as_classifier(network(nn.BatchNorm2d(4)), classes=tuple("abcde"), size=(3, 8, 8))

    def rest() -> None:
        classifier.train()
        classifier.module[1].training = False

    assert try_both_modes(classifier, torch.rand(4, 3, 8, 8), rest).same


def test_everything_is_put_back() -> None:
    classifier = as_classifier(network(nn.BatchNorm2d(4), nn.Dropout(0.5)), classes=tuple("abcde"), size=(3, 8, 8))
    classifier.train()
    classifier.module[1].eval()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    modes = [module.training for module in classifier.modules()]
    rng = torch.get_rng_state()
    try_both_modes(classifier, torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert [module.training for module in classifier.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


class NeedsRoom(nn.Module):
    """As an auxiliary head does: only in training, and only of small feature maps, is there nothing left."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            nn.functional.conv2d(x, torch.zeros(1, 4, 7, 7))
        return x


def test_a_network_that_fails_in_training_mode_only_is_told_before_training() -> None:
    classifier = as_classifier(network(NeedsRoom()), classes=tuple("abcde"), size=(3, 8, 8))
    with pytest.raises(ModelError, match="3x8x8 in training mode") as caught:
        require_trainable(classifier)
    assert "--image-size" in (caught.value.hint or "")
    require_trainable(as_classifier(network(nn.BatchNorm2d(4)), classes=tuple("abcde"), size=(3, 8, 8)))
