"""Early drop, restarts, what is kept, and the count of passes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harden.attacks import (
    ATTACKS,
    FGSM,
    GRADIENT_ATTACKS,
    MIM,
    PGD,
    RFGSM,
    Ball,
    Objective,
    Passes,
    RandomStep,
    craft,
    judge,
    run_attack,
)

from .nets import Counting, gen

EPS = 0.08


def iterates(net, images, labels, *, steps, relative_step=0.1, momentum=False):
    """Every point that is scored, by the slow way: whole batch, nothing dropped."""
    points, velocity, found = images, torch.zeros_like(images), [images]
    for _ in range(steps):
        at = points.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(at), labels, reduction="sum"), at)
        velocity = velocity + gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
        points = points + relative_step * EPS * (velocity if momentum else gradient).sign()
        points = (images + (points - images).clamp(-EPS, EPS)).clamp(0, 1)
        found.append(points)
    return found


@pytest.mark.parametrize("momentum", [False, True], ids=["pgd", "mim"])
@pytest.mark.parametrize("drop", [True, False])
def test_robust_accuracy_is_the_worst_over_the_iterates(net, correct, momentum, drop):
    images, labels = correct
    attack = MIM(eps=EPS) if momentum else PGD(eps=EPS, iterations=10, relative_step=0.2)
    points = iterates(net, images, labels, steps=10, relative_step=0.2, momentum=momentum)
    with torch.no_grad():
        wrong = torch.stack([net(p).argmax(1) != labels for p in points]).any(0)
    found = run_attack(attack, net, images, labels, generator=gen(), drop_fooled=drop)
    assert 0 < wrong.sum() < len(labels)
    assert torch.equal(found.predictions != labels, wrong)


def test_without_drop_the_smallest_margin_of_all_iterates_is_kept(net, correct):
    images, labels = correct
    points = iterates(net, images, labels, steps=10)
    with torch.no_grad():
        margin = torch.stack([judge(net(p), labels)[1] for p in points])
    found = run_attack(PGD(eps=EPS, iterations=10), net, images, labels, generator=gen(), drop_fooled=False)
    torch.testing.assert_close(found.margins, margin.amin(0), atol=1e-4, rtol=1e-4)
    best = torch.stack(points)[margin.argmin(0), torch.arange(len(labels))]
    assert (found.images - best).abs().gt(1e-5).flatten(1).any(1).float().mean() < 0.03


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_what_is_kept_as_fooled_is_misclassified_and_in_the_ball(net, correct, attack):
    images, labels = correct
    found = run_attack(attack(EPS), net, images, labels, generator=gen())
    with torch.no_grad():
        prediction = net(found.images).argmax(1)
    assert (found.predictions != labels).any()
    assert torch.equal(prediction, found.predictions)
    assert torch.equal(found.margins < 0, prediction != labels)
    assert (found.images - images).abs().max() <= EPS + 1e-6


@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("iterations", [4, 5])
def test_an_image_that_falls_on_the_way_back_up_is_still_fooled(iterations, drop):
    """A model that errs only in a narrow band: the last iterate is right again, the middle one counts."""

    class Band(nn.Module):
        def forward(self, images):
            level = images.flatten(1).mean(1)
            inside = 50 * (0.02 - (level - 0.55).abs())  # positive only around 0.55
            return torch.stack([torch.zeros_like(level) + 0.01 * (0.9 - level), inside], dim=1)

    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    attack = PGD(eps=0.2, iterations=iterations, relative_step=0.25, raises=Objective.CROSS_ENTROPY)
    found = run_attack(attack, Band(), images, labels, generator=gen(), drop_fooled=drop)
    assert found.predictions.tolist() == [1]
    assert found.margins.item() < 0
    assert (found.images - 0.55).abs().max() < 0.021


def test_an_image_fooled_by_the_random_start_is_kept_as_fooled():
    class FooledByNoise(nn.Module):
        """Right on flat images only, and its gradient points nowhere useful."""

        def forward(self, images):
            rough = (images - images.flatten(1).mean(1).view(-1, 1, 1, 1)).abs().flatten(1).amax(1)
            flat = (rough < 1e-3).float()
            return torch.stack([flat, 0.5 + 0 * rough], dim=1)

    images, labels = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    for attack in (
        PGD(eps=0.1, iterations=3, random_start=True),
        RFGSM(eps=0.1),
        RFGSM(eps=0.1, variant=RandomStep.TRAMER),
    ):
        counting = Counting(_with_gradient(FooledByNoise()))
        found = run_attack(attack, counting, images, labels, generator=gen())
        assert found.predictions.tolist() == [1, 1, 1]
        assert counting.images == 3  # the start's own forward pass already showed it
        assert (found.images != images).any()


def _with_gradient(inner: nn.Module) -> nn.Module:
    class Wrapped(nn.Module):
        def forward(self, images):
            return inner(images) + 0 * images.flatten(1).sum(1, keepdim=True)

    return Wrapped()


@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("attack", GRADIENT_ATTACKS.values(), ids=GRADIENT_ATTACKS.keys())
def test_passes_are_those_that_the_model_saw(net, correct, attack, drop):
    counting, passes = Counting(net), Passes(forwards=1000, backwards=500)
    made = attack(EPS)
    run_attack(made, counting, *correct, generator=gen(), passes=passes, drop_fooled=drop)
    backward = passes.backwards - 500
    assert passes.forwards - 1000 == counting.images
    assert backward <= counting.images
    if not drop:
        assert backward == len(correct[0]) * made.steps * made.restarts
        assert counting.images == len(correct[0]) * (made.steps + 1) * made.restarts


def test_dropping_saves_passes_and_changes_no_verdict(net, correct):
    attack = PGD(eps=0.15, iterations=20)
    with_drop, without = Passes(), Passes()
    one = run_attack(attack, net, *correct, generator=gen(), passes=with_drop)
    two = run_attack(attack, net, *correct, generator=gen(), passes=without, drop_fooled=False)
    assert with_drop.forwards < 0.8 * without.forwards
    assert torch.equal(one.margins < 0, two.margins < 0)
    stands = one.margins >= 0
    torch.testing.assert_close(one.margins[stands], two.margins[stands], atol=1e-3, rtol=1e-3)


def test_restarts_try_only_the_images_that_still_stand(net, correct):
    images, labels = correct
    attack = PGD(eps=EPS, iterations=2, relative_step=0.3, random_start=True, tries=4)
    counting = Counting(net)
    run_attack(attack, counting, images, labels, generator=gen())
    single = run_attack(
        PGD(eps=EPS, iterations=2, relative_step=0.3, random_start=True), net, images, labels, generator=gen()
    )
    standing = int((single.margins >= 0).sum())
    assert 0 < standing < len(images)
    assert standing in counting.batches  # the second try begins with exactly these
    assert counting.batches.index(standing, 1) <= 3


def test_restarts_stop_when_nothing_stands(correct):
    images, labels = correct
    always_wrong = Counting(_with_gradient(_Fixed((labels + 1) % 10)))
    attack = PGD(eps=EPS, iterations=5, random_start=True, tries=3)
    run_attack(attack, always_wrong, images, labels, generator=gen())
    assert always_wrong.batches == [len(images)]


class _Fixed(nn.Module):
    def __init__(self, labels):
        super().__init__()
        self.scores = F.one_hot(labels, 10).float()

    def forward(self, images):
        return self.scores[: len(images)]


def test_more_restarts_never_stand_taller(net, correct):
    def robust(tries):
        attack = PGD(eps=EPS, iterations=3, relative_step=0.3, random_start=True, tries=tries)
        return run_attack(attack, net, *correct, generator=gen(2)).margins >= 0

    one, three = robust(1), robust(3)
    assert (three <= one).all()  # the first try is the same; the rest can only fool more
    assert three.sum() < one.sum()


def test_memory_follows_its_image_when_others_leave(net, correct):
    """MIM's velocity after compaction: verdicts equal those of attacking every image alone."""
    images, labels = correct
    together = run_attack(MIM(eps=0.1), net, images, labels, generator=gen())
    alone = torch.cat(
        [
            run_attack(MIM(eps=0.1), net, x[None], y[None], generator=gen()).margins
            for x, y in zip(images, labels, strict=True)
        ]
    )
    assert torch.equal(together.margins < 0, alone < 0)
    stands = alone >= 0
    assert 5 < stands.sum() < len(images) - 5
    torch.testing.assert_close(together.margins[stands], alone[stands], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("label", "fooled"), [(0, False), (1, True)])
def test_a_tie_is_decided_by_argmax_and_the_margin_agrees(label, fooled):
    class Tie(nn.Module):
        def forward(self, images):
            level = 0 * images.flatten(1).sum(1)
            return torch.stack([level + 1, level + 1, level], dim=1)

    images = torch.rand(2, 1, 4, 4, generator=gen())
    labels = torch.full((2,), label)
    found = run_attack(FGSM(eps=0.1), Tie(), images, labels, generator=gen())
    assert found.predictions.tolist() == [0, 0]
    assert ((found.margins < 0) == fooled).all()
    assert found.margins.abs().max() < 1e-30


@pytest.mark.parametrize("label", [0, 1, 2])
def test_an_answer_that_is_no_number_does_not_withstand(label):
    """argmax of a row of NaN is some class, which may even be the true one; it must not count as right."""
    for row in ([float("nan")] * 3, [0.0, float("nan"), 0.0], [float("nan"), 5.0, 0.0]):
        prediction, margin = judge(torch.tensor([row]), torch.tensor([label]))
        assert prediction.item() != label
        assert margin.item() < 0
        assert torch.isfinite(margin).all()


def test_a_model_that_breaks_beside_the_image_is_fooled():
    class NanOutside(nn.Module):
        def forward(self, images):
            total = images.flatten(1).sum(1)
            broken = torch.where(total == 8.0, 0.0, torch.nan)
            return torch.stack([10 - total, total], 1) + broken[:, None]

    images, labels = torch.full((2, 1, 4, 4), 0.5), torch.tensor([1, 1])
    found = run_attack(FGSM(eps=0.1), NanOutside(), images, labels, generator=gen())
    assert (found.predictions != labels).all()


@pytest.mark.parametrize("attack", [FGSM(eps=0.1), MIM(eps=0.1), PGD(eps=0.1, iterations=10)])
def test_a_gradient_that_is_no_number_in_one_pixel_leaves_the_others_attacked(attack):
    """sqrt has an infinite slope at 0, and 0 times that is NaN; MIM takes a mean over the whole gradient."""

    class RootOfOnePixel(nn.Module):
        def forward(self, images):
            root = (images[:, 0, 0, 0] * 0).sqrt()
            level = images.flatten(1)[:, 1:].mean(1) + root
            return torch.stack([0.52 - level, level - 0.52], 1)

    images, labels = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 0])
    found = run_attack(attack, RootOfOnePixel(), images, labels, generator=gen())
    assert torch.isfinite(found.images).all()
    assert found.predictions.tolist() == [1, 1]
    crafted = craft(attack, RootOfOnePixel(), images, labels, generator=gen())
    assert torch.isfinite(crafted).all()


def test_the_ball_is_cut_to_0_1_and_projects_to_the_nearest_point():
    clean = torch.tensor([0.05, 0.5, 0.95]).view(1, 1, 1, 3)
    ball = Ball.around(clean, 0.1)
    torch.testing.assert_close(ball.low.flatten(), torch.tensor([0.0, 0.4, 0.85]))
    torch.testing.assert_close(ball.high.flatten(), torch.tensor([0.15, 0.6, 1.0]))
    projected = ball.project(torch.tensor([-3.0, 0.55, 0.2]).view(1, 1, 1, 3))
    torch.testing.assert_close(projected.flatten(), torch.tensor([0.0, 0.55, 0.85]))
