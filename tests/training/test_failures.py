"""The ways in which adversarial training fails, provoked, and what the trainer does about them in every method."""

from __future__ import annotations

import pytest
import torch

from harden.data import ImageSet
from harden.defences import DEFENCES, SOURCES, DefenceContext, DefenceSettings
from harden.training.canary import Collapse
from harden.training.history import EpochRecord

from .test_loop import OVERFIT, collapsing, digits, trainer

VAL = digits(1000, 1300)


def series(records: tuple[EpochRecord, ...], name: str) -> list[float]:
    return [record.scalars[name] for record in records if name in record.scalars]


def test_sat_from_fgsm_at_a_large_radius_becomes_robust_to_fgsm_alone_and_the_canary_hears_it() -> None:
    """Kept going on purpose: accuracy under FGSM rises, under PGD-10 there is none."""
    settings = {"epochs": 13, "eps": 0.4, "train": digits(0, 900), "val": VAL}
    records = trainer("sat", on_collapse="keep", **settings).run().history.epochs
    last = records[-1].scalars
    assert last["val_source"] > 0.2
    assert last["val_canary"] < 0.02
    heard = [record.epoch for record in records if record.collapse is Collapse.CATASTROPHIC_OVERFITTING]
    assert heard
    assert heard[0] > 4  # not before the ramp of eps is over, when nothing is robust yet

    switched = trainer("sat", on_collapse="switch", **settings).run()
    records = switched.history.epochs
    at = next(record.epoch for record in records if record.event)
    assert at == heard[0]
    assert "N-FGSM" in records[at - 1].event
    assert records[at - 1].rolled_back
    assert records[at].sources == "nfgsm"
    assert switched.source_attacks == ("fgsm", "nfgsm")
    assert switched.history.chosen_epoch != at


def test_robust_overfitting_is_left_at_its_best_epoch() -> None:
    """A quarter of the labels is wrong: as they are learnt by heart, held-out robustness falls and training's rises."""
    train, draws = digits(0, 200), torch.Generator().manual_seed(0)
    wrong = torch.rand(200, generator=draws) < 0.25
    shifted = (train.labels + torch.randint(1, 10, (200,), generator=draws)) % 10
    noisy = ImageSet(train.images, torch.where(wrong, shifted, train.labels), train.files)
    run = trainer("sat", epochs=24, eps=0.06, lr=0.03, source_attacks=("mim",), train=noisy, val=VAL, ema=0.5)
    trained = run.run()
    robust, fitted = (series(trained.history.epochs, name) for name in ("val_robust", "train_accuracy_adv"))
    assert max(robust) - robust[-1] > 0.08
    assert fitted[-1] > fitted[robust.index(max(robust))]
    assert trained.history.chosen_epoch is not None
    chosen = robust[trained.history.chosen_epoch - 1]
    assert chosen >= sorted(robust)[-3]  # one of the three best, among which a stronger attack decides
    assert trained.confirmation is not None
    assert trained.confirmation > robust[-1]


@pytest.mark.parametrize("method", [name for name in DEFENCES if name != "nt"])
def test_every_method_survives_a_collapse(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary's figures of the second epoch are made up; all else is real."""
    collapsing(monkeypatch, {2}, OVERFIT)
    sources = SOURCES.get(method, ("fgsm-ep",))
    context = DefenceContext(10, 32, torch.Generator().manual_seed(7))
    defence = DEFENCES[method](context, DefenceSettings(beta=1.0, gamma=0.5))
    run = trainer("adv4adv", defence=defence, epochs=4, source_attacks=sources)
    trained = run.run()
    records = trained.history.epochs
    assert [record.rolled_back for record in records] == [False, True, False, False]
    assert trained.history.chosen_epoch != 2
    if sources == ("pgd",):  # N-FGSM would be no cure for a multi-step attack
        assert [record.sources for record in records] == ["pgd"] * 4
        assert run.strength == 0.5
        assert "halved" in records[1].event
    else:
        assert [record.sources for record in records] == ["fgsm-ep", "fgsm-ep", "nfgsm", "fgsm-ep"]
        assert run.strength == 1.0


def test_of_several_sources_only_the_single_steps_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    collapsing(monkeypatch, {2}, OVERFIT)
    context = DefenceContext(10, 32, torch.Generator().manual_seed(7), sources=2)
    defence = DEFENCES["adv4adv"](context, DefenceSettings(beta=1.0))
    run = trainer("adv4adv", defence=defence, epochs=4, source_attacks=("fgsm", "mim"))
    records = run.run().history.epochs
    assert [r.sources for r in records] == ["fgsm + mim", "fgsm + mim", "nfgsm + mim", "fgsm + mim"]


def test_the_gap_of_nfgsm_is_that_of_fgsm(monkeypatch: pytest.MonkeyPatch) -> None:
    """N-FGSM's examples lie outside the ball and are harder than PGD's inside: its own gap would say nothing."""
    run = trainer("sat", source_attacks=("nfgsm",), epochs=2, train=digits(0, 400), val=VAL)
    records = run.run().history.epochs
    assert records[-1].scalars["val_source"] >= records[-1].scalars["val_canary"]
