"""Processes that train together, as forks of this one: what they find is what one process finds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harden.attacks import CRAFTERS, craft
from harden.defences import DEFENCES, DefenceContext, DefenceSettings
from harden.distributed import ALONE, Processes, Seat, seat_in
from harden.errors import Interrupted, ProcessLostError, UsageError
from harden.models.classifier import Classifier
from harden.training.augment import AUGMENTATIONS
from harden.training.loop import Trainer
from harden.training.reduction import Reduction
from harden.training.settings import TrainingSettings
from tests.forks import FORKED, in_processes
from tests.training.test_loop import Ears, digits, of_digits

pytestmark = pytest.mark.filterwarnings(FORKED)

TRAIN, VAL = digits(0, 120), digits(1000, 1030)


def net(*, normalised: bool = False) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8) if normalised else nn.Identity(),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 24),
            nn.ReLU(),
            nn.Linear(24, 10),
        )
    return of_digits(module)


class Failing(nn.Module):
    """Lets `trouble` happen in a training pass of one process, the `at`-th from 0."""

    def __init__(self, trouble: Callable[[], None], at: int) -> None:
        super().__init__()
        self.trouble, self.left = trouble, at

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.left -= 1
            if self.left == -1:
                self.trouble()
        return images


def trainer(processes: Processes, method: str, classifier: Classifier | None = None, **changes: Any) -> Trainer:
    classifier = classifier or net()
    uses = method.startswith("adv4adv")
    options = {name: changes.pop(name) for name in ("checkpoint", "stop_requested") if name in changes}
    values = {"epochs": 2, "batch_size": 40, "lr": 3e-3, "eps": 0.1, "source_attacks": ("fgsm",), "ema": 0.9, **changes}
    context = DefenceContext(
        10, 24 if uses else 0, torch.Generator().manual_seed(7), sources=len(values["source_attacks"]), statics=(net(),)
    )
    return Trainer(
        classifier=classifier,
        defence=DEFENCES[method](context, DefenceSettings(beta=1.0, gamma=0.5)),
        layer="6" if uses else None,
        train=TRAIN,
        val=VAL,
        settings=TrainingSettings(**values),
        observer=Ears(),
        processes=processes,
        **{"checkpoint": None, **options},
    )


def trained(processes: Processes, method: str, **changes: Any) -> dict[str, Any]:
    """Return what training found, in tensors and plain values."""
    resume = changes.pop("resume", False)
    training = trainer(processes, method, **changes)
    result = training.run(resume=resume)
    return {
        "weights": {**training.classifier.state_dict()},
        "defence": {**training.defence.state_dict()},
        "scalars": [record.scalars for record in training.records],
        "passes": [record.passes for record in training.records],
        "memory": training.crafting.state(),
        "confirmed": result.confirmation,
        "notes": training.observer.notes,
        "size": training.batches.size,
    }


def stopped(processes: Processes, method: str, **changes: Any) -> int:
    """Return after how many steps training ended that process 1 is asked to stop after four."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return processes.rank == 1 and asked == 4

    training = trainer(processes, method, stop_requested=stop, **changes)
    with pytest.raises(Interrupted):
        training.run()
    return training.epoch * training.batches.steps + training.step


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Within rounding: a sum over processes adds up in another order."""
    assert found["passes"] == expected["passes"]
    for mine, theirs in zip(found["scalars"], expected["scalars"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    for part in ("weights", "defence"):
        for name, values in expected[part].items():
            torch.testing.assert_close(found[part][name], values, rtol=1e-3, atol=1e-4)


def assert_alike(answers: list[dict[str, Any]]) -> None:
    """To the last bit, or the processes would drift apart."""
    first, *others = answers
    for other in others:
        assert other["scalars"] == first["scalars"]
        assert other["confirmed"] == first["confirmed"]
        for part in ("weights", "defence"):
            assert all(torch.equal(values, other[part][name]) for name, values in first[part].items())
        assert (first["memory"] is None) or torch.equal(first["memory"], other["memory"])


# -- equal to one process ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "method", "changes"),
    [
        (3, "nt", {"source_attacks": ()}),
        (2, "sat", {"source_attacks": ("nfgsm",), "augment": "flip+shift"}),
        (3, "eat", {"source_attacks": ("rfgsm",)}),
        (2, "atda", {}),
        (3, "atda", {"source_attacks": ("fgsm", "rfgsm")}),
        (2, "adv4adv", {}),
        (3, "adv4adv", {"source_attacks": ("fgsm-ep", "mim"), "augment": "shift"}),
        (2, "adv4adv-star", {"weight_decay": 1e-3, "freeze": ("0.*",)}),
    ],
)
def test_losses_and_weights_are_those_of_one_process(size: int, method: str, changes: dict[str, Any]) -> None:
    """Batches of 40 fall into equal parts for two processes and unequal ones for three; classes always do."""
    answers = in_processes(size, lambda processes: trained(processes, method, **changes))
    assert_alike(answers)
    assert_same(answers[0], trained(ALONE, method, **changes))


def test_running_statistics_move_by_the_mean_of_what_each_process_saw() -> None:
    """Each normalises by its own part, so weights are not those of one process; what no step moves keeps its bits."""

    def work(processes: Processes) -> dict[str, Any]:
        classifier = net(normalised=True)
        return {**trained(processes, "adv4adv", classifier=classifier), "buffers": dict(classifier.named_buffers())}

    answers = in_processes(3, work)
    assert_alike(answers)
    for name, values in net(normalised=True).named_buffers():
        moved = name.startswith("module.1.")
        assert torch.equal(answers[0]["buffers"][name], values) is not moved, name


@pytest.mark.parametrize("size", [2, 3])
def test_a_running_mean_is_that_of_the_whole_batch(size: int) -> None:
    images = torch.rand(7, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    expected = nn.BatchNorm2d(4)
    expected(images)

    def work(processes: Processes) -> tuple[Tensor, Tensor]:
        layer, part = nn.BatchNorm2d(4), processes.part(7)
        reduction = Reduction(processes, layer, nn.Identity())
        reduction.begin(7)
        layer(images[part])
        reduction.add_up({}, len(images[part]) / 7)
        return layer.running_mean, layer.running_var

    for mean, variance in in_processes(size, work):
        torch.testing.assert_close(mean, expected.running_mean)
        torch.testing.assert_close(variance, expected.running_var, rtol=0.05, atol=0)


def test_a_parameter_without_a_gradient_anywhere_has_none() -> None:
    """Adam leaves it alone then, weight decay included; one that a single process used has that one's gradient."""

    def work(processes: Processes) -> list[Tensor | None]:
        layers = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(3)])
        used = layers[:2] if processes.leads else layers[:1]
        sum(layer(torch.ones(1, 1)).sum() for layer in used).backward()  # type: ignore[union-attr]
        Reduction(processes, layers, nn.Identity()).add_up({}, 0.5)
        return [layer.weight.grad for layer in layers]

    for everywhere, once, nowhere in in_processes(2, work):
        assert (everywhere.item(), once.item(), nowhere) == (2.0, 1.0, None)


# -- draws that do not depend on the number of processes ---------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CRAFTERS))
def test_an_example_does_not_depend_on_how_its_batch_is_cut(name: str) -> None:
    model, (images, labels) = net(), TRAIN.batch(slice(0, 9))
    attack = CRAFTERS[name](0.1)

    def crafted(part: slice, generator: torch.Generator) -> Tensor:
        return craft(attack, model, images[part], labels[part], generator=generator, part=part, size=9)

    whole, state = crafted(slice(0, 9), torch.Generator().manual_seed(3)), None
    for part in (slice(0, 4), slice(4, 9)):
        generator = torch.Generator().manual_seed(3)
        torch.testing.assert_close(crafted(part, generator), whole[part], rtol=0, atol=1e-6)
        assert state is None or torch.equal(generator.get_state(), state), "the next draws would differ"
        state = generator.get_state()


@pytest.mark.parametrize("name", ["flip", "shift", "flip+shift"])
def test_a_placement_does_not_depend_on_how_its_batch_is_cut(name: str) -> None:
    def placed(part: slice) -> Tensor:
        placement = AUGMENTATIONS[name]((9, 8, 8), torch.Generator().manual_seed(3), part)
        assert placement is not None
        return placement.origin

    assert torch.equal(torch.cat([placed(slice(0, 4)), placed(slice(4, 9))]), placed(slice(None)))


# -- trouble in one of them --------------------------------------------------------------------------------------------


def ran_out() -> None:
    raise MemoryError


@pytest.mark.parametrize("method", ["adv4adv", "atda"])
def test_memory_that_runs_out_in_one_process_halves_the_batches_of_all(method: str) -> None:
    """ATDA's processes exchange in the middle of a step, where the one that failed never comes."""

    def work(processes: Processes, unlucky: int = 1) -> dict[str, Any]:
        classifier = net()
        if processes.rank == unlucky:
            classifier.module[1] = Failing(ran_out, at=3)  # layouts and modes were tried in three passes before
        return trained(processes, method, classifier=classifier)

    answers = in_processes(3, work)
    assert_alike(answers)
    assert [answer["size"] for answer in answers] == [20, 20, 20]
    assert answers[0]["notes"] == ["memory ran out; training goes on with 20 images a step"]
    assert_same(answers[0], work(ALONE, unlucky=0))


class Full(nn.Module):
    """Runs out of memory for more images than fit in a training pass."""

    def __init__(self, fit: int) -> None:
        super().__init__()
        self.fit = fit

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > self.fit:
            raise MemoryError
        return images


@pytest.mark.parametrize("size", [1, 3])
def test_a_step_for_which_memory_ran_out_leaves_no_trace_in_running_statistics(size: int) -> None:
    """BatchNorm has moved before memory runs out in the last process, and the others have finished their passes."""

    def work(processes: Processes, batch_size: int = 40) -> dict[str, Any]:
        classifier = net(normalised=True)
        classifier.module[2] = Full((40 if size == 1 else 20) if processes.rank == size - 1 else 1000)
        return trained(processes, "sat", classifier=classifier, batch_size=batch_size)

    def smaller(processes: Processes) -> dict[str, Any]:
        return work(processes, batch_size=20)

    halved = in_processes(size, work) if size > 1 else [work(ALONE)]
    small = in_processes(size, smaller) if size > 1 else [smaller(ALONE)]
    assert halved[0]["notes"] == ["memory ran out; training goes on with 20 images a step"]
    assert small[0]["notes"] == []
    assert_alike([*halved, *small])


def test_what_a_failed_step_moved_is_put_back_in_network_and_defence() -> None:
    layer, defence = nn.BatchNorm2d(4), DEFENCES["atda"](DefenceContext(4, 0, torch.Generator()), DefenceSettings())
    layer.register_buffer("fixed", torch.ones(1).expand(3))  # cannot be written to
    before = {name: values.clone() for module in (layer, defence) for name, values in module.named_buffers()}
    reduction = Reduction(ALONE, layer, defence)
    for _ in range(2):
        reduction.begin(3)
        layer(torch.rand(3, 4, 5, 5))
        defence.centres.follow(torch.rand(3, 4), torch.tensor([0, 1, 1]))  # type: ignore[operator, union-attr]
        reduction.undo()
        for module in (layer, defence):
            for name, values in module.named_buffers():
                assert torch.equal(values, before[name]), name


def test_a_stop_that_one_process_hears_stops_all_and_any_number_goes_on(tmp_path: Path) -> None:
    kept = tmp_path / "checkpoint.pt"

    def work(processes: Processes) -> int:
        return stopped(processes, "adv4adv", source_attacks=("fgsm-ep",), checkpoint=kept)

    assert in_processes(2, work) == [4, 4]
    before = kept.read_bytes()
    expected = trained(ALONE, "adv4adv", source_attacks=("fgsm-ep",))
    for size in (1, 3):
        kept.write_bytes(before)

        def resumed(processes: Processes) -> dict[str, Any]:
            return trained(processes, "adv4adv", source_attacks=("fgsm-ep",), checkpoint=kept, resume=True)

        answers = in_processes(size, resumed) if size > 1 else [resumed(ALONE)]
        assert_alike(answers)
        assert_same(answers[0], expected)


def test_the_draws_of_dropout_differ_from_process_to_process_and_repeat() -> None:
    def work(processes: Processes) -> tuple[dict[str, Any], list[Tensor]]:
        seen: list[Tensor] = []
        classifier = net()
        classifier.module[1] = nn.Dropout(0.5)
        classifier.module[1].register_forward_hook(
            lambda module, inputs, output: seen.append(output[:4].detach() == 0) if module.training else None
        )
        return trained(processes, "nt", classifier=classifier, source_attacks=()), seen

    once, again = in_processes(2, work), in_processes(2, work)
    assert_alike([answer[0] for answer in once])
    assert_alike([once[0][0], again[0][0]])
    assert not torch.equal(once[0][1][-1], once[1][1][-1])


def test_a_process_that_is_gone_is_told_with_its_last_words() -> None:
    def work(processes: Processes) -> str:
        if processes.rank == 1:
            processes.last_words("its disk is full")
            os._exit(1)
        with pytest.raises(ProcessLostError) as lost:
            processes.sum(torch.ones(3))
        return lost.value.message

    assert in_processes(2, work) == ["process 1 of 0 to 1 ended: its disk is full", "gone"]


def test_one_that_is_killed_leaves_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harden.distributed.processes.FAREWELL_SECONDS", 0.2)

    def work(processes: Processes) -> str:
        if processes.leads:
            os._exit(1)
        with pytest.raises(ProcessLostError) as lost:
            processes.any(False)
        return lost.value.message

    assert in_processes(2, work) == ["gone", "another process of this run is gone (killed, or out of memory?)"]


def test_followers_hear_every_word_in_order_until_they_are_dismissed() -> None:
    def work(processes: Processes) -> list[str]:
        if processes.leads:
            processes.tell("first")
            processes.tell("second\nline")
            return []
        heard = []
        while (word := processes.hear()) is not None:
            heard.append(word)
        return heard

    assert in_processes(3, work) == [[], ["first", "second\nline"], ["first", "second\nline"]]


def test_pieces_are_taken_once_each_by_whoever_is_free() -> None:
    """One of them is held up by its first piece, and the others take the rest."""

    def work(processes: Processes) -> list[list[int]]:
        taken = []
        for count in (12, 3):
            mine = []
            for number in processes.claims(count):
                mine.append(number)
                time.sleep(1.0 if processes.rank == 1 else 0.01)
            processes.meet()
            taken.append(mine)
        return taken

    answers = in_processes(3, work)
    for nth, count in enumerate((12, 3)):
        assert sorted(number for answer in answers for number in answer[nth]) == list(range(count))
    assert len(answers[1][0]) <= 2
    assert list(ALONE.claims(4)) == [0, 1, 2, 3]


def test_rows_are_united_bit_for_bit_whatever_the_others_hold() -> None:
    values = torch.tensor([-0.0, torch.inf, torch.nan, -1e-45, 3.0])
    counts = torch.tensor([2**62, -1, 0, 7, 5])

    def work(processes: Processes) -> tuple[Tensor, Tensor]:
        own = torch.tensor([0, 1, 1, 0, 2]) == processes.rank
        mine, numbers = torch.where(own, values, 9.0), torch.where(own, counts, 9)
        processes.unite(own, mine, numbers)
        return mine, numbers

    for mine, numbers in in_processes(2, work):
        assert mine.view(torch.int32)[:4].equal(values.view(torch.int32)[:4])
        assert (mine[4], numbers.tolist()) == (0, [2**62, -1, 0, 7, 0])


def test_bytes_of_any_length_come_from_each_and_values_from_the_leader() -> None:
    said = (b"", b"a word", bytes(range(256)))

    def work(processes: Processes) -> tuple[list[bytes], list[int], str]:
        spread = processes.spread(torch.full((2,), processes.rank)).tolist()
        return processes.gather(said[processes.rank]), spread, processes.as_leader(lambda: f"from {processes.rank}")

    assert in_processes(3, work) == [(list(said), [0, 0], "from 0")] * 3


def test_one_that_waits_for_the_others_can_be_stopped() -> None:
    def work(processes: Processes) -> str:
        if not processes.leads:
            while True:
                try:
                    processes.require_leader()
                except ProcessLostError as lost:
                    return lost.message
                time.sleep(0.01)

        def stop() -> None:
            raise Interrupted("stopped")

        try:
            processes.meet(stop)
        except Interrupted as stopped:
            processes.dismiss()
            return stopped.message
        return "met"

    assert in_processes(2, work) == ["stopped", "the leader of this run has ended"]


# -- who they are ------------------------------------------------------------------------------------------------------


def test_parts_are_the_whole_once_and_nearly_equal() -> None:
    for size in (1, 2, 3, 7):
        parts = [Processes(rank, size).part(23) for rank in range(size)]
        assert [row for part in parts for row in range(23)[part]] == list(range(23))
        counts = [part.stop - part.start for part in parts]
        assert max(counts) - min(counts) <= 1


def test_the_seat_is_what_torchrun_says() -> None:
    assert seat_in({}) is None
    assert seat_in({"RANK": "0", "WORLD_SIZE": "1"}) is None
    several = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert seat_in(several) == Seat(5, 8, 1, 4)
    for wrong in ({"RANK": "8"}, {"LOCAL_RANK": "4"}, {"WORLD_SIZE": "many"}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            seat_in({**several, **wrong})


def test_a_step_with_too_few_images_for_all_is_an_error_with_the_repair() -> None:
    with pytest.raises(UsageError, match="3 processes cannot share a step of 5 images") as error:
        trainer(Processes(0, 3), "nt", source_attacks=(), batch_size=5)
    assert error.value.hint is not None
    assert "--batch-size 6" in error.value.hint


def test_steps_that_were_halved_are_not_shared_by_more_processes_than_they_have_images_for(tmp_path: Path) -> None:
    kept = tmp_path / "checkpoint.pt"
    first = trainer(ALONE, "nt", source_attacks=(), batch_size=8, checkpoint=kept)
    first.batches.size = 4
    first._save()

    def resumed(processes: Processes) -> int:
        training = trainer(processes, "nt", source_attacks=(), batch_size=8, checkpoint=kept)
        training._load(torch.load(kept, weights_only=True))
        return training.batches.size

    assert in_processes(2, resumed) == [4, 4]

    def refused(processes: Processes) -> str:
        with pytest.raises(UsageError, match="3 processes cannot share a step of 4 images") as error:
            trainer(processes, "nt", source_attacks=(), batch_size=8, checkpoint=kept).run(resume=True)
        return str(error.value.hint)

    assert in_processes(3, refused) == ["--processes 2 or fewer"] * 3
