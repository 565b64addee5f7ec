"""The verdict on two tensors of scores does not depend on how large the scores are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from harden.export.parity import compare
from harden.models.agreement import agree, differences, scale_of
from harden.models.choice import fitted_losses
from harden.models.classifier import Classifier
from harden.models.folding import find_folding
from harden.models.layout import lay_out, layout_of
from harden.models.normalisations import plain
from harden.models.origin import Origin

SCALES = [1e-4, 1e-2, 1.0, 1e2, 1e4]


def network(scale: float) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
        )
    with torch.no_grad():
        net[1].running_mean.normal_(generator=torch.Generator().manual_seed(1))
        net[5].weight.mul_(scale)
        net[5].bias.mul_(scale)
    return net.eval()


def images(count: int = 20) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def as_classifier(net: nn.Module) -> Classifier:
    names = ("a", "b", "c", "d")
    return Classifier(
        net, normalisation=plain(3), classes=names, input_size=(3, 8, 8), origin=Origin("factory", "f")
    ).eval()


@pytest.mark.parametrize("scale", SCALES)
def test_rounding_agrees_and_one_percent_does_not_at_every_scale(scale: float) -> None:
    net, broken = network(scale), network(scale)
    with torch.no_grad():
        broken[5].weight[0, int(net[5].weight[0].abs().argmax())] *= 1.05
        expected, rounded, wrong = net(images()), net.double()(images().double()).float(), broken(images())
    assert 0.003 < float(differences(expected, wrong).max()) / scale_of(expected) < 0.03
    assert agree(expected, rounded)
    assert not agree(expected, wrong)
    assert not agree(expected, wrong[:, :3])
    with torch.no_grad():
        assert compare(network(scale), lambda x: net(x.double()).float(), images(), kind="clean").holds
        assert not compare(network(scale), broken, images(), kind="clean").holds


@pytest.mark.parametrize("scale", SCALES)
def test_what_is_folded_and_laid_out_does_not_depend_on_the_scale(scale: float) -> None:
    classifier = as_classifier(network(scale))
    assert len(find_folding(classifier, images())) == 1
    lay_out(classifier)
    assert layout_of(classifier) is torch.channels_last


class OrderMatters(nn.Module):
    """Says something else of images that lie channels last in memory, by one percent."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores if x.is_contiguous() else scores * 1.01


@pytest.mark.parametrize("scale", SCALES)
def test_a_layout_that_changes_scores_by_a_percent_is_refused_at_every_scale(scale: float) -> None:
    classifier = as_classifier(OrderMatters(network(scale)))
    lay_out(classifier)
    assert layout_of(classifier) is torch.contiguous_format


@pytest.mark.parametrize("scale", [1e-9, *SCALES, 1e9])
def test_the_fitted_loss_is_the_same_at_every_scale(scale: float) -> None:
    scores = torch.randn(100, 4, generator=torch.Generator().manual_seed(3)).double()
    labels = torch.arange(100) % 4
    scores[torch.arange(100), labels] += 2
    torch.testing.assert_close(fitted_losses(scores * scale, labels), fitted_losses(scores, labels))


def test_scores_that_are_not_numbers_never_agree_and_equal_infinities_do() -> None:
    scores = torch.tensor([[1.0, -torch.inf], [0.5, 0.0]])
    assert agree(scores, scores.clone())
    for value in (torch.nan, torch.inf):
        other = copy.deepcopy(scores)
        other[1, 1] = value
        assert not agree(scores, other)
    assert not agree(torch.full((1, 2), torch.nan), torch.full((1, 2), torch.nan))
    assert agree(torch.zeros(2, 3), torch.zeros(2, 3))
    assert not agree(torch.zeros(2, 3), torch.full((2, 3), 1e-9))


def test_what_all_classes_share_is_rounded_as_well() -> None:
    """A margin of a thousandth on scores of a thousand is all rounding."""
    scores = 1000 + torch.randn(50, 4, generator=torch.Generator().manual_seed(4)) * 1e-3
    assert agree(scores, scores + 2e-3)
    assert not agree(scores, scores + 0.02)
