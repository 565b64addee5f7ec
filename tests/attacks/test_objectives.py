"""What attacks raise, by hand, and what stands in for the ratio where there are too few classes for it."""

from __future__ import annotations

import pytest
import torch

from harden.attacks import APGD, MIM, Objective, run_attack
from harden.attacks.objectives import likeliest_targets

from .nets import cnn, digits, gen

SCORES = torch.tensor([[4.0, 1.0, 3.0, 0.0], [4.0, 1.0, 3.0, 0.0], [1.0, 2.0, 2.0, -1.0]])
LABELS = torch.tensor([0, 2, 1])
TARGETS = torch.tensor([2, 0, 0])


def test_the_ratio_untargeted_by_hand():
    """-(z_y - best other) / (first - third): (3 - 4) / (4 - 1), (4 - 3) / (4 - 1), and a tie."""
    found = Objective.DLR.of(SCORES, LABELS)
    torch.testing.assert_close(found, torch.tensor([-1 / 3, 1 / 3, 0.0]))


def test_the_ratio_targeted_by_hand():
    """-(z_y - z_t) / (first - (third + fourth) / 2): -1 / (4 - .5), 1 / (4 - .5), -1 / (2 - 0)."""
    found = Objective.DLR.of(SCORES, LABELS, TARGETS)
    torch.testing.assert_close(found, torch.tensor([-1 / 3.5, 1 / 3.5, -0.5]))


def test_the_ratio_knows_neither_scale_nor_shift():
    for targets in (None, TARGETS):
        plain = Objective.DLR.of(SCORES, LABELS, targets)
        torch.testing.assert_close(Objective.DLR.of(1000 * SCORES + 7, LABELS, targets), plain)


def test_margin_and_cross_entropy_by_hand():
    torch.testing.assert_close(Objective.MARGIN.of(SCORES, LABELS), torch.tensor([-1.0, 1.0, 0.0]))
    torch.testing.assert_close(Objective.MARGIN.of(SCORES, LABELS, TARGETS), torch.tensor([-1.0, 1.0, -1.0]))
    log_probabilities = SCORES - SCORES.logsumexp(1, keepdim=True)
    rows = torch.arange(3)
    torch.testing.assert_close(Objective.CROSS_ENTROPY.of(SCORES, LABELS), -log_probabilities[rows, LABELS])
    torch.testing.assert_close(Objective.CROSS_ENTROPY.of(SCORES, LABELS, TARGETS), log_probabilities[rows, TARGETS])


@pytest.mark.parametrize(
    ("classes", "targeted", "stands_in"),
    [(2, False, True), (3, False, False), (2, True, True), (3, True, True), (4, True, False)],
)
def test_the_margin_stands_in_where_there_are_too_few_classes(classes, targeted, stands_in):
    scores, labels = torch.randn(6, classes, generator=gen()), torch.arange(6) % classes
    targets = (labels + 1) % classes if targeted else None
    found, margin = Objective.DLR.of(scores, labels, targets), Objective.MARGIN.of(scores, labels, targets)
    assert found.isfinite().all()
    assert torch.equal(found, margin) is stands_in


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("targets", [0, 9])
def test_apgd_on_the_ratio_fools_nets_of_two_and_three_classes(classes, targets):
    images = digits()[0][:24]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = cnn(classes=classes).eval()
    with torch.no_grad():
        labels = net(images).argmax(1)
    attack = APGD(eps=0.5, iterations=20, raises=Objective.DLR, targets=targets, finalists=targets)
    assert (run_attack(attack, net, images, labels, generator=gen()).margins < 0).float().mean() > 0.5


def test_the_likeliest_targets_are_wrong_classes_best_first():
    found = likeliest_targets(SCORES, LABELS, 2)
    assert found.tolist()[:2] == [[2, 1], [0, 1]]
    assert likeliest_targets(SCORES, LABELS, 9).shape == (3, 3)
    assert not (likeliest_targets(SCORES, LABELS, 9) == LABELS[:, None]).any()


@pytest.mark.parametrize("factor", [1e-20, 1e-3, 1e3])
def test_the_ratio_of_scores_does_not_depend_on_their_scale(factor):
    scores = torch.tensor([[3.0, 1.0, 0.5, -2.0], [0.1, 0.2, 0.3, 0.4]])
    labels = torch.tensor([0, 1])
    torch.testing.assert_close(Objective.DLR.of(factor * scores, labels), Objective.DLR.of(scores, labels))


def test_the_momentum_of_mim_does_not_depend_on_the_scale_of_the_gradient():
    clean = torch.full((2, 1, 2, 2), 0.5)
    gradient = torch.tensor([[1.0, -2.0, 3.0, 0.5], [4.0, 1.0, -1.0, 2.0]]).view(2, 1, 2, 2)
    memories = [{"velocity": torch.ones_like(clean)} for _ in range(2)]
    for memory, factor in zip(memories, (1.0, 1e-20), strict=True):
        MIM(eps=0.1).step(clean, clean, factor * gradient, memory)
    torch.testing.assert_close(memories[1]["velocity"], memories[0]["velocity"])
