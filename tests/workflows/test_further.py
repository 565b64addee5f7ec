"""Runs that know of each other: one hardened further from another, and several on the same images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harden.errors import DataError, UsageError
from harden.recipe import read_recipe, resolve
from harden.workflows import hardening
from harden.workflows.examine import probes_of
from harden.workflows.export import export
from harden.workflows.export_subject import ExportSettings
from harden.workflows.fit import fit, resume
from harden.workflows.plan import CHECK_GRADIENTS
from harden.workflows.prepare import ModelSpec
from harden.workflows.report import report
from harden.workflows.run_folder import RunFolder
from harden.workflows.settings import FitSettings
from harden.workflows.side_by_side import ReportSettings
from tests.conftest import MakeImages

from .builders import Notebook, Workshop, trained


def quick(model: Path, data: Path, out: Path, notebook: Notebook | None = None, **changes: Any) -> RunFolder:
    wanted = FitSettings(
        model=str(model), data=str(data), epochs=1, eps=0.03, batch_size=30, attacks=("fgsm", "pgd-10"), method="sat"
    )
    fit(
        replace(wanted, **changes),
        out=out,
        dry_run=False,
        narrator=notebook or Notebook(),
        stop_requested=lambda: False,
        command="harden fit",
    )
    return RunFolder(out)


def files(run: RunFolder) -> dict[str, set[str]]:
    return {name: set(run.read_json(run.splits)[name]["files"]) for name in ("train", "val", "test")}


@pytest.fixture(scope="module")
def unsplit(workshop: Workshop, make_images: MakeImages) -> Path:
    """Images without a test folder: each run holds out its own."""
    return make_images(workshop.root / "unsplit", all=30, seed=5)


@pytest.fixture(scope="module")
def first(workshop: Workshop, unsplit: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return quick(workshop.pickled, unsplit, tmp_path_factory.mktemp("further") / "first")


@pytest.fixture(scope="module")
def second(workshop: Workshop, unsplit: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return quick(workshop.pickled, unsplit, tmp_path_factory.mktemp("further") / "second", seed=1)


# -- whose test images -------------------------------------------------------------------------------------------------


def test_runs_are_compared_on_images_that_none_of_them_trained_on(
    first: RunFolder, second: RunFolder, tmp_path: Path
) -> None:
    settings = ReportSettings(spec=ModelSpec(model=str(first.path)), against=(str(second.path),), attacks=("fgsm",))
    found, _ = report(settings, out=tmp_path / "report", narrator=Notebook(), command="")
    common = files(first)["test"] & files(second)["test"]
    assert 0 < len(common) < len(files(first)["test"]), "the seeds hold out different images"
    assert all(set(result.files) == common for result in found.results)
    left_out = len(files(first)["test"]) - len(common)
    assert any(caveat.startswith(f"{left_out} of the 14 test images of first are left out") for caveat in found.caveats)
    assert dict(found.facts)["images"] == "test images that first, second have in common"


def test_a_model_beside_a_run_is_audited_on_the_test_images_of_the_run(
    first: RunFolder, workshop: Workshop, unsplit: Path, tmp_path: Path
) -> None:
    settings = ReportSettings(
        spec=ModelSpec(model=str(workshop.pickled)), data=str(unsplit), against=(str(first.path),), attacks=("fgsm",)
    )
    found, _ = report(settings, out=tmp_path / "report", narrator=Notebook(), command="")
    assert set(found.subject.files) == files(first)["test"]


def test_runs_without_a_common_test_image_cannot_stand_side_by_side(
    first: RunFolder, second: RunFolder, tmp_path: Path
) -> None:
    other = RunFolder(tmp_path / "other")
    shutil.copytree(second.path, other.path)
    plan = second.read_splits()
    held_out = set(first.read_splits().test)
    kept = tuple(entry for entry in plan.test if entry not in held_out)
    rest = tuple(entry for entry in plan.test if entry in held_out)
    other.write_json(other.splits, replace(plan, test=kept, train=(*plan.train, *rest)).to_json())
    settings = ReportSettings(spec=ModelSpec(model=str(first.path)), against=(str(other.path),), attacks=("fgsm",))
    with pytest.raises(DataError, match="no test image in common") as caught:
        report(settings, out=tmp_path / "report", narrator=Notebook(), command="")
    assert "one by one" in (caught.value.hint or "")


def test_a_test_image_that_is_gone_does_not_let_training_images_in(
    workshop: Workshop, make_images: MakeImages, tmp_path: Path
) -> None:
    data = make_images(tmp_path / "imgs", all=30)
    run = quick(workshop.pickled, data, tmp_path / "run")
    gone = sorted(files(run)["test"])[0]
    (data / gone).unlink()
    settings = ReportSettings(spec=ModelSpec(model=str(run.path)), attacks=("fgsm",))
    found, _ = report(settings, out=tmp_path / "report", narrator=Notebook(), command="")
    assert set(found.subject.files) == files(run)["test"] - {gone}


def test_a_run_that_is_hardened_further_keeps_its_splits_whatever_the_seed(
    first: RunFolder, unsplit: Path, tmp_path: Path
) -> None:
    notebook = Notebook()
    further = quick(first.path, unsplit, tmp_path / "further", notebook, seed=1)
    assert files(further) == files(first)
    assert "the splits are those of the earlier run" in notebook.text
    report_of_run = json.loads((further.path / "report.json").read_text())
    assert "those of the earlier run" in dict(report_of_run["facts"])["splits"]


def test_on_other_images_the_splits_are_drawn_anew(first: RunFolder, make_images: MakeImages, tmp_path: Path) -> None:
    data = make_images(tmp_path / "others", all=12, seed=7)
    notebook = Notebook()
    further = quick(first.path, data, tmp_path / "further", notebook)
    assert sum(map(len, files(further).values())) == 36
    assert "drawn anew" in notebook.text


# -- what the model has met --------------------------------------------------------------------------------------------


def labels(folder: Path, number: int) -> dict[str, str]:
    result = json.loads((folder / "report.json").read_text())["results"][number]
    return {outcome["name"]: outcome["exposure"] for outcome in result["outcomes"]}


def test_what_an_earlier_run_met_stays_met(first: RunFolder, unsplit: Path, tmp_path: Path) -> None:
    """Clean training after a run on FGSM examples does not make FGSM unseen, nor does a third run."""
    second = quick(first.path, unsplit, tmp_path / "second", method="nt")
    seen = {"FGSM": "seen in training", "PGD-10": "seen in selection"}
    assert labels(first.path, 0) == dict.fromkeys(seen, "unseen")
    assert labels(first.path, 1) == labels(second.path, 0) == labels(second.path, 1) == seen
    third = quick(second.path, unsplit, tmp_path / "third", source_attack=("rfgsm",))
    assert labels(third.path, 0) == labels(third.path, 1) == seen
    assert third.read_json(third.config)["training"]["source_attacks"] == ["fgsm-ep", "rfgsm"]
    settings = ReportSettings(spec=ModelSpec(model=str(third.path)), against=("initial",), attacks=("fgsm", "pgd-10"))
    report(settings, out=tmp_path / "report", narrator=Notebook(), command="")
    assert labels(tmp_path / "report", 0) == seen


def test_a_resumed_run_still_knows_what_the_earlier_one_met(first: RunFolder, unsplit: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        quick(first.path, unsplit, tmp_path / "run", Notebook(dies_at="epoch 1"), method="nt")
    run = RunFolder(tmp_path / "run")
    resume(
        run,
        resolve(read_recipe(run.recipe), {}),
        narrator=Notebook(),
        stop_requested=lambda: False,
        command="",
    )
    assert labels(run.path, 0) == labels(run.path, 1) == {"FGSM": "seen in training", "PGD-10": "seen in selection"}


def test_the_plan_reckons_with_how_much_the_model_before_withstands(
    workshop: Workshop, unsplit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever trained it: what stands costs the audit every step of every attack. The times are made up to compare."""
    monkeypatch.setattr(hardening, "time_step", lambda *arguments: (0.01, 6))
    monkeypatch.setattr(hardening, "time_attack_pass", lambda *arguments: 0.01)

    def finish(eps: float) -> float:
        wanted = FitSettings(model=str(workshop.pickled), data=str(unsplit), epochs=1, batch_size=30, eps=eps)
        found = fit(wanted, out=None, dry_run=True, narrator=Notebook(), stop_requested=lambda: False, command="")
        assert found.plan is not None
        # The checks are of the model after, and take the same whatever it was before.
        return found.plan.finish_seconds - 0.01 * CHECK_GRADIENTS * probes_of(found.plan.audit_samples)

    stands, falls = finish(0.001), finish(0.2)
    assert stands > 1.3 * falls


# -- what a run folder settles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["fit", "report", "export"])
def test_what_a_run_settles_cannot_be_said_again(command: str, first: RunFolder, unsplit: Path, tmp_path: Path) -> None:
    stated: dict[str, Any] = {"mean": (0.5,), "std": (0.5,), "class_map": (2, 0, 1), "image_size": 32}
    spec = ModelSpec(model=str(first.path), **stated)
    calls: dict[str, Callable[[], object]] = {
        "fit": lambda: quick(first.path, unsplit, tmp_path / "run", **stated),
        "report": lambda: report(ReportSettings(spec=spec), out=tmp_path / "out", narrator=Notebook(), command=""),
        "export": lambda: export(
            ExportSettings(spec=spec, formats=("onnx",), anyway=True), out=tmp_path, narrator=Notebook()
        ),
    }
    with pytest.raises(UsageError, match="--class-map, --mean, --std, --image-size would say"):
        calls[command]()
    assert not list(tmp_path.iterdir())


def test_what_is_said_of_the_model_beside_a_run_is_heard(first: RunFolder, workshop: Workshop, tmp_path: Path) -> None:
    spec = ModelSpec(model=str(first.path), mean=(0.0,), std=(1.0,))
    settings = ReportSettings(spec=spec, against=(str(workshop.pickled),), attacks=("fgsm",))
    notebook = Notebook()
    report(settings, out=tmp_path / "report", narrator=notebook, command="")
    assert "normalisation: given" in notebook.text


def test_a_further_run_of_a_model_with_permuted_outputs_can_be_repeated_from_its_recipe(
    workshop: Workshop, tmp_path: Path
) -> None:
    """Its classes come from the run before, so that the recipe has no class map to be refused."""
    permuted = tmp_path / "permuted.pt"
    torch.save(trained(workshop.data, (2, 0, 1)), permuted)
    one = quick(permuted, workshop.data, tmp_path / "one", class_map=(2, 0, 1))
    two = quick(one.path, workshop.data, tmp_path / "two")
    fit(
        resolve(read_recipe(two.recipe), {}),
        out=tmp_path / "three",
        dry_run=False,
        narrator=Notebook(),
        stop_requested=lambda: False,
        command="",
    )
    assert (tmp_path / "three" / "model.safetensors").read_bytes() == two.weights.read_bytes()
