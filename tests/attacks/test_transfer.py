"""Transfer: equal to the white-box attack where the surrogate is the model itself, and counted as the model saw it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harden.access import Access
from harden.attacks import FGSM, MIM, PGD, Attack, Passes, Transfer, run_attack

from .nets import Counting, cnn, digits, gen

EPS = 0.1


def transfer(inner: Attack, *surrogates: nn.Module) -> Transfer:
    return Transfer(
        eps=inner.eps,
        norm=inner.norm,
        inner=inner,
        surrogates=surrogates,
        names=tuple(f"net {n}" for n in range(len(surrogates))),
    )


@pytest.fixture(scope="module")
def other() -> nn.Module:
    """Another network, trained on other digits with another seed."""
    images, labels = digits()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(10):
            for rows in torch.randperm(1500).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
                optimizer.step()
    return net.eval()


@pytest.mark.parametrize("inner", [FGSM(eps=EPS), PGD(eps=EPS, iterations=5), MIM(eps=EPS)])
def test_from_the_model_itself_it_is_the_white_box_attack(
    inner: Attack, net: nn.Sequential, correct: tuple[Tensor, Tensor]
) -> None:
    images, labels = correct
    white = run_attack(inner, net, images, labels, generator=gen(), drop_fooled=False)
    black = run_attack(transfer(inner, net), net, images, labels, generator=gen())
    assert torch.equal(black.predictions, white.predictions)
    assert torch.equal(black.images, white.images)
    torch.testing.assert_close(black.margins, white.margins)


def test_it_takes_the_strongest_example_of_the_surrogate_not_the_first_that_fools_it(
    net: nn.Sequential, other: nn.Module, correct: tuple[Tensor, Tensor]
) -> None:
    images, labels = correct
    inner = PGD(eps=EPS, iterations=10)
    strongest = run_attack(inner, other, images, labels, generator=gen(), drop_fooled=False)
    first = run_attack(inner, other, images, labels, generator=gen())
    found = run_attack(transfer(inner, other), net, images, labels, generator=gen())
    with torch.no_grad():
        expected = net(strongest.images).argmax(1)
    assert torch.equal(found.predictions, expected)
    with torch.no_grad():
        weaker = int((net(first.images).argmax(1) != labels).sum())
    assert int((found.predictions != labels).sum()) > weaker


def test_passes_and_queries_are_those_of_the_target(
    net: nn.Sequential, other: nn.Module, correct: tuple[Tensor, Tensor]
) -> None:
    images, labels = correct
    target, passes = Counting(net), Passes()
    found = run_attack(
        transfer(PGD(eps=EPS, iterations=3), other, net), target, images, labels, generator=gen(), passes=passes
    )
    fooled_first = run_attack(transfer(PGD(eps=EPS, iterations=3), other), net, images, labels, generator=gen())
    left = int((fooled_first.predictions == labels).sum())
    assert 0 < left < len(images)
    assert target.images == len(images) + left
    assert passes.forwards == target.images
    assert passes.backwards == 0
    # An image is asked at 4 points of a surrogate, 3 of them with gradients.
    assert passes.elsewhere == 7 * (len(images) + left)
    assert sorted(set(found.queries.tolist())) == [1, 2]
    assert int((found.queries == 2).sum()) == left


def test_passes_on_a_surrogate_are_heard_as_they_are_made(
    net: nn.Sequential, other: nn.Module, correct: tuple[Tensor, Tensor]
) -> None:
    class StopError(Exception):
        pass

    heard: list[int] = []

    def hear() -> None:
        heard.append(passes.total)
        if len(heard) == 3:
            raise StopError

    passes = Passes(heard=hear)
    with pytest.raises(StopError):
        run_attack(transfer(PGD(eps=EPS, iterations=5), other), net, *correct, generator=gen(), passes=passes)
    assert heard == sorted(set(heard))
    assert passes.elsewhere == heard[-1]
    assert passes.forwards == 0


def test_no_target_gradient_is_asked_for(other: nn.Module, correct: tuple[Tensor, Tensor]) -> None:
    images, labels = correct

    def blind(points: Tensor) -> Tensor:
        assert not points.requires_grad
        assert not torch.is_grad_enabled()
        return torch.eye(10)[other(points).argmax(1)]

    found = run_attack(transfer(FGSM(eps=EPS), other), blind, images, labels, generator=gen())
    assert (found.predictions != labels).any()
    assert transfer(FGSM(eps=EPS), other).access is Access.TRANSFER


def test_the_surrogates_are_left_as_they_were(net: nn.Sequential, correct: tuple[Tensor, Tensor]) -> None:
    surrogate = nn.Sequential(nn.Dropout(0.5), cnn()).train()
    run_attack(transfer(FGSM(eps=EPS), surrogate), net, *correct, generator=gen())
    assert all(module.training for module in surrogate.modules())
    assert all(p.requires_grad and p.grad is None for p in surrogate.parameters())


def test_what_does_not_fit_is_refused(net: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="norm and eps"):
        Transfer(eps=0.2, inner=FGSM(eps=0.1), surrogates=(net,), names=("a",))
    with pytest.raises(ValueError, match="a name for each"):
        Transfer(eps=0.1, inner=FGSM(eps=0.1), surrogates=(net,), names=())
