"""BatchNorm over the images of all processes: what one process finds on the whole batch, in values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harden.distributed import ALONE, Processes
from harden.models.classifier import Classifier
from harden.models.recompute import recomputing
from harden.training.batchnorm import SyncedBatchNorm
from tests.forks import FORKED, in_processes
from tests.training.test_distributed import Failing, assert_alike, assert_same, net, ran_out, trained

pytestmark = pytest.mark.filterwarnings(FORKED)

SHAPES = [(6, 4), (6, 4, 5), (6, 4, 3, 5), (6, 4, 2, 3, 2)]
LAYERS: dict[int, Callable[..., nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


def batch(shape: tuple[int, ...], *, mean: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator) * torch.arange(1.0, 5.0).view(1, 4, *[1] * (len(shape) - 2)) + mean


def found(layer: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return what a layer gives for images, and all gradients of a loss that is a sum over images."""
    images = images.clone().requires_grad_()
    outputs = layer(images)
    weights = torch.linspace(-1, 1, outputs.shape[1:].numel()).view(outputs.shape[1:])
    (outputs.tanh() * weights).sum().backward()
    assert images.grad is not None
    gradients = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"outputs": outputs.detach(), "images": images.grad, **gradients, **dict(layer.named_buffers())}


def assert_equal(mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    assert mine.keys() == theirs.keys()
    for name, values in theirs.items():
        torch.testing.assert_close(mine[name], values, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"eps": 0.5}], ids=str
)
def test_one_process_finds_what_torch_finds(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    plain, synced = (LAYERS[len(shape)](4, **options) for _ in range(2))
    for _ in range(2):
        expected = found(plain, batch(shape))
        with SyncedBatchNorm(ALONE):
            assert_equal(found(synced, batch(shape)), expected)


@settings(max_examples=30, deadline=None)
@given(
    means=st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3),
    spreads=st.lists(st.floats(0.125, 10, width=32), min_size=3, max_size=3),
)
def test_values_of_any_mean_and_spread_are_normalised(means: list[float], spreads: list[float]) -> None:
    noise = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = noise * torch.tensor(spreads).view(1, 3, 1, 1) + torch.tensor(means).view(1, 3, 1, 1)
    with SyncedBatchNorm(ALONE):
        outputs = nn.BatchNorm2d(3, eps=1e-12)(images)
    variance, mean = torch.var_mean(outputs, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(variance, torch.ones(3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_processes_find_what_one_finds_on_the_whole_batch(size: int, mean: float) -> None:
    """Of 5 images one process may have more than the others; a mean of 1000 would drown sums of squares."""
    images = batch((5, 4, 3, 3), mean=mean)
    expected = found(nn.BatchNorm2d(4), images)

    def work(processes: Processes) -> dict[str, Tensor]:
        with SyncedBatchNorm(processes):
            return found(nn.BatchNorm2d(4), images[processes.part(5)])

    answers = in_processes(size, work)
    united = {name: torch.cat([answer[name] for answer in answers]) for name in ("outputs", "images")}
    united |= {name: sum(answer[name] for answer in answers) for name in ("weight", "bias")}
    buffers = {name: answers[0][name] for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert all(torch.equal(answer[name], buffers[name]) for answer in answers for name in buffers)
    assert_equal({**united, **buffers}, expected, 2e-5 if mean == 0 else 5e-4)


def test_a_process_without_images_takes_part() -> None:
    images = batch((2, 4, 3, 3))
    expected = found(nn.BatchNorm2d(4), images)

    def work(processes: Processes) -> dict[str, Tensor]:
        with SyncedBatchNorm(processes):
            return found(nn.BatchNorm2d(4), images[processes.part(2)])

    answers = in_processes(3, work)
    assert sorted(len(answer["outputs"]) for answer in answers) == [0, 1, 1]
    torch.testing.assert_close(torch.cat([answer["images"] for answer in answers]), expected["images"])


def test_a_single_value_per_channel_is_refused_as_torch_refuses_it() -> None:
    with SyncedBatchNorm(ALONE), pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(4)(torch.ones(1, 4))


def test_layers_at_rest_exchange_nothing() -> None:
    """The leader passes images through alone; an exchange would wait for the other process for ever."""
    images = batch((5, 4, 3, 3))

    def work(processes: Processes) -> Tensor | None:
        if not processes.leads:
            return None
        with SyncedBatchNorm(processes):
            result: Tensor = nn.BatchNorm2d(4).eval()(images)
        return result.detach()

    assert torch.equal(in_processes(2, work)[0], nn.BatchNorm2d(4).eval()(images))


def test_autocast_gives_the_layer_what_it_gives_without() -> None:
    images = batch((6, 4, 3, 5))
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(60, 3))
    with torch.autocast("cpu", torch.bfloat16):
        expected = found(model, images)
        model.zero_grad()
        with SyncedBatchNorm(ALONE):
            again = found(model, images)
    assert again["outputs"].dtype == torch.bfloat16
    for name in ("outputs", "images", "0.weight", "1.weight", "4.weight"):
        torch.testing.assert_close(again[name], expected[name], rtol=0.05, atol=0.05)


class Block(nn.Module):
    """A residual block with BatchNorm, for `recomputing`."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return images + self.inside(images)  # type: ignore[no-any-return]


def test_blocks_that_run_again_in_backward_take_part() -> None:
    images = batch((5, 4, 3, 3))

    def blocks() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(Block(), Block())

    expected = found(blocks(), images)

    def work(processes: Processes) -> dict[str, Tensor]:
        model = blocks()
        with SyncedBatchNorm(processes), recomputing(model):
            return found(model, images[processes.part(5)])

    answers = in_processes(2, work)
    torch.testing.assert_close(torch.cat([answer["images"] for answer in answers]), expected["images"])
    for name in ("0.inside.1.running_var", "1.inside.1.running_mean", "1.inside.1.num_batches_tracked"):
        torch.testing.assert_close(answers[1][name], expected[name])


# -- in training -------------------------------------------------------------------------------------------------------


def normalised() -> Classifier:
    """A network without the bias that BatchNorm takes away: Adam would make steps of its gradient, which is noise."""
    classifier = net(normalised=True)
    classifier.module[0].bias = None  # type: ignore[index]
    return classifier


@pytest.mark.parametrize(
    ("size", "method", "changes"),
    [
        (2, "adv4adv", {}),
        (3, "adv4adv", {"source_attacks": ("fgsm-ep", "nfgsm"), "augment": "shift"}),
        (2, "atda", {"source_attacks": ("nfgsm",)}),
        (2, "nt", {"source_attacks": ()}),
    ],
)
def test_a_network_with_batchnorm_trains_as_in_one_process(size: int, method: str, changes: dict[str, Any]) -> None:
    def work(processes: Processes) -> dict[str, Any]:
        return trained(processes, method, classifier=normalised(), sync_batchnorm=True, **changes)

    answers = in_processes(size, work)
    assert_alike(answers)
    assert_same(answers[0], work(ALONE))


def test_parts_of_a_step_are_normalised_over_all_processes() -> None:
    """Each process accumulates over two parts, and both have the same number of exchanges."""

    def work(processes: Processes) -> dict[str, Any]:
        return trained(processes, "sat", classifier=normalised(), sync_batchnorm=True, accumulate=2)

    assert_alike(in_processes(2, work))


def test_memory_that_runs_out_between_two_exchanges_halves_the_batches_of_all() -> None:
    """The one that failed before a layer never comes to the exchange in which the others wait for it."""

    def work(processes: Processes, unlucky: int = 1) -> dict[str, Any]:
        classifier = normalised()
        if processes.rank == unlucky:
            classifier.module[0] = nn.Sequential(classifier.module[0], Failing(ran_out, at=3))
        else:
            classifier.module[0] = nn.Sequential(classifier.module[0], nn.Identity())
        return trained(processes, "sat", classifier=classifier, sync_batchnorm=True)

    answers = in_processes(3, work)
    assert_alike(answers)
    assert [answer["size"] for answer in answers] == [20, 20, 20]
    assert_same(answers[0], work(ALONE, unlucky=0))
