"""What is particular to APGD's targets and windows, FAB's distances and Square's budget; peers are in test_peers.py."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from harden.attacks import APGD, FAB, PGD, Norm, Objective, Passes, Square, run_attack
from harden.attacks.apgd import _Window
from harden.attacks.objectives import likeliest_targets

from .nets import Counting, gen

EPS = 0.08


def robust(net, images, labels, attack, **kwargs):
    return run_attack(attack, net, images, labels, generator=gen(3), **kwargs).margins >= 0


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [
        (100, [22, 41, 57, 70, 80, 87, 93, 99]),
        (20, [4, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]),
        (3, [1, 2, 3]),
    ],
)
def test_the_windows_are_the_published_checkpoints(iterations, expected):
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06) (Croce and Hein, 2020)."""
    window, at, found = _Window.of(Norm.LINF, iterations), 0, []
    while at + window.length <= iterations:
        at += window.length
        found.append(at)
        window = window.next()
    assert found == expected


def test_apgd_is_stronger_than_pgd_of_as_many_steps(net, correct):
    images, labels = correct
    pgd = robust(net, images, labels, PGD(eps=EPS, iterations=20, raises=Objective.MARGIN))
    apgd = robust(net, images, labels, APGD(eps=EPS, iterations=20, raises=Objective.MARGIN))
    assert apgd.sum() <= pgd.sum() + 1


def test_few_finalists_fool_as_many_as_all_targets(net, correct):
    images, labels = correct
    every = APGD(eps=EPS, iterations=40, raises=Objective.MARGIN, targets=9, finalists=9)
    few = APGD(eps=EPS, iterations=40, raises=Objective.MARGIN, targets=9, finalists=3, screening=10)
    with_all, with_few = Passes(), Passes()
    all_stand = robust(net, images, labels, every, passes=with_all)
    few_stand = robust(net, images, labels, few, passes=with_few)
    assert 0 < all_stand.sum() < len(labels)
    assert abs(int(all_stand.sum()) - int(few_stand.sum())) <= 1
    assert with_few.forwards < 0.65 * with_all.forwards


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("targets", [0, 9])
def test_the_ratio_works_with_two_and_three_classes(classes, targets):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    images = torch.rand(12, 1, 4, 4, generator=gen(1))
    labels = net(images).argmax(1)
    eps = {2: 0.5, 3: 0.2}[classes]
    attack = APGD(eps=eps, iterations=20, raises=Objective.DLR, targets=targets, finalists=targets)
    found = run_attack(attack, net, images, labels, generator=gen())
    weight, bias = net[1].weight.detach(), net[1].bias.detach()
    low, high = (images - eps).clamp(0, 1).flatten(1), (images + eps).clamp(0, 1).flatten(1)
    best = torch.full((12,), -torch.inf)
    for rival in range(classes):
        slope = weight[rival] - weight[labels]
        gap = (slope * torch.where(slope > 0, high, low)).sum(1) + bias[rival] - bias[labels]
        best = torch.where(labels == rival, best, torch.maximum(best, gap))
    assert 0 < (best > 0).sum() < 12
    assert torch.equal(found.margins < 0, best > 0)  # a linear model has its optimum in a known corner


def test_targets_are_the_likeliest_other_classes():
    scores = torch.tensor([[5.0, 1.0, 3.0, 2.0], [0.0, 9.0, 8.0, 7.0]])
    assert likeliest_targets(scores, torch.tensor([0, 1]), 2).tolist() == [[2, 3], [2, 3]]
    assert likeliest_targets(scores, torch.tensor([2, 0]), 9).tolist() == [[0, 3, 1], [1, 2, 3]]


def test_fab_knows_distances_beyond_eps_and_bisection_agrees(net, correct):
    """Its distances fool, and no image has a success much nearer along the same direction."""
    images, labels = correct[0][:40], correct[1][:40]
    tiny = FAB(eps=1e-4, iterations=30, targets=9, finalists=9)
    found = run_attack(tiny, net, images, labels, generator=gen())
    assert torch.isinf(found.closest).sum() == 0
    assert (found.margins >= 0).all()  # nothing that near
    assert found.closest.min() > 1e-4
    # With a ball as large as the distance the example is inside, and APGD hardly ever finds one much nearer.
    for x, y, distance in zip(images, labels, found.closest, strict=True):
        there = run_attack(replace(tiny, eps=float(distance) * 1.0001), net, x[None], y[None], generator=gen())
        assert net(there.images).argmax(1) != y
        assert (there.images - x).abs().max() <= distance * 1.0002
    narrow = [
        robust(net, x[None], y[None], APGD(eps=float(d) * 0.9, iterations=40, raises=Objective.MARGIN)).item()
        for x, y, d in zip(images, labels, found.closest, strict=True)
    ]
    assert sum(narrow) >= 36


@pytest.mark.parametrize("norm", list(Norm))
def test_fab_finalists_are_those_whose_boundary_is_nearest(norm):
    """Linear model: the distance to each boundary is known, and one finalist finds the least of them."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        linear = nn.Linear(16, 5)
    net = nn.Sequential(nn.Flatten(), linear)
    images = 0.3 + 0.4 * torch.rand(20, 1, 4, 4, generator=gen(1))
    labels = net(images).argmax(1)
    dual = {Norm.LINF: 1, Norm.L2: 2, Norm.L1: math.inf}[norm]
    scores, least = net(images).detach(), []
    for row, label in zip(scores, labels, strict=True):
        differences = linear.weight.detach() - linear.weight.detach()[label]
        sizes = torch.linalg.vector_norm(differences, ord=dual, dim=1)
        gaps = (row[label] - row) / sizes.clamp_min(1e-9)
        gaps[label] = torch.inf
        least.append(gaps.min())
    inside = torch.stack(least) < 0.2  # the box does not matter there
    assert inside.any()
    found = run_attack(
        FAB(eps=1e-4, norm=norm, iterations=20, targets=4, finalists=1), net, images, labels, generator=gen()
    )
    torch.testing.assert_close(found.closest[inside], torch.stack(least)[inside], rtol=0.06, atol=1e-3)


def test_square_asks_within_its_budget_and_counts_queries(net, correct):
    images, labels = correct
    counting, passes = Counting(net), Passes()
    found = run_attack(
        Square(eps=EPS, queries=50), counting, images, labels, generator=gen(), passes=passes, drop_fooled=False
    )
    assert counting.images == passes.forwards == 50 * len(images)
    assert passes.backwards == 0
    fooled = found.margins < 0
    assert 0 < fooled.sum() < len(images)
    assert (found.queries[~fooled] == 50).all()
    assert (found.queries[fooled] <= 50).all()
    assert (found.queries >= 1).all()


def test_square_moves_only_to_the_corners_of_the_ball(net, correct):
    images, labels = correct
    found = run_attack(Square(eps=EPS, queries=30), net, images, labels, generator=gen(), drop_fooled=False)
    low, high = (images - EPS).clamp(0, 1), (images + EPS).clamp(0, 1)
    corner = torch.isclose(found.images, low, atol=1e-6) | torch.isclose(found.images, high, atol=1e-6)
    assert corner.all()


def test_square_gives_up_only_what_stands_clear(net, correct):
    images, labels = correct
    whole, hopeful = Square(eps=EPS, queries=600), Square(eps=EPS, queries=600, hope=3.0)
    all_asked, some_asked = Passes(), Passes()
    stands = robust(net, images, labels, whole, passes=all_asked)
    stands_too = robust(net, images, labels, hopeful, passes=some_asked)
    assert some_asked.forwards < 0.6 * all_asked.forwards
    assert int(stands_too.sum()) - int(stands.sum()) <= 2


def test_squares_shrink_as_published():
    """p = 0.8, halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000 of 10,000 queries."""
    square = Square(eps=0.1, queries=10_000)
    sides = {nth: square._side(nth, 1, 100, 100) for nth in (1, 10, 11, 51, 201, 9000)}
    areas = {nth: side**2 / 10_000 for nth, side in sides.items()}
    expected = {1: 0.8, 10: 0.8, 11: 0.4, 51: 0.2, 201: 0.1, 9000: 0.8 / 512}
    assert areas == pytest.approx(expected, rel=0.15)
    scaled = replace(square, queries=100)
    assert scaled._side(2, 1, 100, 100) == square._side(200, 1, 100, 100)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (APGD, {"iterations": 0}),
        (APGD, {"targets": 3}),
        (APGD, {"targets": 3, "finalists": 2}),
        (FAB, {"finalists": 10}),
        (FAB, {"iterations": 0}),
        (Square, {"queries": 0}),
        (Square, {"hope": 0.0}),
        (Square, {"area": 0.0}),
        (PGD, {"iterations": 3, "norm": Norm.L2}),
    ],
)
def test_what_cannot_work_is_refused(kind, arguments):
    with pytest.raises(ValueError, match=r"APGD|targets|finalists|FAB|Square|PGD"):
        kind(eps=0.1, **arguments)


def test_repeats_average_a_model_that_answers_at_random():
    """Noise of the size of the margin hides the gradient's sign in one answer; the mean of many shows it."""
    images, labels = torch.full((30, 1, 4, 4), 0.5), torch.zeros(30, dtype=torch.int64)

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = gen(0)

        def forward(self, x):
            level = x.flatten(1).mean(1)
            slope = 1 + 3 * torch.randn(len(x), generator=self.generator)
            return torch.stack([0.07 - slope * (level - 0.5), torch.zeros_like(level)], 1)

    attack = PGD(eps=0.1, iterations=1, relative_step=1.0)
    passes = Passes()
    found = run_attack(attack, Noisy(), images, labels, generator=gen(), passes=passes, repeats=64)
    assert passes.forwards >= 64 * len(images)
    right_way = (found.images > images).flatten(1).all(1).float().mean()
    once = run_attack(attack, Noisy(), images, labels, generator=gen(), drop_fooled=False)
    assert right_way > 0.85
    assert (once.images > images).flatten(1).all(1).float().mean() < 0.75
