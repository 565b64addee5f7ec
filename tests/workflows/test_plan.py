"""What a time budget buys: the plan as a pure function of measured times."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harden.attacks import attack_names
from harden.errors import UsageError
from harden.training.settings import TrainingSettings
from harden.workflows.plan import SMALLEST_AUDIT, SMALLEST_SELECTION, Plan, Timing, best_parts, make_plan

SETTINGS = TrainingSettings(epochs=1, batch_size=64, lr=1e-3, eps=0.1, source_attacks=("fgsm",))
TIMINGS = st.builds(Timing, st.floats(1e-4, 2.0), st.floats(1e-6, 0.05))
BUDGETS = st.floats(1.0, 20_000.0)


def plan(
    timing: Timing,
    *,
    budget: float | None,
    epochs: int | None = None,
    pretraining: float = 0.0,
    audit_samples: int | None = None,
    settings: TrainingSettings = SETTINGS,
    parts: int = 1,
    withstood: float = 0.0,
) -> Plan:
    return make_plan(
        timing,
        train_images=6_400,
        val_images=1_000,
        test_images=2_000,
        settings=settings,
        attacks=attack_names(("full",)),
        epochs=epochs,
        budget=budget,
        audit_samples=audit_samples,
        epoch_parts=parts,
        pretraining=pretraining,
        withstood=withstood,
    )


@given(TIMINGS, BUDGETS, st.floats(0, 500))
def test_a_plan_ends_within_its_budget(timing: Timing, budget: float, pretraining: float) -> None:
    try:
        found = plan(timing, budget=budget, pretraining=pretraining)
    except UsageError:
        assume(False)
    assert found.epochs >= 1
    assert found.seconds <= budget
    assert found.pretraining == pretraining
    assert SMALLEST_AUDIT <= found.audit_samples <= 2_000
    assert SMALLEST_SELECTION <= found.selection_samples <= 1_000


@given(TIMINGS, BUDGETS, st.floats(1.0, 4.0))
def test_a_longer_budget_buys_no_smaller_samples_and_a_refused_one_can_only_be_too_short(
    timing: Timing, budget: float, factor: float
) -> None:
    try:
        short = plan(timing, budget=budget)
    except UsageError:
        assume(False)
    long = plan(timing, budget=budget * factor)
    assert long.audit_samples >= short.audit_samples
    assert long.selection_samples >= short.selection_samples


@given(TIMINGS, st.integers(1, 50))
def test_without_a_budget_everything_that_was_asked_for_is_done(timing: Timing, epochs: int) -> None:
    found = plan(timing, budget=None, epochs=epochs)
    assert (found.epochs, found.steps_per_epoch) == (epochs, 100)
    assert (found.selection_samples, found.audit_samples) == (1_000, 2_000)
    assert found.epoch_seconds > 100 * timing.step


def test_pre_training_is_paid_from_the_budget() -> None:
    timing = Timing(step=0.05, attack_pass=1e-4)
    with_it = plan(timing, budget=300.0, pretraining=100.0)
    assert with_it.epochs < plan(timing, budget=300.0).epochs
    with pytest.raises(UsageError, match="pre-training"):
        plan(timing, budget=100.0, pretraining=100.0)


def test_training_without_adversarial_examples_pays_for_no_attacks_but_those_of_the_audit() -> None:
    timing = Timing(step=0.05, attack_pass=1e-3)
    clean = plan(timing, budget=None, epochs=3, settings=replace(SETTINGS, source_attacks=()))
    assert clean.epoch_seconds == pytest.approx(100 * timing.step)
    assert clean.finish_seconds < plan(timing, budget=None, epochs=3).finish_seconds


def test_a_model_that_was_hardened_before_is_audited_at_full_length_twice() -> None:
    timing = Timing(step=0.05, attack_pass=1e-3)
    once = plan(timing, budget=None, epochs=3)
    twice = plan(timing, budget=None, epochs=3, withstood=0.75)
    # PGD-40 and the rest of "full" take over 300 gradient passes, of which three quarters of the images pay.
    assert twice.finish_seconds - once.finish_seconds > 100 * timing.attack_pass * once.audit_samples
    assert plan(timing, budget=900.0, withstood=0.75).audit_samples < plan(timing, budget=900.0).audit_samples
    assert plan(timing, budget=900.0, withstood=0.75).seconds <= 900.0


def test_an_audit_of_a_stated_size_is_kept_whatever_the_budget() -> None:
    timing = Timing(step=0.01, attack_pass=1e-4)
    assert plan(timing, budget=600.0, audit_samples=1_500).audit_samples == 1_500
    assert plan(timing, budget=600.0, audit_samples=9_999).audit_samples == 2_000


@given(TIMINGS, BUDGETS)
def test_parts_of_a_pass_use_a_budget_that_whole_ones_would_waste(timing: Timing, budget: float) -> None:
    def made(parts: int) -> Plan:
        return plan(timing, budget=budget, parts=parts)

    try:
        whole: Plan | None = made(1)
    except UsageError:
        whole = None
    try:
        found = best_parts(made, steps=100)
    except UsageError:
        assert whole is None
        return
    assert found.seconds <= budget
    assert found.steps_per_epoch == 100 // found.epoch_parts >= 20
    if whole is not None:
        assert found.epochs / found.epoch_parts >= 0.9 * whole.epochs
        if found.epoch_parts > 1:
            assert found.epochs / found.epoch_parts > whole.epochs


def test_a_budget_for_a_pass_and_a_half_buys_three_halves() -> None:
    timing = Timing(step=1.0, attack_pass=1e-4)
    found = best_parts(lambda parts: plan(timing, budget=230.0, parts=parts), steps=100)
    assert (found.epochs, found.epoch_parts, found.steps_per_epoch) == (3, 2, 50)
