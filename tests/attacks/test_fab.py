"""FAB's step to a hyperplane: the smallest one in the box, against linear and general solvers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from harden.attacks.fab import to_hyperplane
from harden.attacks.norms import Norm

from .nets import gen

norms = pytest.mark.parametrize("norm", list(Norm))


def problem(seed, size, share, scale=1.0):
    """A point, a normal with some entries 0 and a wide range of others, and a rise of `share` of what is possible."""
    g = gen(seed)
    point = torch.rand(1, 1, 1, size, generator=g).mul(1.4).sub(0.2).clamp(0, 1)
    normal = torch.randn(point.shape, generator=g) * 10 ** (2 * torch.rand(point.shape, generator=g) - 1)
    normal[..., 1:] *= torch.rand(1, 1, 1, size - 1, generator=g) > 0.2
    normal = scale * normal
    best = (normal * ((normal > 0).float() if share > 0 else (normal < 0).float()) - normal * point).sum()
    return point, normal, (abs(share) * best).reshape(1)


def shortest(norm, point, normal, rise):
    """The norm of the smallest step that rises by `rise`, by linear programming, or a general solver for l_2."""
    x, w, r = (t.flatten().double().numpy() for t in (point, normal, rise))
    d = len(x)
    if norm is Norm.LINF:  # step s and its bound t: minimise t with |s| <= t, <w, s> = r
        eye, ones = np.eye(d), np.ones((d, 1))
        found = linprog(
            np.r_[np.zeros(d), 1.0],
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.zeros(2 * d),
            A_eq=np.r_[w, 0.0][None],
            b_eq=r,
            bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
        )
        assert found.status == 0
        return found.fun
    if norm is Norm.L1:  # the two signs of the step apart
        bounds = [*((0, room) for room in 1 - x), *((0, room) for room in x)]
        found = linprog(np.ones(2 * d), A_eq=np.r_[w, -w][None], b_eq=r, bounds=bounds)
        assert found.status == 0
        return found.fun
    w, r = w / np.abs(w).max(), r / np.abs(w).max()
    found = minimize(
        lambda s: (s @ s, 2 * s),
        np.clip(0.5 - x, -0.1, 0.1),
        jac=True,
        bounds=list(zip(-x, 1 - x, strict=True)),
        constraints=[{"type": "eq", "fun": lambda s: w @ s - r[0], "jac": lambda s: w}],
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    return float(np.sqrt(found.fun)) if found.success else None


@norms
@pytest.mark.parametrize("scale", [1.0, 1e-9])
@given(seed=st.integers(0, 2**31), size=st.integers(1, 12), share=st.floats(-0.95, 0.95))
@settings(max_examples=40, deadline=None)
def test_the_step_is_the_smallest_that_rises_so_far(norm, scale, seed, size, share):
    """Gradients of 1e-9 as well: those of a network whose gradients are masked."""
    point, normal, rise = problem(seed, size, share, scale)
    step = to_hyperplane(norm, point, normal, rise)
    assert (point + step).amin() >= -1e-6
    assert (point + step).amax() <= 1 + 1e-6
    reached = (normal * step).sum()
    assert reached.item() == pytest.approx(rise.item(), rel=1e-3, abs=1e-5 * scale)
    expected = shortest(norm, point, normal / scale, rise / scale)
    if expected is not None:
        assert norm.of(step).item() == pytest.approx(expected, rel=2e-3, abs=1e-3)


@norms
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_cannot_be_reached_goes_as_far_as_the_box_lets_it(norm, sign):
    point, normal, rise = problem(3, 9, sign)
    step = to_hyperplane(norm, point, normal, 2 * rise)
    assert (normal * step).sum().item() == pytest.approx(rise.item(), rel=1e-5)


@norms
def test_nothing_moves_where_nothing_is_asked_or_nothing_helps(norm):
    point, normal, rise = problem(3, 9, 0.5)
    assert to_hyperplane(norm, point, normal, 0 * rise).abs().max() == 0
    assert to_hyperplane(norm, point, 0 * normal, rise).abs().max() == 0


@norms
def test_images_of_a_batch_do_not_mix(norm):
    problems = [problem(seed, 10, share) for seed, share in ((1, 0.3), (2, -0.6), (3, 0.9))]
    together = to_hyperplane(norm, *(torch.cat(parts) for parts in zip(*problems, strict=True)))
    alone = torch.cat([to_hyperplane(norm, *one) for one in problems])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(
    ("norm", "rise", "expected"),
    [(Norm.LINF, 0.95, [0.15, -0.15, 0.1]), (Norm.L2, 1.0, [0.1, -0.2, 0.1]), (Norm.L1, 1.1, [0.0, -0.3, 0.1])],
)
def test_by_hand(norm, rise, expected):
    """w = (1, -2, 5) at (.5, .5, .9): the last pixel has room for .1, which gives .5 of the rise asked for."""
    point, normal = torch.tensor([0.5, 0.5, 0.9]).view(1, 1, 1, 3), torch.tensor([1.0, -2.0, 5.0]).view(1, 1, 1, 3)
    step = to_hyperplane(norm, point, normal, torch.tensor([rise]))
    torch.testing.assert_close(step.flatten(), torch.tensor(expected))


@norms
def test_many_pixels_of_very_different_room_need_no_more_pieces_than_there_are(norm):
    """Room and slope fall geometrically: every piece of the rise holds few pixels, the hard case for Newton."""
    size = 400
    room = 0.97 ** torch.arange(size)
    point = (1 - room).view(1, 1, 20, 20)
    normal = (0.9 ** torch.arange(size)).clamp_min(1e-6).view(1, 1, 20, 20)
    rise = 0.999 * (normal.flatten() * room).sum().reshape(1)
    step = to_hyperplane(norm, point, normal, rise)
    assert (normal * step).sum().item() == pytest.approx(rise.item(), rel=1e-3)
