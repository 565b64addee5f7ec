"""Which epoch is shipped: ranking, the allowed clean drop, and the stronger attack's last word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harden.attacks import ATTACKS
from harden.data import ImageSet
from harden.distributed import Processes
from harden.models.classifier import Classifier
from harden.training import selection as module
from harden.training.evaluate import predictions, standing_after
from harden.training.selection import SELECTION_ATTACK, Selection, confirmation_attack

from .test_loop import EPS, VAL, net, trainer

START = 0.9


def graded(
    monkeypatch: pytest.MonkeyPatch, clean: list[float], robust: list[float], stronger: list[float] | None = None
) -> None:
    """Let the classifier whose first weight is k, as epoch k + 1, score clean[k], robust[k] and stronger[k]."""

    def number(classifier: Classifier) -> int:
        return round(float(next(classifier.parameters()).detach().flatten()[0]))

    def fake_predictions(classifier: Classifier, images: ImageSet, processes: Processes) -> Tensor:
        right = torch.arange(len(images)) < round(clean[number(classifier)] * len(images))
        return torch.where(right, images.labels, (images.labels + 1) % 10)

    def fake_standing(classifier: Classifier, images: ImageSet, attack: Any, *, standing: Tensor, **_: Any) -> Tensor:
        figures = robust if stronger is None or attack == ATTACKS[SELECTION_ATTACK](EPS) else stronger
        return standing & (torch.arange(len(standing)) < round(figures[number(classifier)] * len(standing)))

    monkeypatch.setattr(module, "predictions", fake_predictions)
    monkeypatch.setattr(module, "standing_after", fake_standing)


def selected(epochs: int, limit: float | None = None) -> Selection:
    found, classifier = Selection(VAL, eps=EPS, max_clean_drop=limit, seed=0), net()
    found.clean_at_start = START
    for k in range(epochs):
        with torch.no_grad():
            next(classifier.parameters()).flatten()[0] = k
        measured = found.consider(k + 1, classifier)
        assert set(measured) == {"val_clean", "val_robust"}
    return found


@pytest.mark.parametrize(("limit", "expected"), [(None, 4), (0.31, 3), (0.1, 2), (0.01, 1)])
def test_max_clean_drop_keeps_to_eligible_epochs(
    limit: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded(monkeypatch, [0.9, 0.85, 0.6, 0.5], [0.1, 0.2, 0.4, 0.5])
    choice = selected(4, limit).choose(net())
    assert choice is not None
    assert (choice.epoch, choice.within_drop) == (expected, True)
    assert round(float(choice.weights["module.0.weight"].flatten()[0])) == expected - 1


def test_where_no_epoch_keeps_to_it_the_smallest_drops_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    graded(monkeypatch, [0.4, 0.7, 0.5, 0.6, 0.3], [0.2] * 5)
    found = selected(5, 0.05)
    assert [candidate["epoch"] for candidate in found.candidates] == [2, 4, 3]
    choice = found.choose(net())
    assert choice is not None
    assert not choice.within_drop


def test_an_epoch_within_the_drop_beats_a_stronger_one_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    graded(monkeypatch, [0.88, 0.5], [0.1, 0.5])
    choice = selected(2, 0.05).choose(net())
    assert choice is not None
    assert (choice.epoch, choice.confirmation) == (1, pytest.approx(0.1, abs=0.01))


def test_the_stronger_attack_decides_among_the_best_three(monkeypatch: pytest.MonkeyPatch) -> None:
    graded(monkeypatch, [0.9] * 4, [0.3, 0.5, 0.6, 0.55], [0.29, 0.45, 0.033, 0.4])
    choice = selected(4).choose(net())
    assert choice is not None
    assert choice.epoch == 2
    assert choice.confirmation == pytest.approx(0.45, abs=0.01)


def test_of_equal_epochs_the_later_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    graded(monkeypatch, [0.9] * 5, [0.5] * 5)
    assert [candidate["epoch"] for candidate in selected(5).candidates] == [5, 4, 3]


def test_nothing_to_choose() -> None:
    assert Selection(VAL, eps=EPS, max_clean_drop=None, seed=0).choose(net()) is None


def test_a_real_choice_is_the_best_under_both_attacks() -> None:
    run = trainer("sat", epochs=3)
    trained = run.run()
    worst = {}
    for candidate in run.selection.candidates:
        classifier = net()
        classifier.load_state_dict(candidate["weights"])
        standing = predictions(classifier.eval(), VAL) == VAL.labels
        for attack in (ATTACKS[SELECTION_ATTACK](EPS), confirmation_attack(EPS)):
            standing = standing_after(classifier, VAL, attack, standing=standing, seed=0)
        worst[candidate["epoch"]] = float(standing.float().mean())
    assert trained.confirmation == max(worst.values()) == worst[trained.history.chosen_epoch]  # type: ignore[index]
