"""Blocks that run again in backward passes: the same values and gradients, and less memory."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from examples.resnet_cifar import resnet20
from harden.attacks import FGSM, finish
from harden.defences import DEFENCES, Craft, DefenceContext, DefenceSettings
from harden.errors import UsageError
from harden.models.recompute import blocks_of, recomputing
from harden.models.tap import Tap
from harden.vision import import_timm
from tests.attacks.nets import as_classifier, gen


class Block(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.norm, self.conv, self.drop = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(torch.relu(self.conv(self.norm(x))))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = nn.Sequential(*(Block() for _ in range(4)))
        return nn.Sequential(nn.Conv2d(3, 6, 3), blocks, nn.Flatten(), nn.Linear(6 * 36, 4))


def step(net: nn.Module) -> tuple[Tensor, list[Tensor | None], int]:
    """Return the loss, all gradients, and the bytes that autograd kept of forward results."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = net(images).square().sum()
        before = sum(kept.values())
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), [images.grad, *(p.grad for p in net.parameters())], before


def test_values_gradients_and_statistics_are_the_same_and_less_is_kept() -> None:
    plain, again = network(), network()
    expected = step(plain)
    with recomputing(again) as count:
        found = step(again)
    assert count == 4
    assert torch.equal(found[0], expected[0])
    for ours, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, theirs)
    assert found[2] < 0.6 * expected[2]
    for (name, ours), theirs in zip(again.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name  # running statistics and their count among them


def test_two_backward_passes_through_the_same_forward_one() -> None:
    """As crafting out of the clean pass takes them."""
    net = network().eval()
    images = torch.rand(3, 3, 8, 8).requires_grad_(True)
    (expected,) = torch.autograd.grad(net(images).sum(), images)
    with recomputing(net):
        total = net(images).sum()
        (gradient,) = torch.autograd.grad(total, images, retain_graph=True)
        torch.testing.assert_close(gradient, expected)
        total.backward(inputs=list(net.parameters()))
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("method", ["sat", "adv4adv"])
def test_a_first_convolution_inside_a_block_runs_again_as_it_ran(method: str) -> None:
    """Crafting lets it take another way while it passes the images through, and the backward pass comes later."""
    blocks = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()), nn.Flatten()
    )
    model = as_classifier(nn.Sequential(blocks, nn.Linear(64, 4)), classes=tuple("abcd"), size=(1, 8, 8))
    images, labels = torch.rand(5, 1, 8, 8, generator=gen(1)), torch.arange(5) % 4
    attack, found = FGSM(eps=0.1), []
    for context in (nullcontext(), recomputing(model.module)):
        defence = DEFENCES[method](DefenceContext(4, 64, gen()), DefenceSettings(grl_warmup=0.0))
        making = Craft(lambda *rest: (), lambda clean, gradient: (finish(attack, clean, gradient),))
        trained = [*model.parameters(), *defence.parameters()]
        for parameter in trained:
            parameter.grad = None
        with context, Tap(model, "0") as tapped:
            defence.step_loss(tapped, images, labels, making, gen()).loss.backward(inputs=trained)  # type: ignore[no-untyped-call]
        found.append([parameter.grad for parameter in trained])
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_afterwards_nothing_is_left_and_a_copy_made_meanwhile_is_its_own() -> None:
    net = network()
    with recomputing(net):
        copied = copy.deepcopy(net)
    assert all("forward" not in block.__dict__ for block in net.modules())
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert copied(torch.rand(2, 3, 8, 8)).abs().max() == 0
    assert net(torch.rand(2, 3, 8, 8)).abs().max() > 0


def test_blocks_of_known_networks() -> None:
    assert len(blocks_of(resnet20())) == 9
    vit = import_timm().create_model("vit_tiny_patch16_224", depth=3, num_classes=4)
    assert [type(block).__name__ for block in blocks_of(vit)] == ["Block"] * 3


def test_a_network_without_blocks_is_told_so() -> None:
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(UsageError, match="finds no blocks") as caught, recomputing(bare):
        pass
    assert "--accumulate" in str(caught.value.hint)
