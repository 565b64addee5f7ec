"""A budget is obeyed wherever a fit happens to be, refused early, and refused with one that would do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harden import stopping
from harden.data import open_data
from harden.data.dataset import Format
from harden.durations import as_typed, parse_duration
from harden.errors import BudgetError, Interrupted
from harden.models.preflight import preflight
from harden.workflows import budget as budget_module
from harden.workflows.budget import GRACE, Budget, time_limit
from harden.workflows.fit import fit
from harden.workflows.plan import FEWEST_TIMED, Plan, Timing, plan_within, refuse_early, seconds_per_image
from harden.workflows.settings import FitSettings

from .builders import Notebook, Workshop, build
from .test_plan import plan


def stop() -> None:
    raise Interrupted("stopped")


def asked(count: int) -> Any:
    """An answer that ends the work when it is asked for the last of `count` times."""
    left = iter(range(count - 1))

    def answer() -> None:
        if next(left, None) is None:
            stop()

    return answer


def test_what_is_held_is_not_asked_and_answers_end_with_their_context() -> None:
    stopping.ask()
    with stopping.asking(stop):
        with stopping.held():
            stopping.ask()
        with pytest.raises(Interrupted), stopping.asking(lambda: None):
            stopping.ask()
    stopping.ask()


def test_listing_and_decoding_ask_at_every_file(workshop: Workshop) -> None:
    with pytest.raises(Interrupted), stopping.asking(asked(5)):
        open_data(str(workshop.data))
    source = open_data(str(workshop.data))
    with pytest.raises(Interrupted), stopping.asking(asked(2)):
        source.fingerprint(source.listings["train"])
    seen: list[int] = []
    with pytest.raises(Interrupted), stopping.asking(asked(30)):
        source.decode(source.listings["train"], Format(3, (16, 16)), lambda done, total: seen.append(done))
    assert seen == [], "not one chunk was finished"


def test_the_preflight_asks_at_every_batch() -> None:
    module, images = build(), torch.rand(500, 3, 16, 16)
    calls: list[int] = []
    module.register_forward_hook(lambda *given: calls.append(1))
    labels = torch.arange(500) % 3
    with pytest.raises(Interrupted), stopping.asking(asked(3)):
        preflight(module, images=images, labels=labels, classes=("a", "b", "c"), given=None)
    assert len(calls) == 2


def test_a_budget_that_is_spent_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(budget_module.time, "monotonic", lambda: now)
    with time_limit(300.0, now - 100.0):
        now += 200.0
        stopping.ask()
        now += 300.0 * GRACE + 1
        with pytest.raises(BudgetError, match="the budget of 5 min 0 s was spent") as caught:
            stopping.ask()
    assert "--budget 10m" in (caught.value.hint or "")
    with time_limit(None, now - 1e6):
        stopping.ask()


def test_training_ends_where_the_audit_needs_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(budget_module.time, "monotonic", lambda: now)
    budget = Budget(tmp_path / "budget.json", 100.0, began=now, finish_seconds=20.0)
    now = 79.0
    assert not budget.training_is_over()
    assert budget.share_left() == 1.0
    budget.drift = 2.0
    assert budget.training_is_over()
    now = 90.0
    assert budget.share_left() == pytest.approx(0.25)


@pytest.mark.parametrize("spent", [0.0, 120.0])
@pytest.mark.parametrize("timing", [Timing(1.0, 0.01), Timing(0.01, 0.5), Timing(30.0, 1.0)])
def test_the_budget_that_is_named_would_do_and_a_smaller_one_would_not(timing: Timing, spent: float) -> None:
    def made(seconds: float) -> Plan:
        return plan(timing, budget=seconds)

    with pytest.raises(BudgetError) as caught:
        plan_within(made, budget=10.0, spent=spent)
    hint = caught.value.hint or ""
    named = parse_duration(hint.split("--budget ")[1].split(",")[0])
    assert as_typed(named) in hint
    assert made(named - spent).epochs >= 1
    with pytest.raises(BudgetError):
        made((named - spent) * 0.7)


def test_a_guess_refuses_only_what_half_of_it_could_not_do() -> None:
    def made(timing: Timing) -> Plan:
        return plan(timing, budget=300.0)

    refuse_early(made, Timing(3.0, 1e-4))  # 300 s for a pass, but half of that may be true
    with pytest.raises(BudgetError):
        refuse_early(made, Timing(9.0, 1e-4))


def test_few_images_of_a_slow_network_are_timed_and_many_of_a_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now, counts = 0.0, list[int]()
    monkeypatch.setattr("harden.workflows.plan.time.perf_counter", lambda: now)

    def run(count: int) -> None:
        nonlocal now
        now += seconds * count
        counts.append(count)

    seconds = 10.0
    assert seconds_per_image(run, 250, 2.0) == pytest.approx(10.0)
    assert counts == [FEWEST_TIMED]
    counts.clear()
    seconds = 1e-4
    assert seconds_per_image(run, 250, 2.0) == pytest.approx(1e-4)
    assert max(counts) == 250


def test_a_slow_network_is_refused_before_an_image_is_decoded(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(module: object, inputs: tuple[Tensor, ...], output: object) -> None:
        time.sleep(0.02 * len(inputs[0]))

    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: slow(module, inputs, output) if isinstance(module, torch.nn.Conv2d) else None
    )
    notebook = Notebook()
    settings = FitSettings(model=str(workshop.pickled), data=str(workshop.data), eps=0.03, method="sat", budget=60.0)
    try:
        with pytest.raises(BudgetError, match="does not hold one epoch") as caught:
            fit(
                settings,
                out=tmp_path / "run",
                dry_run=False,
                narrator=notebook,
                stop_requested=lambda: False,
                command="",
            )
    finally:
        hook.remove()
    assert "--budget" in (caught.value.hint or "")
    assert not notebook.tasks, "nothing was decoded"
    assert not (tmp_path / "run").exists()
