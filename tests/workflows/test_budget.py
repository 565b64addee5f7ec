"""A time budget across a stop and a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harden.errors import Interrupted, RunFolderError, UsageError
from harden.recipe import read_recipe, resolve
from harden.workflows import budget as budget_module
from harden.workflows.budget import KEEP_SECONDS, Budget
from harden.workflows.fit import FitResult, fit, resume
from harden.workflows.run_folder import RunFolder
from harden.workflows.settings import FitSettings

from .builders import Notebook, Workshop

SECONDS = 600.0


def begin(shop: Workshop, out: Path, notebook: Notebook, stop: Callable[[], bool] = lambda: False, **more: Any) -> None:
    wanted: dict[str, Any] = {"model": str(shop.pickled), "data": str(shop.data), "budget": SECONDS}
    wanted |= {"eps": 0.03, "batch_size": 20, "attacks": ("fgsm",), "method": "sat"}
    fit(
        FitSettings(**{**wanted, **more}),
        out=out,
        dry_run=False,
        narrator=notebook,
        stop_requested=stop,
        command="harden fit",
    )


def go_on(out: Path, notebook: Notebook, stop: Callable[[], bool] = lambda: False) -> FitResult:
    run = RunFolder(out)
    wanted = resolve(read_recipe(run.recipe), {})
    return resume(run, wanted, narrator=notebook, stop_requested=stop, command="")


def after(steps: int) -> Callable[[], bool]:
    left = iter(range(steps))
    return lambda: next(left, None) is None


def spend(out: Path, seconds: float) -> None:
    path = RunFolder(out).budget
    path.write_text(json.dumps({**json.loads(path.read_text()), "spent": seconds}))


def test_only_the_time_that_the_run_runs_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(budget_module.time, "monotonic", lambda: now)
    path = tmp_path / "budget.json"
    first = Budget(path, 100.0, began=now, attack_pass=0.5, finish_seconds=7.0)
    now += KEEP_SECONDS / 2
    first.tick()
    assert not path.exists(), "not at every step"
    now += 30.0
    first.tick()
    now += 500.0  # the pause
    second = Budget.read(path, began=now)
    assert (second.seconds, second.attack_pass, second.finish_seconds) == (100.0, 0.5, 7.0)
    assert second.deadline - now == pytest.approx(100.0 - 30.0 - KEEP_SECONDS / 2)
    now += 10.0
    second.keep()
    now += 5000.0
    assert Budget.read(path, began=now).deadline - now == pytest.approx(60.0 - KEEP_SECONDS / 2)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"seconds": "x"}'])
def test_a_damaged_budget_is_told_as_such(text: str, tmp_path: Path) -> None:
    (tmp_path / "budget.json").write_text(text)
    with pytest.raises(RunFolderError, match="budget"):
        Budget.read(tmp_path / "budget.json", began=0.0)


def test_a_resumed_run_plans_again_within_what_is_left(workshop: Workshop, tmp_path: Path) -> None:
    """The plan was for hundreds of epochs; with the budget spent there is time for no more than the one begun."""
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        begin(workshop, out, Notebook(), stop=after(3))
    planned = read_recipe(out / "recipe.toml")["epochs"]
    assert planned > 20
    assert json.loads((out / "budget.json").read_text())["spent"] < SECONDS / 2
    spend(out, SECONDS)
    notebook = Notebook()
    result = go_on(out, notebook, stop=after(100))
    assert "1 epochs fit into the budget" in notebook.text
    assert (out / "recipe.toml").read_text().startswith("# A budget of 10 min 0 s chose the epochs")
    assert read_recipe(out / "recipe.toml")["epochs"] == 1
    config = json.loads((out / "config.json").read_text())
    assert (config["training"]["epochs"], config["training"]["budget"]) == (1, SECONDS)
    assert result.report is not None
    assert "as many as fit into 10 min 0 s" in dict(result.report.facts)["schedule"]


def test_killed_before_its_first_checkpoint_it_still_has_a_budget(workshop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit):
        begin(workshop, out, Notebook(dies_at="Hardening"))
    planned = read_recipe(out / "recipe.toml")["epochs"]
    spend(out, SECONDS * 0.9)
    with pytest.raises(Interrupted):
        go_on(out, Notebook(), stop=after(3))
    assert 1 <= read_recipe(out / "recipe.toml")["epochs"] < planned / 2
    assert json.loads((out / "budget.json").read_text())["spent"] > SECONDS * 0.9


def test_a_budget_that_was_spent_before_training_began_can_be_raised(workshop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit):
        begin(workshop, out, Notebook(dies_at="Hardening"))
    spend(out, SECONDS)
    with pytest.raises(UsageError, match="does not hold one epoch") as caught:
        go_on(out, Notebook())
    assert "budget.json" in (caught.value.hint or "")


def test_a_run_of_so_many_epochs_keeps_no_budget(workshop: Workshop, tmp_path: Path) -> None:
    begin(workshop, tmp_path / "run", Notebook(), budget=None, epochs=1, audit_samples=12)
    assert not (tmp_path / "run" / "budget.json").exists()
    assert not (tmp_path / "run" / "recipe.toml").read_text().startswith("#")
