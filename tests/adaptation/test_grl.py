from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harden.adaptation import reverse_gradient


@settings(max_examples=40, deadline=None)
@given(strength=st.floats(0.0, 100.0), rows=st.integers(1, 4), width=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_gradient_is_minus_strength_times_the_plain_gradient(strength, rows, width, seed):
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(width, 3, generator=g, dtype=torch.float64)

    def loss(x):
        return (x @ weight).tanh().pow(2).sum()

    (plain,) = torch.autograd.grad(loss(values), values)
    (reversed_,) = torch.autograd.grad(loss(reverse_gradient(values, strength)), values)
    torch.testing.assert_close(reversed_, -strength * plain, rtol=1e-12, atol=1e-14)


def test_gradient_is_minus_the_numerical_one():
    values = torch.linspace(-1, 1, 5, dtype=torch.float64, requires_grad=True)
    (reversed_,) = torch.autograd.grad(reverse_gradient(values, 0.7).sin().sum(), values)
    step = 1e-6
    numerical = ((values.detach() + step).sin() - (values.detach() - step).sin()) / (2 * step)
    torch.testing.assert_close(reversed_, -0.7 * numerical, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 4, 4), (0, 4)])
def test_forward_is_the_identity_and_the_input_stays_its_own_tensor(shape):
    values = torch.randn(shape)
    result = reverse_gradient(values, 3.0)
    assert torch.equal(result, values)
    assert result.shape == values.shape
    assert result.dtype == values.dtype


def test_what_comes_after_trains_at_full_strength():
    head, values = nn.Linear(3, 1), torch.randn(4, 3, requires_grad=True)
    head(values).sum().backward()
    plain = head.weight.grad.clone()
    head.zero_grad()
    head(reverse_gradient(values, 0.0)).sum().backward()
    assert torch.equal(head.weight.grad, plain)


def test_reversed_twice_is_multiplied_by_both_strengths():
    values = torch.randn(4, requires_grad=True)
    (gradient,) = torch.autograd.grad(reverse_gradient(reverse_gradient(values, 2.0), 3.0).sum(), values)
    torch.testing.assert_close(gradient, torch.full((4,), 6.0))


def test_a_path_beside_the_reversal_keeps_its_plain_gradient():
    values = torch.randn(4, requires_grad=True)
    (gradient,) = torch.autograd.grad((values * 5 + reverse_gradient(values, 2.0)).sum(), values)
    torch.testing.assert_close(gradient, torch.full((4,), 3.0))
