"""What is done with a finished run: export, report, and the runs that are harder to open again."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import harden.workflows.export as export_module
from harden.audit import runner
from harden.audit.diagnostics import CHECKS
from harden.cli.app import program
from harden.errors import ExportError, Interrupted, ModelError, RunFolderError, UsageError
from harden.export.to_onnx import save_onnx
from harden.models.classifier import Classifier
from harden.workflows.export import export
from harden.workflows.export_subject import ExportSettings
from harden.workflows.fit import fit
from harden.workflows.inspect import inspect
from harden.workflows.prepare import ModelSpec
from harden.workflows.report import report
from harden.workflows.settings import FitSettings
from harden.workflows.side_by_side import ReportSettings

from .builders import NET, Notebook, Workshop, trained


def quick(shop: Workshop, out: Path, **changes: Any) -> Path:
    base: dict[str, Any] = {
        "model": str(shop.pickled),
        "data": str(shop.data),
        "epochs": 1,
        "eps": 0.03,
        "batch_size": 40,
        "attacks": ("fgsm",),
        "audit_samples": 12,
    }
    fit(
        FitSettings(**{**base, **changes}),
        out=out,
        dry_run=False,
        narrator=Notebook(),
        stop_requested=lambda: False,
        command="harden fit",
    )
    return out


@pytest.fixture(scope="module")
def finished(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quick(workshop, tmp_path_factory.mktemp("runs") / "run")


class OwnNet(nn.Module):
    """A class that no allow-list knows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


def test_what_could_not_be_opened_again_is_refused_before_any_training(workshop: Workshop, tmp_path: Path) -> None:
    """A trusted pickle of the user's own class cannot be kept safely; nothing is left behind."""
    torch.save(OwnNet(copy.deepcopy(workshop.module)), tmp_path / "own.pt")
    with pytest.raises(ModelError) as caught:
        quick(workshop, tmp_path / "run", model=str(tmp_path / "own.pt"), trust_pickle=True)
    assert "--arch" in (caught.value.hint or "")
    assert not (tmp_path / "run").exists()


def test_a_budget_that_holds_nothing_leaves_nothing(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="budget"):
        quick(workshop, tmp_path / "run", epochs=None, budget=0.01)
    assert not (tmp_path / "run").exists()


def test_a_wrong_onnx_file_is_rejected_with_exit_code_5(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exporter is made to write another model; the file, its runtime and the comparison are real."""

    def wrong(classifier: Classifier, path: Path, metadata: Any, *, opset: int) -> int:
        other = copy.deepcopy(classifier)
        with torch.no_grad():
            next(other.module.parameters()).add_(0.05)
        return save_onnx(other, path, metadata, opset=opset)

    monkeypatch.setattr(export_module, "save_onnx", wrong)
    with pytest.raises(SystemExit) as caught:
        program()(["export", str(finished), "--to", "onnx", "--out", str(tmp_path / "files")])
    assert caught.value.code == 5
    assert "does not agree" in " ".join(capfd.readouterr().err.split())
    assert [entry.name for entry in (tmp_path / "files").iterdir()] == ["model.onnx.rejected"]


def test_an_exact_agreement_cannot_be_asked_of_onnx(finished: Path, tmp_path: Path) -> None:
    settings = ExportSettings(spec=ModelSpec(model=str(finished)), formats=("onnx",), tolerance=0.0)
    with pytest.raises(ExportError, match="does not agree"):
        export(settings, out=tmp_path, narrator=Notebook())


def test_a_model_that_is_no_run_is_exported_with_its_found_normalisation(workshop: Workshop, tmp_path: Path) -> None:
    settings = ExportSettings(
        spec=ModelSpec(model=str(workshop.weights), arch=workshop.arch),
        formats=("onnx", "safetensors"),
        data=str(workshop.data),
    )
    found = export(settings, out=tmp_path / "files", narrator=Notebook())
    assert all(parity.holds for item in found for parity in item.parities)
    assert {parity.kind for parity in found[0].parities} == {"clean", "adversarial"}


def test_reports_stand_beside_each_other_and_never_replace(
    finished: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ReportSettings(spec=ModelSpec(model=str(finished)), attacks=("fgsm",), samples=12)
    folders = [report(settings, out=None, narrator=Notebook(), command="")[1] for _ in range(2)]
    assert folders == [finished / "audit", finished / "audit-2"]
    spec = ModelSpec(model=str(workshop.weights), arch=workshop.arch)
    other = ReportSettings(spec=spec, data=str(workshop.data), against=(str(finished),), attacks=("fgsm",), samples=12)
    found, folder = report(other, out=None, narrator=Notebook(), command="")
    assert folder == Path("weights-report")
    assert [result.model for result in found.results] == ["run", "weights.pth"]
    with pytest.raises(UsageError):
        report(
            ReportSettings(spec=spec, data=str(workshop.data), against=("initial",)),
            out=None,
            narrator=Notebook(),
            command="",
        )


def test_few_images_are_held_against_the_number(finished: Path, tmp_path: Path) -> None:
    fitted = json.loads((finished / "report.json").read_text())["results"]
    assert [len(result["checks"]) for result in fitted] == [0, len(CHECKS)]  # the model before is not checked in a fit
    assert "12 images" in next(c for c in fitted[1]["checks"] if c["name"] == "number of images")["finding"]
    spec = ModelSpec(model=str(finished))
    few = ReportSettings(spec=spec, attacks=("fgsm",), samples=15)
    found, _ = report(few, out=tmp_path / "few", narrator=Notebook(), command="")
    assert "15 images" in next(c for c in found.subject.checks if c.name == "number of images").finding


def test_inspect_a_run_and_a_model_without_data(finished: Path, workshop: Workshop) -> None:
    whole = inspect(ModelSpec(model=str(finished)), data=None, narrator=Notebook())
    assert whole.default is not None
    assert whole.default.point.layer in {point.layer for point in whole.points}
    alone = inspect(ModelSpec(model=str(workshop.pickled), image_size=16), data=None, narrator=Notebook())
    assert alone.parameters == whole.parameters
    assert alone.classifier.input_size == (3, 16, 16)
    widths = {point.layer: point.width for point in alone.points}
    assert widths["0"] == 8 * 8 * 8
    assert widths["5"] == 16


@pytest.mark.parametrize(
    "arguments", [("inspect",), ("export", "--to", "safetensors"), ("report", "--attacks", "fgsm")]
)
def test_every_command_takes_the_repair_that_the_preflight_offers(
    arguments: tuple[str, ...],
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(trained(workshop.data, (2, 0, 1)), "permuted.pt")
    command, *rest = arguments
    line = [command, "permuted.pt", "--data", str(workshop.data), *rest]
    with pytest.raises(SystemExit) as caught:
        program()(line)
    assert caught.value.code == (0 if command == "inspect" else 1)  # inspect has layers to show all the same
    hint = capfd.readouterr().err.split("--class-map")[1].split()[:1]
    assert hint == ["2,0,1"]
    hint = ["--class-map", *hint]
    with pytest.raises(SystemExit) as caught:
        program()([*line, *hint])
    assert caught.value.code == 0


def test_a_network_without_gradients_is_audited_by_its_scores(workshop: Workshop, tmp_path: Path) -> None:
    """A threshold inside cuts the graph: no traceback, but a black-box audit that says so."""
    code = (
        "import torch\n"
        "from torch import nn\n"
        f"{NET}\n"
        "class Cut(nn.Module):\n"
        "    def __init__(self, num_classes=3, in_channels=3):\n"
        "        super().__init__()\n"
        "        self.inner = net(num_classes, in_channels)\n"
        "    def forward(self, x):\n"
        "        return self.inner(x.detach())\n"
    )
    (tmp_path / "cut.py").write_text(code)
    weights = {f"inner.{key}": value for key, value in workshop.module.state_dict().items()}
    torch.save(weights, tmp_path / "cut.pth")
    spec = ModelSpec(model=str(tmp_path / "cut.pth"), arch=f"{tmp_path / 'cut.py'}:Cut")
    notebook = Notebook()
    settings = ReportSettings(spec=spec, data=str(workshop.data), attacks=("square",), eps=0.05, samples=12)
    found, folder = report(settings, out=tmp_path / "report", narrator=notebook, command="")
    assert not found.subject.differentiable
    assert [outcome.name for outcome in found.subject.outcomes] == ["Square"]
    assert any("no gradients" in warning for warning in notebook.warnings)
    assert (folder / "report.html").exists()
    assert not (folder / "progress").exists()
    with pytest.raises(UsageError, match="gives no gradients"):
        report(replace(settings, attacks=("pgd-20",)), out=tmp_path / "other", narrator=Notebook(), command="")


def test_a_report_is_never_written_over_another(finished: Path, tmp_path: Path) -> None:
    settings = ReportSettings(spec=ModelSpec(model=str(finished)), attacks=("fgsm",), samples=12)
    _, folder = report(settings, out=tmp_path / "one", narrator=Notebook(), command="")
    before = (folder / "report.json").read_bytes()
    for taken in (folder, finished):
        with pytest.raises(RunFolderError, match="holds a report already"):
            report(settings, out=taken, narrator=Notebook(), command="")
    assert (folder / "report.json").read_bytes() == before


def test_an_audit_that_was_stopped_goes_on_in_the_same_folder(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the second attack: the first one is kept, found again without --out, and cleared away in the end."""

    class Impatient(Notebook):
        def progress(self, task: str, done: int, total: int, detail: str = "") -> None:
            if detail == "PGD-10":
                raise KeyboardInterrupt

    settings = ReportSettings(spec=ModelSpec(model=str(finished)), attacks=("fgsm", "pgd-10"), samples=12)
    with pytest.raises(Interrupted) as caught:
        report(settings, out=None, narrator=Impatient(), command="")
    (kept,) = finished.glob("audit*/progress")
    assert str(kept.parent) in (caught.value.hint or "")
    assert len(list(kept.glob("*.json"))) == 1
    asked: list[str] = []
    honest = runner.attack_images

    def heard(*arguments: Any, **named: Any) -> Any:
        asked.append(arguments[2].name)
        return honest(*arguments, **named)

    monkeypatch.setattr(runner, "attack_images", heard)
    found, folder = report(settings, out=None, narrator=Notebook(), command="")
    assert asked == ["PGD-10"]
    assert folder == kept.parent
    assert not kept.exists()
    assert [outcome.name for outcome in found.subject.outcomes] == ["FGSM", "PGD-10"]
