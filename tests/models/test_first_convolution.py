from __future__ import annotations

import pytest
import torch
from torch import nn

from harden.attacks import FGSM, craft, frozen
from harden.models import first_convolution
from harden.models.first_convolution import by_columns, by_library

SEED = torch.Generator().manual_seed(0)

FASTER = {
    "gray": nn.Conv2d(1, 6, 3, padding=1),
    "gray, strided": nn.Conv2d(1, 6, 4, stride=2, padding=1),
    "gray, uneven": nn.Conv2d(1, 6, (3, 5), stride=(1, 3), padding=(0, 2)),
    "gray, dilated": nn.Conv2d(1, 6, 3, dilation=2, bias=False),
    "gray, where the last pixels are not reached": nn.Conv2d(1, 6, 4, stride=3),
    "patches": nn.Conv2d(3, 6, 4, stride=4),
    "patches that do not fill the image": nn.Conv2d(3, 6, 5, stride=5),
}
PLAIN = {
    "colour": nn.Conv2d(3, 6, 3, padding=1),
    "a deep one": nn.Conv2d(8, 8, 2, stride=2),
    "grouped": nn.Conv2d(3, 6, 4, stride=4, groups=3),
    "reflected": nn.Conv2d(1, 6, 3, padding=1, padding_mode="reflect"),
    "same": nn.Conv2d(1, 6, 3, padding="same"),
}


def input_gradient(layer: nn.Conv2d, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    images = images.clone().requires_grad_(True)
    result = layer(images)
    (gradient,) = torch.autograd.grad((result * torch.linspace(-1, 2, result.numel()).view_as(result)).sum(), images)
    return result.detach(), gradient


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["channels first", "last"])
@pytest.mark.parametrize("layer", FASTER.values(), ids=FASTER)
def test_the_gradient_by_columns_is_that_of_the_library(layer, layout):
    layer = layer.to(memory_format=layout).requires_grad_(False)
    images = torch.rand(3, layer.in_channels, 16, 17, generator=SEED).contiguous(memory_format=layout)
    expected = input_gradient(layer, images)
    changed = by_columns(layer)
    assert changed == [layer]
    result, gradient = input_gradient(layer, images)
    by_library(changed)
    assert torch.equal(result, expected[0])
    assert torch.allclose(gradient, expected[1], rtol=1e-4, atol=1e-5)
    assert layer.forward == nn.Conv2d.forward.__get__(layer)


@pytest.mark.parametrize("layer", PLAIN.values(), ids=PLAIN)
def test_others_are_left_to_the_library(layer):
    assert by_columns(layer) == []


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["channels first", "last"])
def test_weights_that_are_trained_meanwhile_get_their_gradients(layout, bias):
    layer = nn.Conv2d(1, 6, 4, stride=2, padding=1, bias=bias).to(memory_format=layout)
    images = torch.rand(3, 1, 8, 8, generator=SEED).contiguous(memory_format=layout)
    slope = torch.rand(3, 6, 4, 4, generator=SEED)
    expected = torch.autograd.grad((layer(images) * slope).sum(), list(layer.parameters()))
    changed = by_columns(layer)
    asked = images.clone().requires_grad_(True)
    result = layer(asked)
    by_library(changed)
    torch.testing.assert_close(result, layer(images), rtol=0, atol=0)
    (result * slope).sum().backward()
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert asked.grad is not None


@pytest.mark.parametrize(("frozen", "trained"), [("weight", "bias"), ("bias", "weight")])
def test_what_is_frozen_of_a_layer_leaves_the_rest_its_gradient(frozen, trained):
    layer = nn.Conv2d(1, 6, 3)
    getattr(layer, frozen).requires_grad_(False)
    images = torch.rand(2, 1, 8, 8, generator=SEED, requires_grad=True)
    changed = by_columns(layer)
    result = layer(images).square().sum()
    by_library(changed)
    result.backward(inputs=[getattr(layer, trained)])
    expected = torch.autograd.grad(layer(images).square().sum(), getattr(layer, trained))
    torch.testing.assert_close(getattr(layer, trained).grad, expected[0])


def test_only_the_gradients_that_are_asked_for_are_computed(monkeypatch):
    layer = nn.Conv2d(1, 6, 3)
    changed = by_columns(layer)
    images = torch.rand(2, 1, 8, 8, generator=SEED, requires_grad=True)
    result = layer(images).square().sum()
    by_library(changed)
    monkeypatch.setattr(first_convolution._OfWeights, "backward", never)
    (gradient,) = torch.autograd.grad(result, images, retain_graph=True)
    assert gradient.abs().sum() > 0
    monkeypatch.undo()
    monkeypatch.setattr(first_convolution._ByColumns, "backward", never)
    result.backward(inputs=list(layer.parameters()))
    assert layer.weight.grad.abs().sum() > 0


def never(*arguments):
    raise AssertionError("a gradient that nobody asked for")


def test_a_subclass_and_a_forward_that_is_not_torchs_own_are_left_alone():
    class Mine(nn.Conv2d):
        pass

    patched = nn.Conv2d(1, 6, 3)
    patched.forward = lambda images: images
    assert by_columns(nn.Sequential(Mine(1, 6, 3), patched)) == []


def test_it_lasts_no_longer_than_the_attack():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    with frozen(network):
        assert "forward" in network[0].__dict__
        craft(FGSM(eps=0.1), network, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), generator=SEED)
        assert "forward" in network[0].__dict__
    assert "forward" not in network[0].__dict__
