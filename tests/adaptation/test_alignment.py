"""CORAL, MMD and ATDA's margin against slow twins written from the equations, and one case of each by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harden.adaptation import ClassCentres, coral, mmd


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def values(seed: int, count: int = 9, width: int = 4) -> Tensor:
    return torch.randn(count, width, generator=gen(seed), dtype=torch.float64)


cases = settings(max_examples=20, deadline=None)


@cases
@given(seed=st.integers(0, 2**31), count=st.integers(2, 12), width=st.integers(1, 6))
def test_coral_is_the_mean_difference_of_the_covariances(seed: int, count: int, width: int) -> None:
    one, other = values(seed, count, width), values(seed + 1, count + 3, width)
    total = 0.0
    for i in range(width):
        for j in range(width):
            total += abs(covariance(one, i, j) - covariance(other, i, j))
    torch.testing.assert_close(coral(one, other).item(), total / width**2)


def covariance(x: Tensor, i: int, j: int) -> float:
    mean_i, mean_j = x[:, i].mean(), x[:, j].mean()
    return float(sum((row[i] - mean_i) * (row[j] - mean_j) for row in x) / (len(x) - 1))


@cases
@given(seed=st.integers(0, 2**31))
def test_moments_do_not_see_the_order_and_coral_not_the_mean(seed: int) -> None:
    one, other = values(seed), values(seed + 1)
    torch.testing.assert_close(coral(one.flip(0), other), coral(one, other))
    torch.testing.assert_close(mmd(one.flip(0), other), mmd(one, other))
    torch.testing.assert_close(coral(one + 3, other - 2), coral(one, other))
    torch.testing.assert_close(mmd(one + 3, one), torch.tensor(3.0, dtype=torch.float64))
    assert coral(one, one.clone()).item() == pytest.approx(0, abs=1e-12)


def test_moments_by_hand() -> None:
    """Columns (0, 2) and (1, 1): variances 2 and 0. Columns (0, 4) and (0, 2): 8 and 2, covariance 4."""
    one = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    other = torch.tensor([[0.0, 0.0], [4.0, 2.0]])
    assert coral(one, other).item() == pytest.approx((6 + 4 + 4 + 2) / 4)
    assert mmd(one, other).item() == pytest.approx((1 + 0) / 2)
    assert coral(one[:1], other).item() == pytest.approx((8 + 4 + 4 + 2) / 4)  # one sample has no covariance


@cases
@given(seed=st.integers(0, 2**31))
def test_the_margin_is_the_mean_over_samples_and_wrong_classes(seed: int) -> None:
    classes, samples = 3, values(seed, 5, 3)
    labels = torch.randint(classes, (5,), generator=gen(seed))
    module = ClassCentres(classes=classes, width=3).double()
    module.centres.copy_(values(seed + 7, classes, 3))
    terms = [
        math.log1p(math.exp(float((z - module.centres[y]).abs().sum() - (z - module.centres[k]).abs().sum())))
        for z, y in zip(samples, labels.tolist(), strict=True)
        for k in range(classes)
        if k != y
    ]
    assert module.loss(samples, labels).item() == pytest.approx(sum(terms) / len(terms))


def test_centres_follow_by_hand() -> None:
    """Two samples of class 0 at 3 and 6, its centre at 0: it moves by 0.1 times 9 over 1 + 2, to 0.3."""
    module = ClassCentres(classes=2, width=1)
    module.centres.copy_(torch.tensor([[0.0], [5.0]]))
    module.follow(torch.tensor([[3.0], [6.0]]), torch.tensor([0, 0]))
    torch.testing.assert_close(module.centres, torch.tensor([[0.3], [5.0]]))


def test_centres_come_to_rest_at_the_means_and_get_no_gradient() -> None:
    samples, labels = values(1, 40, 2).float(), torch.arange(40) % 4
    module = ClassCentres(classes=4, width=2)
    for _ in range(300):
        module.follow(samples, labels)
    means = torch.stack([samples[labels == k].mean(0) for k in range(4)])
    torch.testing.assert_close(module.centres, means, atol=1e-4, rtol=1e-4)
    assert list(module.parameters()) == []
    assert "centres" in module.state_dict()


def test_one_class_has_no_wrong_ones() -> None:
    assert ClassCentres(classes=1, width=1).loss(torch.ones(3, 1), torch.zeros(3, dtype=torch.int64)) == 0
