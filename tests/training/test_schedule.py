from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harden.training.schedule import Schedule

shares = st.floats(0, 1)


def test_a_case_by_hand() -> None:
    schedule = Schedule(lr=0.1, lr_warmup=0.2, eps=0.3, eps_ramp=0.5)
    assert [schedule.lr_at(p) for p in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.045, 0.08, 0.04, 0])
    assert [schedule.eps_at(p) for p in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([0, 0.15, 0.3, 0.3, 0.3])


@given(warmup=shares, ramp=shares, progress=shares)
def test_bounds(warmup: float, ramp: float, progress: float) -> None:
    schedule = Schedule(lr=0.1, lr_warmup=warmup, eps=0.3, eps_ramp=ramp)
    assert 0 <= schedule.lr_at(progress) <= 0.1 * (1 - progress) + 1e-12
    assert 0 <= schedule.eps_at(progress) <= 0.3
    if progress >= ramp:
        assert schedule.eps_at(progress) == 0.3
    if progress >= warmup:
        assert schedule.lr_at(progress) == pytest.approx(0.1 * (1 - progress))


@given(warmup=st.floats(0.01, 1), one=shares, other=shares)
def test_eps_never_falls_and_lr_falls_after_the_warm_up(warmup: float, one: float, other: float) -> None:
    schedule = Schedule(lr=0.1, lr_warmup=warmup, eps=0.3, eps_ramp=warmup)
    early, late = sorted((one, other))
    assert schedule.eps_at(early) <= schedule.eps_at(late)
    if early >= warmup:
        assert schedule.lr_at(early) >= schedule.lr_at(late)


def test_no_warm_up_starts_at_full_strength() -> None:
    schedule = Schedule(lr=0.1, lr_warmup=0, eps=0.3, eps_ramp=0)
    assert (schedule.lr_at(0), schedule.eps_at(0)) == (0.1, 0.3)
