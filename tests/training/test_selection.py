"""Selection never prefers an epoch whose clean accuracy is at chance, whatever withstands its attacks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harden.models.classifier import Classifier
from harden.training.evaluate import vitals_of
from harden.training.selection import Selection

from .test_loop import VAL, net, of_digits, trainer


class Constant(nn.Module):
    """Answers 3 to everything, and withstands every attack."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = 0 * self.inside(images)
        return scores + 5 * torch.eye(10, device=images.device)[3]


def test_a_constant_answer_is_chosen_only_where_there_is_nothing_else() -> None:
    threes = VAL.subset(torch.nonzero(VAL.labels == 3).squeeze(1))
    mostly_threes = VAL.subset(torch.cat((torch.nonzero(VAL.labels == 3).squeeze(1), torch.arange(6))))
    run = trainer("sat", epochs=2)
    run.run()
    constant, useful = of_digits(Constant(net().module)).eval(), run.classifier
    assert len(threes) > 6
    selection = Selection(mostly_threes, eps=0.9, max_clean_drop=None, seed=0)
    selection.begin(useful)
    robust = selection.consider(1, constant)["val_robust"]
    assert robust > selection.consider(2, useful)["val_robust"]
    assert [candidate["epoch"] for candidate in selection.candidates] == [2, 1]
    assert chosen(selection, useful) == 2
    alone = Selection(mostly_threes, eps=0.9, max_clean_drop=0.1, seed=0)
    alone.begin(useful)
    alone.consider(1, constant)
    assert [candidate["epoch"] for candidate in alone.candidates] == [1]


def chosen(selection: Selection, averaged: Classifier) -> int:
    """Choose among candidates that all have the weights of `averaged`: their ranks alone decide."""
    for candidate in selection.candidates:
        candidate["weights"] = averaged.state_dict()
    choice = selection.choose(averaged)
    assert choice is not None
    return choice.epoch


def test_the_canary_measures_the_chance_of_the_answers() -> None:
    constant = of_digits(Constant(net().module)).eval()
    found = vitals_of(constant, VAL, first="fgsm", eps=0.1, loss=1.0, seed=0)
    share = float((VAL.labels == 3).float().mean())
    assert found.clean == found.canary == found.source
    assert found.chance == pytest.approx(found.clean)
    assert abs(found.clean - share) < 1e-6
    assert found.lead(10) == pytest.approx(0, abs=1e-6)
