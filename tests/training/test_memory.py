"""The memory of FGSM-EP: what it keeps, where it puts it, and that a run with it is resumed exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harden.attacks import CRAFTERS, FGSM, FGSMEP, PGD, craft
from harden.errors import Interrupted, UsageError
from harden.models.classifier import Classifier
from harden.training import crafting, evaluate, memory
from harden.training.augment import AUGMENTATIONS
from harden.training.memory import LEVELS, Perturbations
from tests.attacks.nets import gen, held_out, trained_cnn

from .test_loop import EPS, OVERFIT, TRAIN, VAL, after, collapsing, figures, same_state, trainer


def test_without_a_memory_or_with_an_empty_one_a_whole_step_is_fgsm() -> None:
    images, labels = held_out(20)
    fgsm = craft(FGSM(eps=EPS), trained_cnn(), images, labels, generator=gen())
    whole = FGSMEP(eps=EPS, relative_step=1.0)
    assert torch.equal(craft(whole, trained_cnn(), images, labels, generator=gen()), fgsm)
    none = torch.zeros_like(images)
    assert torch.equal(craft(whole, trained_cnn(), images, labels, generator=gen(), last=none), fgsm)


def test_on_a_network_that_stands_still_the_epochs_are_the_steps_of_a_pgd() -> None:
    images, labels = held_out(20)
    attack, last = FGSMEP(eps=EPS, relative_step=0.25), torch.zeros_like(images)
    for _ in range(6):
        examples = craft(attack, trained_cnn(), images, labels, generator=gen(), last=last)
        last = examples - images
    pgd = craft(PGD(eps=EPS, iterations=6, relative_step=0.25), trained_cnn(), images, labels, generator=gen())
    assert ((examples - pgd).abs() > 1e-5).float().mean() <= 1e-3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), eps=st.floats(0.001, 0.5), name=st.sampled_from(sorted(AUGMENTATIONS)))
def test_what_is_kept_comes_back_to_its_place(seed: int, eps: float, name: str) -> None:
    draws = gen(seed)
    kept = Perturbations((9, 3, 8, 10))
    rows = torch.randperm(9, generator=draws)[:5]
    whole = (torch.rand(5, 3, 8, 10, generator=draws) * 2 - 1) * eps
    placement = AUGMENTATIONS[name]((5, 8, 10), draws, slice(None))
    moved = whole if placement is None else placement.moved(whole)
    kept.keep(rows, moved, eps, placement)
    seen = torch.ones_like(whole) if placement is None else placement.put_back(torch.ones_like(whole), 0 * whole)
    precision = 0.51 * eps / LEVELS
    assert ((kept.recall(rows, eps, None) - whole * seen).abs() <= precision).all()
    assert ((kept.recall(rows, eps, placement) - moved).abs() <= precision).all()
    others = torch.tensor(sorted(set(range(9)) - set(rows.tolist())))
    assert (kept.recall(others, eps, None) == 0).all()


def test_perturbations_grow_with_eps_and_nothing_is_kept_of_none() -> None:
    kept, rows = Perturbations((1, 1, 2, 2)), torch.tensor([0])
    kept.keep(rows, torch.full((1, 1, 2, 2), 0.05), 0.05, None)
    torch.testing.assert_close(kept.recall(rows, 0.1, None), torch.full((1, 1, 2, 2), 0.1))
    kept.keep(rows, torch.zeros(1, 1, 2, 2), 0.0, None)
    torch.testing.assert_close(kept.recall(rows, 0.1, None), torch.full((1, 1, 2, 2), 0.1))


def test_too_many_images_to_remember_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LARGEST", 100)
    with pytest.raises(UsageError, match="remember") as caught:
        trainer("sat", source_attacks=("fgsm-ep",))
    assert "nfgsm" in str(caught.value.hint)


@pytest.mark.parametrize("augment", ["none", "flip+shift"])
def test_a_resumed_run_remembers(augment: str, tmp_path: Path) -> None:
    changes = {"source_attacks": ("fgsm-ep",), "augment": augment, "epochs": 2}
    expected = trainer("sat", **changes)
    trained = expected.run()
    path = tmp_path / "checkpoint.pt"
    for number, steps in enumerate((4, 9)):
        with pytest.raises(Interrupted):
            trainer("sat", checkpoint=path, stop_requested=after(steps), **changes).run(resume=number > 0)
    again = trainer("sat", checkpoint=path, **changes)
    assert figures(again.run(resume=True).history.epochs) == figures(trained.history.epochs)
    assert same_state(again.classifier, expected.classifier)
    assert expected.crafting.memory is not None
    assert again.crafting.memory is not None
    assert torch.equal(again.crafting.memory.levels, expected.crafting.memory.levels)


def test_the_second_epoch_starts_where_the_first_one_ended_and_the_canary_hears_fgsm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: dict[int, Tensor] = {}
    honest = crafting.craft
    epoch = {"now": 0}
    heard: list[str] = []

    def watch(attack: FGSMEP, model: Classifier, images: Tensor, labels: Tensor, **options: Tensor) -> Tensor:
        assert attack.name == "FGSM-EP"
        starts.setdefault(epoch["now"], options["last"])
        return honest(attack, model, images, labels, **options)  # type: ignore[arg-type]

    accuracy = evaluate.source_accuracy

    def hear(classifier: Classifier, images: object, attack: FGSM, **options: Any) -> float:
        epoch["now"] += 1
        heard.append(attack.name)
        assert images is run.canary
        return accuracy(classifier, run.canary, attack, **options)

    monkeypatch.setattr(crafting, "craft", watch)
    monkeypatch.setattr(evaluate, "source_accuracy", hear)
    run = trainer("sat", source_attacks=("fgsm-ep",), epochs=2, eps_ramp=0.0, train=TRAIN, val=VAL)
    run.run()
    assert (starts[0] == 0).all()
    steps = CRAFTERS["fgsm-ep"](EPS).relative_step * EPS  # type: ignore[attr-defined]
    near = starts[1].abs()
    assert near.max() <= steps + EPS / LEVELS
    assert (near > 0.9 * steps).float().mean() > 0.3
    assert heard == ["FGSM", "FGSM"]


def test_without_labels_the_prediction_is_that_of_the_clean_image_wherever_the_last_example_was() -> None:
    """Where the last example fooled the network, the class predicted there would send the step back to the image."""
    images, labels = held_out(40)
    net, attack = trained_cnn(), FGSMEP(eps=0.2)
    last = craft(attack, net, images, labels, generator=gen()) - images
    with torch.no_grad():
        fooled = net(images + last).argmax(1) != labels
    assert fooled.any()
    unlabelled = craft(attack, net, images, None, generator=gen(), last=last)
    assert torch.equal(unlabelled, craft(attack, net, images, labels, generator=gen(), last=last))


def test_a_rollback_forgets_what_was_found_on_the_network_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    collapsing(monkeypatch, {2}, OVERFIT)
    seen: list[Tensor] = []
    honest = memory.Perturbations.recall

    def recall(self: Perturbations, *arguments: object) -> Tensor:
        seen.append(honest(self, *arguments))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(memory.Perturbations, "recall", recall)
    run = trainer("sat", source_attacks=("fgsm-ep",), epochs=4, eps_ramp=0.0)
    records = run.run().history.epochs
    assert [r.sources for r in records] == ["fgsm-ep", "fgsm-ep", "nfgsm", "fgsm-ep"]
    steps = run.batches.steps
    assert not any(last.any() for last in seen[:steps])
    assert any(last.any() for last in seen[steps : 2 * steps])
    assert not any(last.any() for last in seen[2 * steps :])
