"""The contract of the attacks in l_2 and l_1, the ascent through wider balls, and what Square tries in l_2 and l_1."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harden.attacks import APGD, FAB, Ball, Norm, Objective, Passes, Square, run_attack
from harden.attacks.square_mass import _hill, tiled, with_mass_moved

from .nets import cnn, gen, held_out, modal

TARGETED = {"raises": Objective.DLR, "targets": 3, "finalists": 2, "screening": 3}
ATTACKS = [
    *(
        APGD(eps=1.0, norm=norm, iterations=12, wide=wide, **kind)
        for norm in Norm
        for wide in (False, True)
        for kind in ({}, TARGETED)
    ),
    FAB(eps=1.0, norm=Norm.L2, iterations=5),
    FAB(eps=1.0, norm=Norm.L1, iterations=5),
    *(Square(eps=1.0, norm=norm, queries=40, hope=hope) for norm in (Norm.L2, Norm.L1) for hope in (math.inf, 1.0)),
]
every = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.norm.value} {a.name}")


@every
@settings(max_examples=8, deadline=None)
@given(share=st.floats(0.0, 1.0), n=st.integers(1, 3), side=st.integers(3, 8), seed=st.integers(0, 2**31))
def test_kept_examples_stay_in_the_ball_and_in_0_1(attack, share, n, side, seed):
    images = torch.rand(n, 3, side, side, generator=gen(seed)).mul(1.4).sub(0.2).clamp(0, 1)
    labels = torch.randint(4, (n,), generator=gen(seed))
    attack = dataclasses.replace(attack, eps=share * {Norm.LINF: 1.0, Norm.L2: 2.0, Norm.L1: 8.0}[attack.norm])
    found = run_attack(attack, modal(seed % 7), images, labels, generator=gen(seed))
    assert (attack.norm.of(found.images - images) <= attack.eps * (1 + 1e-5) + 1e-5).all()
    assert found.images.amin() >= 0
    assert found.images.amax() <= 1
    assert torch.equal(found.margins < 0, found.predictions != labels)
    assert (found.closest[found.margins < 0] <= attack.eps * (1 + 1e-5) + 1e-5).all()


@every
def test_names_and_definitions_say_what_is_done(attack):
    assert attack.definition.endswith(f"{attack.norm.written} eps 1")
    assert ("wide" in attack.name) == getattr(attack, "wide", False)
    assert ("ball of 3 eps" in attack.definition) == getattr(attack, "wide", False)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("norm", list(Norm))
def test_an_ascent_takes_the_steps_that_it_promises(norm, wide):
    """A net that nothing fools: every step is a forward and a backward pass, and no part of an ascent is more."""
    images = torch.rand(3, 1, 8, 8, generator=gen())
    net = cnn().eval()
    with torch.no_grad():
        net[-1].weight.zero_()
        net[-1].bias.copy_(torch.arange(10.0))
    passes = Passes()
    attack = APGD(eps=0.1, norm=norm, iterations=20, wide=wide)
    run_attack(attack, net, images, torch.full((3,), 9), generator=gen(), passes=passes)
    parts = 3 if wide else 1
    assert passes.forwards == 3 * (20 + parts)
    assert passes.backwards == 3 * (20 + parts - 1)
    assert abs(passes.total / 3 - attack.passes) <= 4


def test_going_through_wider_balls_only_counts_what_lies_in_the_ball(net):
    """At a radius at which nearly nothing falls, the points of three times the radius fool, and are not kept."""
    images, labels = held_out(60)
    attack = APGD(eps=0.15, norm=Norm.L2, iterations=20, wide=True)
    found = run_attack(attack, net, images, labels, generator=gen())
    outside = found.closest.isfinite() & (found.closest > attack.eps * 1.001)
    assert outside.sum() > 5  # seen on the way, and told as distances
    assert (found.margins[outside] >= 0).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3), (2, 5), (5, 5), (7, 15)])
def test_a_hill_falls_in_square_rings_from_its_middle(height, width):
    """The slow reference adds 1/k^2 on ever larger squares around the middle."""
    slow = torch.zeros(height, width)
    for k in range(max(height, width) // 2 + 1):
        top, left = max(0, height // 2 - k), max(0, width // 2 - k)
        slow[top : height // 2 + k + 1, left : width // 2 + k + 1] += 1 / (k + 1) ** 2
    torch.testing.assert_close(_hill(height, width, Norm.L2), slow / slow.norm())
    torch.testing.assert_close(_hill(height, width, Norm.L1), slow / slow.sum())


@settings(max_examples=25, deadline=None)
@given(
    norm=st.sampled_from([Norm.L2, Norm.L1]),
    seed=st.integers(0, 2**31),
    channels=st.sampled_from([1, 3]),
    height=st.integers(3, 12),
    width=st.integers(3, 12),
    side=st.sampled_from([3, 5, 7]),
)
def test_moved_mass_stays_on_the_sphere_unless_the_box_cuts_it(norm, seed, channels, height, width, side):
    ball = Ball.around(torch.full((2, channels, height, width), 0.5), 0.3, norm)
    points = tiled(ball, gen(seed))
    torch.testing.assert_close(norm.of(points - ball.clean), torch.full((2,), 0.3))
    moved = with_mass_moved(ball, points, min(side, height, width), gen(seed))
    torch.testing.assert_close(norm.of(moved - ball.clean), torch.full((2,), 0.3))
    assert not torch.equal(moved, points)
    dark = Ball.around(torch.zeros(2, channels, height, width), 0.3, norm)
    for cut in (tiled(dark, gen(seed)), with_mass_moved(dark, tiled(dark, gen(seed)), 3, gen(seed))):
        assert 0 <= cut.amin() <= cut.amax() <= 1
        assert (norm.of(cut) <= 0.3 + 1e-6).all()
