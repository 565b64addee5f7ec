"""Training with a part of the weights in each process is training with all of them in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harden.distributed import ALONE, Processes
from harden.models.classifier import Classifier
from harden.training.sharding import is_part, kept, like, shard, units_of, whole
from tests.forks import FORKED, in_processes
from tests.training.test_distributed import TRAIN, assert_alike, assert_same, net, stopped, trained, trainer
from tests.training.test_loop import of_digits

pytestmark = pytest.mark.filterwarnings(FORKED)


class Block(nn.Module):
    """A residual block that is scaled by a parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.scale * self.inside(images)  # type: ignore[no-any-return]


def blocks() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return of_digits(
            nn.Sequential(
                nn.Conv2d(1, 6, 3, padding=1),
                nn.Sequential(Block(), Block()),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(24, 24),
                nn.ReLU(),
                nn.Linear(24, 10),
            )
        )


def sharded(processes: Processes, method: str, **changes: Any) -> dict[str, Any]:
    return trained(processes, method, shard=True, **changes)


@pytest.mark.parametrize(
    ("size", "method", "changes"),
    [
        (3, "adv4adv", {"source_attacks": ("fgsm-ep",), "augment": "shift"}),
        (2, "sat", {"source_attacks": ("nfgsm",), "freeze": ("0.*",), "accumulate": 2}),
        (2, "pat", {"source_attacks": ("pgd",), "epochs": 1}),
        (3, "atda", {}),
    ],
)
def test_losses_and_weights_are_those_of_one_process(size: int, method: str, changes: dict[str, Any]) -> None:
    """Three processes have no equal parts of 8 filters, nor of 40 images."""
    answers = in_processes(size, lambda processes: sharded(processes, method, **changes))
    assert_alike(answers)
    assert_same(answers[0], trained(ALONE, method, **changes))


@pytest.mark.parametrize("recompute", [False, True])
def test_blocks_are_gathered_one_by_one_with_batchnorm_over_all(recompute: bool) -> None:
    changes = {"sync_batchnorm": True, "recompute": recompute, "epochs": 1}
    answers = in_processes(2, lambda processes: sharded(processes, "adv4adv", classifier=blocks(), **changes))
    assert_alike(answers)
    assert_same(answers[0], trained(ALONE, "adv4adv", classifier=blocks(), **changes))


def test_each_process_has_its_part_until_training_ends() -> None:
    def work(processes: Processes) -> tuple[int, int, bool, bool]:
        training = trainer(processes, "sat", classifier=blocks(), shard=True, epochs=1)
        first = training.classifier.module[0].weight  # type: ignore[index]
        parts = [p.to_local().numel() for p in training.classifier.parameters() if is_part(p)]  # type: ignore[attr-defined]
        training.run()
        moments = [v for entry in training.optimizer.state.values() for v in entry.values() if is_part(v)]
        ended = not any(is_part(p) for p in training.classifier.parameters())
        return sum(parts), sum(v.to_local().numel() for v in moments), ended, is_part(first)

    answers = in_processes(2, work)
    count = sum(p.numel() for p in blocks().parameters() if p.ndim)
    assert [sum(answer[place] for answer in answers) for place in (0, 1)] == [count, 2 * count]
    assert all(0.4 * count < answer[0] < 0.6 * count for answer in answers)
    assert all(answer[2] and answer[3] for answer in answers)


def test_any_number_of_processes_goes_on_sharded_or_not(tmp_path: Path) -> None:
    kept_at = tmp_path / "checkpoint.pt"

    in_processes(2, lambda processes: stopped(processes, "adv4adv", shard=True, checkpoint=kept_at))
    before, expected = kept_at.read_bytes(), trained(ALONE, "adv4adv")
    for size, in_parts in ((1, True), (2, False), (3, True)):
        kept_at.write_bytes(before)

        def resumed(processes: Processes, in_parts: bool = in_parts) -> dict[str, Any]:
            return trained(processes, "adv4adv", shard=in_parts, checkpoint=kept_at, resume=True)

        answers = in_processes(size, resumed) if size > 1 else [resumed(ALONE)]
        assert_alike(answers)
        assert_same(answers[0], expected)


def test_going_back_restores_every_part() -> None:
    def work(processes: Processes) -> tuple[dict[str, Any], dict[str, Any]]:
        training = trainer(processes, "adv4adv", shard=True, epochs=1)
        order = training.batches.order(0)
        with training._tapping() as tapped:
            training._train_step(tapped, order, 0)
            before, snapshot = whole(training.state.take()), training.state.take()
            training._train_step(tapped, order, 1)
            training.state.restore(snapshot)
        return before, whole(training.state.take())

    for before, after in in_processes(2, work):
        for name in ("model", "average", "defence"):
            assert all(torch.equal(values, after[name][key]) for key, values in before[name].items())
        moments = before["optimizer"]["state"]
        assert len(moments) > 0
        for index, entry in moments.items():
            assert all(torch.equal(values, after["optimizer"]["state"][index][key]) for key, values in entry.items())


def test_what_is_whole_is_copied_to_the_cpu_and_stays_whole() -> None:
    state = {"a": torch.ones(2), "b": [1, ("word", torch.zeros(()))], "c": None}
    copied = kept(state)
    state["a"].zero_()
    assert torch.equal(copied["a"], torch.ones(2))
    assert copied["b"][1][0] == "word"
    assert whole(copied) is not copied
    assert torch.equal(whole(copied)["a"], copied["a"])
    assert like(copied["a"], state["a"]) is copied["a"]


def test_a_gradient_to_the_images_is_that_of_the_whole_network() -> None:
    images, labels = TRAIN.batch(slice(0, 4))

    def gradient(model: nn.Module) -> Tensor:
        inputs = images.clone().requires_grad_()
        (found,) = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), labels), inputs)
        return found

    def work(processes: Processes) -> Tensor:
        model = net()
        shard(model, [])
        return gradient(model)

    expected = gradient(net())
    for found in in_processes(2, work):
        torch.testing.assert_close(found, expected)


class Odd(nn.Module):
    """Blocks that cannot be gathered on their own, each for another reason, beside one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.sound = nn.ModuleList([Block(), nn.Identity()])
        self.lists = nn.ModuleList([nn.ModuleList([nn.Conv2d(6, 6, 1)]), nn.Identity()])
        self.opened = nn.ModuleList([nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU()), nn.Identity()])
        shared = nn.Conv2d(6, 6, 1)
        self.shared = nn.Sequential(nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared, nn.Tanh()))
        self.tied = nn.Sequential(*(nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU()) for _ in range(2)))
        self.tied[1][0].weight = self.tied[0][0].weight
        self.idle = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Identity()])
        self.first, self.last = nn.Conv2d(1, 6, 3), nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.sound[0](self.first(images))
        features = self.opened[0][0](self.lists[0][0](features))
        features = self.tied(self.shared(features))
        return self.last(features.mean((2, 3)))  # type: ignore[no-any-return]


def odd() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return of_digits(Odd())


def test_what_cannot_be_gathered_on_its_own_is_gathered_with_the_rest() -> None:
    images, _ = TRAIN.batch(slice(0, 2))
    assert units_of(odd(), images) == ("sound.0",)
    assert units_of(blocks(), images) == ("1.0", "1.1")
    expected = trained(ALONE, "sat", classifier=odd(), epochs=1)
    answers = in_processes(
        2, lambda processes: sharded(processes, "sat", classifier=odd(), epochs=1, sync_batchnorm=True)
    )
    assert_alike(answers)
    assert_same(answers[0], expected)


class Moody(nn.Module):
    """Leaves its layer out in every second pass of one process, as stochastic depth may."""

    def __init__(self, leader: bool) -> None:
        super().__init__()
        self.inside, self.leader, self.passes = nn.Sequential(nn.Conv2d(8, 8, 1)), leader, 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += self.training
        return images if self.training and self.leader and self.passes % 2 else images + self.inside(images)


def test_a_parameter_that_one_process_does_not_use_has_the_gradient_of_the_others() -> None:
    def work(processes: Processes) -> dict[str, Any]:
        classifier = net()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            moody = Moody(processes.leads)
        classifier.module[1] = nn.Sequential(moody, nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))
        return sharded(processes, "nt", classifier=classifier, source_attacks=(), epochs=1)

    assert_alike(in_processes(2, work))


def test_parts_of_unequal_shares_are_as_many_in_every_process() -> None:
    """Of 10 images three processes have 3, 3 and 4, of which two parts can be made by the last one only."""

    def work(processes: Processes) -> dict[str, Any]:
        changes = {"batch_size": 10, "accumulate": 2, "epochs": 1, "sync_batchnorm": True}
        return sharded(processes, "nt", classifier=blocks(), source_attacks=(), **changes)

    answers = in_processes(3, work)
    assert_alike(answers)


def test_only_the_leader_holds_the_whole() -> None:
    def work(processes: Processes) -> list[bool]:
        model = net()
        shard(model, [])
        state = whole({"a": dict(model.state_dict())}, keep=processes.leads)["a"]
        return [value is None for value in state.values() if value is None or value.ndim]

    assert [set(answer) for answer in in_processes(2, work)] == [{False}, {True}]
