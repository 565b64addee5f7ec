"""The normalisation that a network was trained with is found or in doubt, and never another one with confidence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harden.models.choice import Tried, choose
from harden.models.classifier import Basis, Conflict
from harden.models.first_norm import training_divergence
from harden.models.normalisations import CANDIDATES, apply, changes_eps, own_statistics, same
from harden.models.preflight import preflight

CLASSES = ("a", "b", "c", "d")
COLOURS = CANDIDATES[3]


def blots(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Coloured noise with a blot of one of four forms and a random colour and place: no class has a colour."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    images = (
        torch.rand(count, 3, 1, 1, generator=generator) * 0.4 + torch.rand(count, 3, 16, 16, generator=generator) * 0.2
    )
    forms = torch.zeros(4, 7, 7)
    forms[0], forms[1, 3], forms[2, :, 3] = 1, 1, 1
    forms[3] = torch.eye(7)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = torch.randint(10, (2,), generator=generator).tolist()
        colour = torch.rand(3, 1, 1, generator=generator) * 0.4 + 0.4
        part = image[:, row : row + 7, column : column + 7]
        part.copy_(torch.where(forms[label] > 0, colour, part))
    return images.clamp(0, 1), labels


def trained(images: Tensor, labels: Tensor, *, norm: bool, epochs: int = 6) -> nn.Module:
    def block(given: int, made: int) -> list[nn.Module]:
        return [
            nn.Conv2d(given, made, 3, padding=1),
            *([nn.BatchNorm2d(made)] if norm else []),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(*block(3, 12), *block(12, 16), nn.Flatten(), nn.Linear(256, 4))
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(labels)).split(32):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
                optimiser.step()
    return net.eval()


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("wanted", [COLOURS[k] for k in (1, 3, 5, 9)], ids=lambda candidate: candidate.name)
def test_it_is_found_or_in_doubt(wanted, norm: bool) -> None:
    images, labels = blots(500, seed=0)
    net = trained(apply(wanted, images), labels, norm=norm)
    seen, truth = blots(240, seed=1)
    found = preflight(net, images=seen, labels=truth, classes=CLASSES, given=None, must_know=False)
    if found.problem is not None:
        return
    chosen = found.chosen
    assert chosen.basis is Basis.FOUND
    possible = (chosen, *(chosen.doubt.rivals if chosen.doubt is not None else ()))
    assert any(same(one, wanted) for one in possible), (chosen, found.rows)
    # Of those whose contrast differs greatly, BatchNorm leaves one: nothing that is far from the truth is a rival.
    if norm and chosen.doubt is None:
        assert not changes_eps(chosen, wanted)


def tried(name: str, right: Tensor, labels: Tensor, *, divergence: float | None = None, contrast: float = 3.0) -> Tried:
    candidate = next(one for one in COLOURS if one.name == name)
    scores = torch.zeros(len(labels), 4)
    scores[torch.arange(len(labels)), torch.where(right, labels, (labels + 1) % 4)] = contrast
    scores += torch.rand(len(labels), 4, generator=torch.Generator().manual_seed(5))
    return Tried(candidate, scores, right, divergence)


def share(of: float, count: int = 1000) -> Tensor:
    return torch.arange(count) < of * count


LABELS = torch.arange(1000) % 4


def test_accuracy_that_contradicts_batch_norm_is_told() -> None:
    known = tried("ImageNet", share(0.9), LABELS, divergence=0.001)
    better = tried("0-255", share(1.0), LABELS, divergence=1000.0)
    choice = choose([known, better], LABELS)
    assert choice.tried is known
    assert choice.conflict is Conflict.BATCHNORM_AGAINST_ACCURACY
    assert choice.rivals == (better,)
    as_good = tried("0-255", share(0.902), LABELS, divergence=1000.0)
    assert not choose([known, as_good], LABELS).rivals


def test_a_first_one_in_the_list_has_no_advantage_over_one_that_is_clearly_more_accurate() -> None:
    first, second = tried("ImageNet", share(0.678), LABELS), tried("CIFAR-10", share(0.69), LABELS)
    choice = choose([first, second], LABELS)
    assert choice.tried is second
    assert not choice.rivals
    close = choose([first, tried("CIFAR-10", share(0.682), LABELS)], LABELS)
    assert close.conflict is Conflict.TIED
    assert len(close.rivals) == 1
    assert close.normalisation.doubt is not None


def test_a_loss_that_contradicts_accuracy_is_told() -> None:
    accurate, sure = share(0.95), share(0.93)
    loud = tried("ImageNet", accurate, LABELS)
    # Wrong with all its might where it is wrong, and hardly sure where it is right.
    loud = Tried(loud.normalisation, loud.scores * torch.where(accurate, 0.05, 9.0)[:, None], accurate, None)
    quiet = tried("CIFAR-10", sure, LABELS)
    choice = choose([loud, quiet], LABELS)
    assert choice.tried is loud
    assert choice.conflict is Conflict.ACCURACY_AGAINST_LOSS
    assert choice.rivals == (quiet,)


def test_more_images_are_asked_for_where_a_doubt_is_left_and_only_then() -> None:
    images, labels = blots(600, seed=0)
    net = trained(apply(COLOURS[1], images), labels, norm=False)
    asked = []

    def more() -> tuple[Tensor, Tensor]:
        asked.append(1)
        return blots(1000, seed=2)

    few = preflight(net, images=images[:40], labels=labels[:40], classes=CLASSES, given=None, more=more)
    assert asked
    assert few.images == 1000
    asked.clear()
    preflight(net, images=images, labels=labels, classes=CLASSES, given=COLOURS[1], more=more)
    assert not asked


def test_random_crops_with_black_borders_in_training_do_not_mislead_batch_norm() -> None:
    images, labels = blots(600, seed=0)
    padded = nn.functional.pad(images, (2, 2, 2, 2))
    generator = torch.Generator().manual_seed(3)
    places = torch.randint(5, (len(images), 2), generator=generator).tolist()
    crops = torch.stack([one[:, a : a + 16, b : b + 16] for one, (a, b) in zip(padded, places, strict=True)])
    wanted = COLOURS[3]
    net = trained(apply(wanted, crops), labels, norm=True)
    chosen = preflight(net, images=images, labels=labels, classes=CLASSES, given=None).chosen
    possible = (chosen, *(chosen.doubt.rivals if chosen.doubt is not None else ()))
    assert any(same(one, wanted) for one in possible), chosen
    whole = own_statistics(crops)
    assert changes_eps(whole, own_statistics(images)), "the borders change what BatchNorm remembers"
    near = training_divergence(net, wanted, images)
    assert near is not None
    assert near < 0.02
