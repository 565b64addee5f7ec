"""`fit` end to end, in this process: what is written, what is read, and what a run that died ends in."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import load_file

from harden.errors import DataError, HardenError, Interrupted, ModelError, PreflightError, RunFolderError, UsageError
from harden.recipe import read_recipe, resolve
from harden.training.canary import Collapse
from harden.training.history import EpochRecord, History
from harden.workflows.audit import overfitted
from harden.workflows.defaults import default_batch_size
from harden.workflows.fit import FitResult, _execute, fit, follow, resume
from harden.workflows.prepare import ModelSpec
from harden.workflows.report import report
from harden.workflows.run_folder import RunFolder
from harden.workflows.settings import FitSettings
from harden.workflows.side_by_side import ReportSettings
from tests.conftest import MakeImages

from .builders import Notebook, Workshop, build, trained


def settings(shop: Workshop, **changes: Any) -> FitSettings:
    base: dict[str, Any] = {
        "model": str(shop.pickled),
        "data": str(shop.data),
        "epochs": 3,
        "eps": 0.03,
        "batch_size": 20,
        "attacks": ("fgsm", "pgd-20"),
        "ema": 0.9,
        "audit_samples": 30,
    }
    return FitSettings(**{**base, **changes})


def run(
    wanted: FitSettings, out: Path, notebook: Notebook | None = None, stop: Callable[[], bool] = lambda: False
) -> FitResult:
    return fit(
        wanted, out=out, dry_run=False, narrator=notebook or Notebook(), stop_requested=stop, command="harden fit"
    )


def go_on(out: Path, stop: Callable[[], bool] = lambda: False) -> FitResult:
    folder = RunFolder(out)
    wanted = resolve(read_recipe(folder.recipe), {})
    return resume(folder, wanted, narrator=Notebook(), stop_requested=stop, command="harden fit")


def after(steps: int) -> Callable[[], bool]:
    left = iter(range(steps))
    return lambda: next(left, None) is None


def same(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(settings(workshop), out)
    return out


# -- what a run leaves -------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_everything(finished: Path, workshop: Workshop) -> None:
    names = {entry.name for entry in finished.iterdir()}
    assert names == {
        "architecture",
        "checkpoint.pt",
        "config.json",
        "initial.safetensors",
        "metrics.jsonl",
        "model.safetensors",
        "recipe.toml",
        "report.html",
        "report.json",
        "report.md",
        "report.xml",
        "splits.json",
    }
    before, after_ = load_file(finished / "initial.safetensors"), load_file(finished / "model.safetensors")
    assert before.keys() == after_.keys() == workshop.module.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in workshop.module.state_dict().items())
    assert any(not torch.equal(before[name], after_[name]) for name in before)
    config = json.loads((finished / "config.json").read_text())
    assert config["classes"] == ["a", "b", "c"]
    assert config["input_size"] == [3, 16, 16]
    assert config["training"]["method"] == "adv4adv"
    assert config["training"]["split"]
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert config["training"]["chosen_epoch"] in (1, 2, 3)
    splits = json.loads((finished / "splits.json").read_text())
    files = [splits[name]["files"] for name in ("train", "val", "test")]
    assert [len(f) for f in files] == [108, 12, 36]
    assert len({file for listed in files for file in listed}) == 156
    assert all(file.startswith("test/") for file in files[2])


def test_the_recipe_is_complete(finished: Path, workshop: Workshop) -> None:
    recipe = resolve(read_recipe(finished / "recipe.toml"), {})
    assert recipe.epochs == 3
    assert recipe.budget is None
    assert recipe.split
    assert recipe.pretrain == 0
    assert recipe.augment == "flip+shift"
    unset = {f.name for f in dataclasses.fields(recipe) if getattr(recipe, f.name) is None}
    assert unset == {
        "arch",
        "class_map",
        "class_order",
        "gray_bits",
        "mean",
        "std",
        "image_size",
        "budget",
        "max_clean_drop",
        "shared_trunk",
    }


def test_the_report_labels_what_was_seen(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert [result["model"] for result in report["results"]] == ["before", "adv4adv"]
    text = (finished / "report.json").read_text()
    assert "training" in text
    assert "selection" in text


def test_the_model_reads_back_as_what_was_audited(finished: Path) -> None:
    folder = RunFolder(finished)
    hardened, initial = folder.load_classifier(), folder.load_classifier(initial=True)
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(hardened(images), initial(images))
    assert not hardened.training


def test_a_state_dict_with_an_arch_is_the_same_model(finished: Path, workshop: Workshop, tmp_path: Path) -> None:
    run(settings(workshop, model=str(workshop.weights), arch=workshop.arch), tmp_path / "run")
    assert same(tmp_path / "run", finished)
    assert (tmp_path / "run" / "architecture" / "net.py").read_text() == (workshop.root / "net.py").read_text()


# -- stopped and killed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 7])
def test_ctrl_c_and_resume(steps: int, finished: Path, workshop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(settings(workshop), out, stop=after(steps))
    with pytest.raises(RunFolderError, match="not finished"):
        RunFolder(out).load_classifier()
    with pytest.raises(RunFolderError):
        run(settings(workshop), out)
    go_on(out)
    assert same(out, finished)
    assert (out / "report.html").exists()
    with pytest.raises(RunFolderError, match="finished"):
        go_on(out)


@pytest.mark.parametrize("at", ["run folder", "Plan", "epoch 2", "chose epoch", "Final audit"])
def test_killed_at_any_moment(at: str, finished: Path, workshop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    wanted = settings(workshop, model=str(workshop.weights), arch=workshop.arch)
    with pytest.raises(SystemExit):
        run(wanted, out, Notebook(dies_at=at))
    go_on(out)
    assert same(out, finished)


@pytest.mark.parametrize("at", ["run folder", "Clean pre-training", "epoch 1", "Plan"])
def test_killed_around_the_pre_training(at: str, pretrained: Path, workshop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit):
        run(settings(workshop, model=workshop.arch, pretrain=2, epochs=1), out, Notebook(dies_at=at))
    go_on(out)
    assert (out / "initial.safetensors").read_bytes() == (pretrained / "initial.safetensors").read_bytes()
    assert same(out, pretrained)


@pytest.fixture(scope="module")
def pretrained(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "pretrained"
    run(settings(workshop, model=workshop.arch, pretrain=2, epochs=1), out)
    return out


def test_pre_training_starts_from_given_weights(workshop: Workshop, tmp_path: Path) -> None:
    """Weights and --pretrain: killed before the first checkpoint, the weights must not be forgotten."""
    wanted = settings(workshop, model=str(workshop.weights), arch=workshop.arch, pretrain=1, epochs=1)
    run(wanted, tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(wanted, tmp_path / "killed", Notebook(dies_at="run folder"))
    go_on(tmp_path / "killed")
    assert same(tmp_path / "killed", tmp_path / "whole")


def test_pre_training_leaves_a_model_that_was_trained_cleanly(pretrained: Path) -> None:
    assert not (pretrained / "pretraining.pt").exists()
    report = json.loads((pretrained / "report.json").read_text())
    assert report["results"][0]["model"] == "before"


def test_a_stop_in_the_final_audit_is_heard(workshop: Workshop, finished: Path, tmp_path: Path) -> None:
    notebook = Notebook()
    with pytest.raises(Interrupted):
        run(settings(workshop), tmp_path / "run", notebook, stop=lambda: "Final audit" in notebook.lines)
    assert not (tmp_path / "run" / "report.json").exists()
    go_on(tmp_path / "run")
    assert same(tmp_path / "run", finished)
    assert (tmp_path / "run" / "report.json").exists()


def test_the_code_may_change_while_the_run_goes_on(workshop: Workshop, tmp_path: Path) -> None:
    """Hours of training must not be lost in the final audit because somebody edited the --arch file."""
    code = tmp_path / "net.py"
    code.write_text((workshop.root / "net.py").read_text())

    class Editing(Notebook):
        def note(self, text: str) -> None:
            super().note(text)
            if text == "Final audit":
                code.write_text("raise RuntimeError('edited')")

    wanted = settings(workshop, model=str(workshop.weights), arch=f"{code}:net", epochs=1)
    assert run(wanted, tmp_path / "run", Editing()).report is not None


# -- the data ----------------------------------------------------------------------------------------------------------


def test_test_images_are_opened_for_the_final_audit_only(workshop: Workshop, make_images: MakeImages) -> None:
    data = make_images(workshop.root / "secret", train=40, test=4)
    images = sorted((data / "test").rglob("*.png"))
    kept = [path.read_bytes() for path in images]
    for path in images:
        path.write_bytes(b"no image")

    class Unlocking(Notebook):
        def note(self, text: str) -> None:
            super().note(text)
            if text == "Final audit":
                for path, content in zip(images, kept, strict=True):
                    path.write_bytes(content)

    wanted = settings(workshop, data=str(data), epochs=1)
    result = run(wanted, workshop.root / "secret-run", Unlocking())
    assert result.report is not None
    dry = fit(wanted, out=None, dry_run=True, narrator=Notebook(), stop_requested=lambda: False, command="harden fit")
    assert (dry.run, dry.report) == (None, None)


def listed(folder: Path) -> tuple[list[str], list[str]]:
    lines = (folder / "unreadable.txt").read_text().splitlines()
    files, reasons = zip(*(line.split(": ", 1) for line in lines), strict=True)
    return list(files), list(reasons)


def test_every_unreadable_file_is_listed(workshop: Workshop, make_images: MakeImages, tmp_path: Path) -> None:
    data = make_images(workshop.root / "damaged", train=40, test=4)
    for index in range(7):
        (data / "train" / "a" / f"broken-{index}.png").write_bytes(b"no image")
    (data / "test" / "b" / "broken.png").write_bytes(b"no image")
    notebook = Notebook()
    fit(
        settings(workshop, data=str(data)),
        out=None,
        dry_run=True,
        narrator=notebook,
        stop_requested=lambda: False,
        command="",
    )
    assert any("broken-0.png" in warning and "and 2 more" in warning for warning in notebook.warnings)
    notebook = Notebook()
    result = run(settings(workshop, data=str(data), epochs=1, audit_samples=None), tmp_path / "run", notebook)
    names, reasons = listed(tmp_path / "run")
    assert names == ["test/b/broken.png", *(f"train/a/broken-{index}.png" for index in range(7))]
    assert all(reasons)
    assert str(tmp_path / "run" / "unreadable.txt") in notebook.text
    assert result.report is not None
    assert "Left out: 8 unreadable image files, listed in unreadable.txt." in result.report.caveats
    found, folder = report(
        ReportSettings(spec=ModelSpec(model=str(tmp_path / "run")), attacks=("fgsm",)),
        out=None,
        narrator=Notebook(),
        command="",
    )
    assert listed(folder)[0] == names[:1]
    assert "Left out: 1 unreadable image file, listed in unreadable.txt." in found.caveats


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = Notebook()
    before = workshop.pickled.read_bytes()
    for changes in ({}, {"epochs": None, "budget": 120.0}):
        fit(
            settings(workshop, **changes),
            out=tmp_path / "run",
            dry_run=True,
            narrator=notebook,
            stop_requested=lambda: False,
            command="",
        )
    assert list(tmp_path.iterdir()) == []
    assert workshop.pickled.read_bytes() == before
    plan = dict(notebook.tables[-1])  # type: ignore[arg-type]
    for what in ("passes per step", "time per step", "estimated time", "epochs"):
        assert plan[what], what
    assert "2F+2B" in plan["passes per step"]
    assert "1F+1b" in plan["passes per step"]
    assert "eps 0.03" in notebook.text


def test_a_budget_that_cannot_hold_the_pre_training_is_told_before_anything_is_trained(
    workshop: Workshop, tmp_path: Path
) -> None:
    notebook = Notebook()
    # A million epochs: too many for five seconds on any machine, whatever a step takes there.
    wanted = settings(workshop, model=workshop.arch, epochs=None, pretrain=1_000_000, budget=5.0)
    with pytest.raises(UsageError, match="clean pre-training, one epoch and the audit need"):
        run(wanted, tmp_path / "run", notebook)
    assert "Clean pre-training" not in notebook.lines
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("images", "size"), [(50, 32), (2000, 32), (2560, 64), (6000, 128), (54_000, 256)])
def test_the_default_batch_size(images: int, size: int) -> None:
    assert default_batch_size(images) == size


@pytest.mark.parametrize(
    ("images", "epochs", "size"), [(55_000, 30, 256), (45_000, 6, 128), (45_000, 2, 64), (3_000, 1, 64), (500, 1, 32)]
)
def test_short_trainings_take_smaller_batches(images: int, epochs: int, size: int) -> None:
    assert default_batch_size(images, epochs) == size


# -- the preflight -----------------------------------------------------------------------------------------------------


def test_permuted_outputs_are_found_and_the_class_map_repairs_them(workshop: Workshop, tmp_path: Path) -> None:
    order = (2, 0, 1)
    path = tmp_path / "permuted.pt"
    torch.save(trained(workshop.data, order), path)
    with pytest.raises(PreflightError) as caught:
        run(settings(workshop, model=str(path)), tmp_path / "run")
    assert caught.value.hint == "--class-map 2,0,1"
    assert not (tmp_path / "run").exists()
    result = run(settings(workshop, model=str(path), class_map=order, epochs=1), tmp_path / "run")
    assert result.report is not None
    assert result.report.results[0].clean_accuracy().value > 0.8
    assert json.loads((tmp_path / "run" / "config.json").read_text())["classes"] == ["b", "c", "a"]


def test_a_model_that_knows_nothing_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    path = tmp_path / "random.pt"
    torch.save(build().eval(), path)
    with pytest.raises(PreflightError):
        run(settings(workshop, model=str(path)), tmp_path / "run")
    with pytest.raises(ModelError, match="pretrain"):
        run(settings(workshop, model=workshop.arch, pretrain=0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_given_normalisation_is_used(workshop: Workshop, tmp_path: Path) -> None:
    notebook = Notebook()
    wanted = settings(workshop, mean=(0.0,), std=(1.0,))
    fit(wanted, out=None, dry_run=True, narrator=notebook, stop_requested=lambda: False, command="")
    assert "normalisation: given" in notebook.text


# -- further ---------------------------------------------------------------------------------------------------------


def test_a_run_can_be_hardened_further(finished: Path, workshop: Workshop, tmp_path: Path) -> None:
    run(settings(workshop, model=str(finished), method="sat", epochs=1), tmp_path / "run")
    assert (tmp_path / "run" / "initial.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_a_damaged_run_is_told_as_such(workshop: Workshop, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(settings(workshop), out, stop=after(2))
    (out / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(RunFolderError, match="checkpoint"):
        go_on(out)
    (out / "splits.json").write_text("{")
    with pytest.raises(RunFolderError, match="splits"):
        go_on(out)


@pytest.mark.parametrize(
    "damage",
    [
        lambda config: [],
        lambda config: {"version": 1},
        lambda config: {**config, "origin": {"kind": "pickled"}},
        lambda config: {**config, "normalisation": None},
        lambda config: {**config, "classes": 3},
        lambda config: {**config, "training": "done"},
    ],
)
def test_a_damaged_config_is_told_as_such(
    damage: Callable[[Any], Any], workshop: Workshop, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "report.json").unlink()
    (out / "config.json").write_text(json.dumps(damage(json.loads((out / "config.json").read_text()))))
    with pytest.raises(RunFolderError) as caught:
        go_on(out)
    assert caught.value.hint
    with pytest.raises(RunFolderError):
        RunFolder(out).load_classifier()


@pytest.mark.parametrize("method", ["nt", "sat", "adv4adv-star"])
def test_the_other_methods(method: str, workshop: Workshop, tmp_path: Path) -> None:
    result = run(settings(workshop, method=method, epochs=1, gamma=0.5), tmp_path / "run")
    assert result.report is not None
    assert result.report.results[-1].model == method


def test_a_tracker_hears_what_metrics_jsonl_holds_once_each_also_where_the_run_was_stopped(
    finished: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[tuple[str, int], float] = {}
    service = SimpleNamespace(
        set_experiment=lambda name: None,
        start_run=lambda run_name: None,
        log_params=lambda settings: None,
        log_metrics=lambda figures, step: told.update({(name, step): value for name, value in figures.items()}),
        end_run=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "mlflow", service)
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(settings(workshop, track=("mlflow",)), out, stop=after(7))
    go_on(out)
    assert same(out, finished)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert told == {(name, line["epoch"]): value for line in lines for name, value in line["scalars"].items()}


def test_a_run_whose_tracker_is_gone_is_resumed_without_it(
    finished: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", MagicMock())
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(settings(workshop, track=("mlflow",)), out, stop=after(7))
    monkeypatch.setitem(sys.modules, "mlflow", None)  # type: ignore[arg-type]
    go_on(out)
    assert same(out, finished)


def test_a_tracker_that_is_not_installed_stops_before_anything_is_made(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="wandb"):
        run(settings(workshop, track=("wandb",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_follower_trains_with_the_static_networks_of_its_leader_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    job: Any = SimpleNamespace(
        statics=(build(),),
        settings=FitSettings(model="m", data="d", method="eat"),
        budget=None,
        processes=SimpleNamespace(tell=told.append, hear=lambda stop: told[0]),
    )
    joined = MagicMock(return_value=None)
    monkeypatch.setattr("harden.workflows.fit.train", MagicMock(side_effect=Interrupted("stopped")))
    monkeypatch.setattr("harden.workflows.fit.join_training", joined)
    monkeypatch.setattr("harden.workflows.fit.with_statics", lambda job: job)
    monkeypatch.setattr("harden.workflows.fit.replace", lambda job, **changes: job)
    monkeypatch.setattr("harden.workflows.fit.reopened", lambda run, settings, *others, **more: job)
    with pytest.raises(Interrupted):
        _execute(RunFolder(tmp_path / "run"), job)
    follow(job.processes, stop_requested=lambda: False)
    assert joined.call_args.args[0].path == tmp_path / "run"
    joined.reset_mock()
    with torch.no_grad():
        next(job.statics[0].parameters()).view(-1)[0] += 1e-3
    with pytest.raises(UsageError, match="static networks are not those of process 0"):
        follow(job.processes, stop_requested=lambda: False)
    joined.assert_not_called()


def test_moved_data_is_an_error_with_a_hint(workshop: Workshop, make_images: MakeImages, tmp_path: Path) -> None:
    data = make_images(tmp_path / "imgs", train=40, test=4)
    with pytest.raises(Interrupted):
        run(settings(workshop, data=str(data)), tmp_path / "run", stop=after(2))
    data.rename(tmp_path / "elsewhere")
    with pytest.raises((DataError, HardenError)) as caught:
        go_on(tmp_path / "run")
    assert caught.value.hint


def test_a_report_on_a_training_that_overfitted_says_so() -> None:
    sound = EpochRecord(1, 1.0, ("fgsm",), {})
    caught = EpochRecord(2, 1.0, ("fgsm",), {}, rolled_back=True, collapse=Collapse.CATASTROPHIC_OVERFITTING)
    assert overfitted(None) == overfitted(History((sound,))) == ()
    (caveat,) = overfitted(History((sound, caught, sound)))
    assert "epoch 2" in caveat
    assert "AutoAttack" in caveat
