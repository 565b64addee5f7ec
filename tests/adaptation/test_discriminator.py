from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from harden.adaptation import (
    ClasswiseDiscriminators,
    default_hidden,
    domain_accuracy,
    domain_loss,
    outgrows,
    separate_weights,
)


def make(classes=4, in_features=5, hidden=(7, 3), domains=2, seed=0, double=True, shared_trunk=False):
    made = ClasswiseDiscriminators(
        classes=classes,
        in_features=in_features,
        hidden=hidden,
        domains=domains,
        shared_trunk=shared_trunk,
        generator=torch.Generator().manual_seed(seed),
    )
    return made.double() if double else made


def twin(discriminators, values, labels):
    """One perceptron per class, one sample at a time."""
    rows = []
    for value, label in zip(values, labels.tolist(), strict=True):
        k = label if discriminators.classes > 1 else 0
        hidden = value
        layers = list(zip(discriminators.weights, discriminators.biases, strict=True))
        for i, (weight, bias) in enumerate(layers):
            own = 0 if len(weight) == 1 else k
            hidden = hidden @ weight[own] + bias[own, 0]
            if i < len(layers) - 1:
                hidden = hidden.clamp_min(0)
        rows.append(hidden)
    stacked = torch.stack(rows)
    return stacked[:, 0] if discriminators.domains == 2 else stacked


def gradients(outputs, cotangent, values, discriminators):
    inputs = [values, *discriminators.parameters()]
    return torch.autograd.grad((outputs * cotangent).sum(), inputs)


@settings(max_examples=40, deadline=None)
@given(
    classes=st.sampled_from([1, 2, 3, 10]),
    n=st.integers(1, 17),
    domains=st.sampled_from([2, 3]),
    hidden=st.sampled_from([(), (4,), (6, 3)]),
    shared=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_values_and_all_gradients_are_those_of_a_loop_over_samples(classes, n, domains, hidden, shared, seed):
    g = torch.Generator().manual_seed(seed)
    shared = shared and len(hidden) > 0
    discriminators = make(classes=classes, domains=domains, hidden=hidden, seed=seed, shared_trunk=shared)
    assert len(discriminators.weights[0]) == (1 if shared else classes)
    values = torch.randn(n, 5, generator=g, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(max(classes, 2), (n,), generator=g)  # with one discriminator, labels stay what they are
    fast, slow = discriminators(values, labels), twin(discriminators, values, labels)
    assert fast.shape == ((n,) if domains == 2 else (n, domains))
    torch.testing.assert_close(fast, slow)
    cotangent = torch.randn(fast.shape, generator=g, dtype=torch.float64)
    for ours, theirs in zip(
        gradients(fast, cotangent, values, discriminators),
        gradients(slow, cotangent, values, discriminators),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("labels", [[2, 2, 2, 2], [3], [0], [3, 0, 3, 0, 0]])
def test_classes_that_are_absent_get_no_gradient_and_present_ones_do(labels):
    discriminators = make()
    labels = torch.tensor(labels)
    values = torch.randn(len(labels), 5, dtype=torch.float64)
    outputs = discriminators(values, labels)
    torch.testing.assert_close(outputs, twin(discriminators, values, labels))
    domain_loss(outputs, torch.ones(len(labels), dtype=torch.int64)).backward()
    last = discriminators.biases[-1].grad.flatten()
    for k in range(4):
        assert (last[k] != 0) == (k in labels)
    for parameter in discriminators.parameters():
        absent = [k for k in range(4) if k not in labels]
        assert (parameter.grad[absent] == 0).all()
        assert torch.isfinite(parameter.grad).all()


def test_class_zero_and_the_last_class_are_aligned_too():
    """The paper's public code compares labels with k + 1: its class 0 has no discriminator and its last none to see."""
    discriminators = make()
    discriminators(torch.randn(8, 5, dtype=torch.float64), torch.arange(4).repeat(2)).sum().backward()
    assert (discriminators.biases[-1].grad.flatten() != 0).all()


def test_a_sample_sees_no_discriminator_but_that_of_its_class():
    discriminators = make()
    values, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1, 1])
    before = discriminators(values, labels).detach()
    with torch.no_grad():
        discriminators.weights[0][1] += 1
        discriminators.biases[0][1] += 1
    changed = discriminators(values, labels).detach() != before
    assert changed.tolist() == [False, True, False, False, True, True]


def test_the_order_of_the_batch_does_not_matter():
    discriminators = make()
    values, labels = torch.randn(9, 5, dtype=torch.float64), torch.randint(4, (9,))
    order = torch.randperm(9)
    torch.testing.assert_close(discriminators(values, labels)[order], discriminators(values[order], labels[order]))


def test_weights_are_drawn_as_linear_layers_are_and_from_the_generator_alone():
    rng = torch.get_rng_state()
    one, two, other = (make(in_features=400, seed=s, double=False) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.weights[0], other.weights[0])
    assert not torch.equal(one.weights[0][0], one.weights[0][1])  # each class has its own
    for layer, fan_in in enumerate((400, 7, 3)):
        bound = 1 / math.sqrt(fan_in)
        values = one.weights[layer]
        assert values.abs().max() <= bound
        assert values.min() < 0 < values.max()
    assert one.weights[0].std().item() == pytest.approx(1 / math.sqrt(400) / math.sqrt(3), rel=0.05)


def test_domain_loss_by_hand():
    """Logits 0 and ln 3 for clean (sigmoid 1/2, 3/4), ln 3 for adversarial (1 - 3/4): (ln 2 + ln 4/3 + ln 4) / 3."""
    logits, domains = torch.tensor([0.0, math.log(3), math.log(3)]), torch.tensor([1, 1, 0])
    expected = (math.log(2) + math.log(4 / 3) + math.log(4)) / 3
    assert domain_loss(logits, domains).item() == pytest.approx(expected, rel=1e-6)


def test_domain_loss_of_three_domains_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0]])
    expected = (math.log(3) + math.log(4)) / 2
    assert domain_loss(logits, torch.tensor([2, 1])).item() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(1, 11), domains=st.sampled_from([2, 3]), seed=st.integers(0, 2**31))
def test_domain_loss_is_a_mean_over_samples_and_adds_up_over_parts(cut, domains, seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn((12,) if domains == 2 else (12, domains), generator=g, dtype=torch.float64)
    truth = torch.randint(domains, (12,), generator=g)
    parts = cut * domain_loss(logits[:cut], truth[:cut]) + (12 - cut) * domain_loss(logits[cut:], truth[cut:])
    torch.testing.assert_close(domain_loss(logits, truth), parts / 12)


def test_the_term_is_as_strong_for_a_hundred_classes_as_for_two():
    """A sum over class means would grow with K; with untrained discriminators the mean is about ln 2 for any K."""
    for classes in (2, 100):
        discriminators = make(classes=classes, double=False)
        labels = torch.arange(classes).repeat_interleave(4)
        truth = torch.tensor([1, 0]).repeat(2 * classes)
        loss = domain_loss(discriminators(torch.zeros(len(labels), 5), labels), truth)
        assert loss.item() == pytest.approx(math.log(2), abs=0.1)


def test_domain_accuracy_by_hand():
    assert domain_accuracy(torch.tensor([2.0, -1.0, 3.0, -4.0]), torch.tensor([1, 1, 0, 0])).item() == 0.5
    three = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 5.0, 0.0]])
    assert domain_accuracy(three, torch.tensor([0, 2, 0])).item() == pytest.approx(2 / 3)


def test_bce_of_extreme_logits_is_finite():
    logits = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = domain_loss(logits, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("width", "hidden"), [(10, (50, 20)), (1568, (98, 20)), (8000, (500, 20)), (12288, (500, 20)), (2, (50, 20))]
)
def test_hidden_widths_follow_the_paper(width, hidden):
    assert default_hidden(width) == hidden


@pytest.mark.parametrize(
    ("width", "classes", "network", "shared"),
    [
        (1568, 10, 166_000, False),  # the Fashion-MNIST network: as large as the network, and no larger than is allowed
        (4096, 10, 272_000, False),  # a ResNet-20
        (4096, 100, 278_000, True),
        (2048, 100, 23_700_000, True),  # a ResNet-50 at 2,048 features: 26 million
        (2048, 100, 30_000_000, False),
        (2048, 1000, 25_600_000, True),
        (512, 100, 11_000_000, False),
    ],
)
def test_a_trunk_is_shared_where_separate_ones_would_outgrow_the_network(width, classes, network, shared):
    assert outgrows(width, classes, network) == shared


@pytest.mark.parametrize("shared", [False, True])
def test_the_rule_counts_the_weights_that_there_are(shared):
    made = make(classes=6, in_features=800, hidden=default_hidden(800), shared_trunk=shared)
    assert made.weights[0].numel() == separate_weights(800, 1 if shared else 6)


def test_with_a_shared_trunk_the_other_layers_are_still_those_of_the_class():
    discriminators = make(shared_trunk=True)
    values, labels = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    discriminators(values, labels).sum().backward()
    assert (discriminators.biases[-1].grad.flatten() == 1).all()
    before = discriminators(values, labels).detach()
    with torch.no_grad():
        discriminators.biases[-1][1] += 1
    torch.testing.assert_close(discriminators(values, labels).detach() - before, torch.tensor([0.0, 1, 0, 0]).double())


def test_they_can_learn_to_tell_two_domains_apart():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(32)
    truth = torch.arange(2).repeat_interleave(64)
    values = torch.randn(128, 5, generator=g) + truth[:, None]
    discriminators = make(hidden=(16, 8), double=False)
    optimizer = torch.optim.Adam(discriminators.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        domain_loss(discriminators(values, labels), truth).backward()
        optimizer.step()
    assert domain_accuracy(discriminators(values, labels), truth) > 0.9


def test_one_class_with_many_samples_is_padded_right():
    discriminators = make()
    labels = torch.tensor([1] * 20 + [3])
    values = torch.randn(21, 5, dtype=torch.float64)
    torch.testing.assert_close(discriminators(values, labels), twin(discriminators, values, labels))
    expected = F.binary_cross_entropy_with_logits(twin(discriminators, values, labels), torch.ones(21).double())
    torch.testing.assert_close(domain_loss(discriminators(values, labels), torch.ones(21)), expected)
