"""What training looks at, what it ships, and its rate after a collapse: each read where it happens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from harden.data import ImageSet
from harden.training import loop
from harden.training.canary import Vitals
from harden.training.loop import Trainer

from .test_loop import OVERFIT, VAL, BreaksOnce, collapsing, digits, trainer


def test_the_canary_is_measured_on_validation_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []
    measure = loop.vitals_of

    def noted(classifier: Any, images: ImageSet, **options: Any) -> Vitals:
        seen.append(images.files)
        return measure(classifier, images, **options)

    monkeypatch.setattr(loop, "vitals_of", noted)
    trainer("sat", epochs=2).run()
    assert seen == [VAL.files] * 2
    seen.clear()
    many = digits(1000, 1000 + 2 * loop.SMALL_SELECTION)
    trainer("sat", epochs=1, val=many).run()
    assert seen == [many.files[::2]]


def states(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Note the averaged and the raw weights at the end of every epoch."""
    noted: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    finish = Trainer._finish_epoch

    def watched(self: Trainer) -> None:
        noted.append((copy.deepcopy(self.averaged.state_dict()), copy.deepcopy(self.classifier.state_dict())))
        finish(self)

    monkeypatch.setattr(Trainer, "_finish_epoch", watched)
    return noted


@pytest.mark.parametrize("method", ["nt", "sat"])
def test_the_averaged_weights_of_the_chosen_epoch_are_shipped_and_not_the_raw_ones(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    noted = states(monkeypatch)
    run = trainer(method, epochs=3, source_attacks=() if method == "nt" else ("fgsm",))
    trained = run.run()
    assert trained.history.chosen_epoch is not None
    averaged, raw = noted[trained.history.chosen_epoch - 1]
    shipped = run.classifier.state_dict()
    assert shipped.keys() == averaged.keys()
    assert all(torch.equal(shipped[name], averaged[name]) for name in averaged)
    floating = [name for name, value in raw.items() if value.is_floating_point() and value.numel() > 1]
    moving = [name for name in floating if not torch.equal(averaged[name], raw[name])]
    assert any("weight" in name for name in moving)
    assert not any(torch.equal(shipped[name], raw[name]) for name in moving)


def rates(run: Trainer) -> list[float]:
    """Note the learning rate of every group of the optimiser at each step that it takes."""
    noted: list[float] = []
    step = run.optimizer.step

    def watched() -> None:
        (rate,) = {group["lr"] for group in run.optimizer.param_groups}
        noted.append(rate)
        step()

    run.optimizer.step = watched  # type: ignore[assignment]
    return noted


def test_the_optimiser_goes_on_at_half_the_rate_after_a_collapse() -> None:
    run = trainer("sat", epochs=4, defence=BreaksOnce(14))
    noted, steps = rates(run), run.batches.steps
    trained = run.run()
    assert [record.rolled_back for record in trained.history.epochs] == [False, True, False, False]
    planned = [run.schedule.lr_at((i + 0.5) / (4 * steps)) for i in range(4 * steps)]
    assert noted[: 2 * steps] == pytest.approx(planned[: 2 * steps])
    assert noted[2 * steps :] == pytest.approx([rate / 2 for rate in planned[2 * steps :]])


def test_the_optimiser_keeps_its_rate_where_another_source_attack_is_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    collapsing(monkeypatch, {2}, OVERFIT)
    run = trainer("sat", epochs=4)
    noted, steps = rates(run), run.batches.steps
    run.run()
    assert noted == pytest.approx([run.schedule.lr_at((i + 0.5) / (4 * steps)) for i in range(4 * steps)])
