"""Distances, projections, starts and steepest directions against their definitions and slow references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from harden.attacks.norms import Ball, Norm, sparse_ascent, steepest

from .nets import gen

ROUNDING = 1e-5
norms = pytest.mark.parametrize("norm", list(Norm))
shapes = st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5))


def images_of(shape, seed):
    """Random images with many pixels at the very ends of [0, 1], as in handwriting."""
    return torch.rand(shape, generator=gen(seed)).mul(1.6).sub(0.3).clamp(0, 1)


def ball_and_points(norm, shape, seed, share, spread):
    """A ball of a radius that matters (up to the norm of the farthest corner), and points in and far out of it."""
    clean = images_of(shape, seed)
    eps = share * float(norm.of(torch.maximum(clean, 1 - clean)).amax())
    ball = Ball.around(clean, min(eps, 1.0) if norm is Norm.LINF else eps, norm)
    return ball, clean + spread * torch.randn(shape, generator=gen(seed + 1))


cases = given(shape=shapes, seed=st.integers(0, 2**31), share=st.floats(0.0, 1.2), spread=st.floats(0.0, 20.0))


@pytest.mark.parametrize(("norm", "order"), [(Norm.LINF, np.inf), (Norm.L2, 2), (Norm.L1, 1)])
def test_norms_are_numpys(norm, order):
    difference = torch.randn(4, 3, 5, 5, generator=gen())
    expected = [np.linalg.norm(sample.flatten().numpy(), order) for sample in difference]
    torch.testing.assert_close(norm.of(difference), torch.tensor(np.array(expected)))
    assert norm.of(difference[:0]).shape == (0,)


@norms
@cases
@settings(max_examples=60, deadline=None)
def test_a_projection_is_in_the_ball_and_the_box_and_stays_where_it_is(norm, shape, seed, share, spread):
    ball, points = ball_and_points(norm, shape, seed, share, spread)
    projected = ball.project(points)
    assert projected.amin() >= 0
    assert projected.amax() <= 1
    assert (norm.of(projected - ball.clean) <= ball.eps * (1 + ROUNDING) + ROUNDING).all()
    torch.testing.assert_close(ball.project(projected), projected, atol=ROUNDING, rtol=0)


@norms
@cases
@settings(max_examples=60, deadline=None)
def test_no_point_of_the_ball_is_nearer_than_the_projection(norm, shape, seed, share, spread):
    """The nearest point p of a convex set makes an obtuse angle with every other: <x - p, z - p> <= 0 for z in it."""
    ball, points = ball_and_points(norm, shape, seed, share, spread)
    projected = ball.project(points)
    g = gen(seed + 2)
    for scale in (0.0, 0.1, 1.0, 10.0):
        other = ball.project(points + scale * torch.randn(shape, generator=g))
        inner = ((points - projected) * (other - projected)).flatten(1).sum(1)
        size = (points - projected).flatten(1).norm(dim=1) * (1 + (other - projected).flatten(1).norm(dim=1))
        assert (inner <= 1e-4 * size + ROUNDING).all()


def slowly_projected(norm, clean, point, eps):
    """The nearest point by a general solver: the way is split into its two signs, so that l_1 is linear."""
    d = len(clean)
    room = np.concatenate([1 - clean, clean])
    wish = point - clean

    def way(z):
        return z[:d] - z[d:]

    def value(z):
        gap = way(z) - wish
        return 0.5 * gap @ gap, np.concatenate([gap, -gap])

    def left(z):
        return eps - z.sum() if norm is Norm.L1 else eps**2 - way(z) @ way(z)

    found = minimize(
        value,
        np.zeros(2 * d),
        jac=True,
        bounds=[(0, r) for r in room],
        constraints=[{"type": "ineq", "fun": left}],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    return clean + way(found.x)


@pytest.mark.parametrize("norm", [Norm.L2, Norm.L1])
@pytest.mark.parametrize("seed", range(12))
def test_projections_are_those_of_a_general_solver(norm, seed):
    ball, points = ball_and_points(norm, (1, 1, 2, 4), seed, 0.25 + 0.05 * seed, 1.5)
    expected = slowly_projected(norm, *(t.flatten().double().numpy() for t in (ball.clean, points)), ball.eps)
    np.testing.assert_allclose(ball.project(points).flatten().numpy(), expected, atol=2e-3)


def test_projections_by_hand():
    clean = torch.tensor([0.5, 0.9, 0.0]).view(1, 1, 1, 3)
    point = torch.tensor([1.1, 1.9, -0.5]).view(1, 1, 1, 3)  # wish (.6, 1, -.5), room (.5, .1, 0)
    l1 = Ball.around(clean, 0.3, Norm.L1).project(point).flatten()  # threshold .4: (.2, .1 of .6, 0)
    torch.testing.assert_close(l1, torch.tensor([0.7, 1.0, 0.0]))
    l2 = Ball.around(clean, 0.26**0.5 / 2, Norm.L2).project(point).flatten()  # .065 = .01 + .055
    torch.testing.assert_close(l2, torch.tensor([0.5 + 0.055**0.5, 1.0, 0.0]))
    linf = Ball.around(clean, 0.3, Norm.LINF).project(point).flatten()
    torch.testing.assert_close(linf, torch.tensor([0.8, 1.0, 0.0]))


@norms
@given(shape=shapes, seed=st.integers(0, 2**31), share=st.floats(0.0, 0.3))
@settings(max_examples=40, deadline=None)
def test_a_start_is_in_the_ball_and_the_same_for_the_same_generator(norm, shape, seed, share):
    ball, _ = ball_and_points(norm, shape, seed, share, 0.0)
    start = ball.start(gen(seed))
    assert start.amin() >= 0
    assert start.amax() <= 1
    assert (norm.of(start - ball.clean) <= ball.eps * (1 + ROUNDING) + ROUNDING).all()
    assert torch.equal(start, ball.start(gen(seed)))


@norms
def test_a_start_far_from_the_ends_touches_the_sphere_in_every_direction(norm):
    ball = Ball.around(torch.full((200, 1, 4, 4), 0.5), 0.4, norm)
    moved = ball.start(gen()) - ball.clean
    torch.testing.assert_close(norm.of(moved), torch.full((200,), 0.4))
    assert moved.mean(dim=0).abs().max() < 0.1
    assert not torch.equal(ball.start(gen(1)) - ball.clean, moved)


@pytest.mark.parametrize(("norm", "dual"), [(Norm.LINF, Norm.L1), (Norm.L2, Norm.L2)])
def test_the_steepest_direction_has_norm_1_and_rises_as_far_as_any_can(norm, dual):
    gradient = torch.randn(5, 3, 4, 4, generator=gen())
    gradient[0] = 0
    direction = steepest(norm, gradient)
    rise = (direction * gradient).flatten(1).sum(1)
    torch.testing.assert_close(rise, dual.of(gradient))  # Hoelder's bound is met
    torch.testing.assert_close(norm.of(direction)[1:], torch.ones(4))
    assert direction[0].abs().max() == 0
    torch.testing.assert_close(steepest(norm, 1e-25 * gradient), direction)  # as a saturated loss has them


def test_the_steepest_l1_step_is_refused():
    with pytest.raises(ValueError, match="sparse_ascent"):
        steepest(Norm.L1, torch.ones(1, 1, 2, 2))


def test_sparse_ascent_moves_the_largest_entries_alike():
    gradient = torch.tensor([[3.0, -5.0, 0.5, 1.0], [0.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]).view(3, 1, 2, 2)
    found = sparse_ascent(gradient, torch.tensor([0.5, 0.01, 1.0])).view(3, 4)
    expected = torch.tensor([[0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected)
