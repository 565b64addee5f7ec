"""An export from its own folder: what harm is seen, what is uploaded, what timm and the card make of it."""

from __future__ import annotations

import json
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from harden.access import Access
from harden.audit.result import ImageOrigin
from harden.cli.app import program
from harden.data import open_data
from harden.errors import ExportError, RunFolderError, UsageError
from harden.export import any_size
from harden.export.manifest import MANIFEST, read_manifest
from harden.export.sample import SAMPLE, load_sample, save_sample
from harden.report.report import Report
from harden.workflows.black_box import open_black_box
from harden.workflows.examine import Scope
from harden.workflows.export import Exported, export
from harden.workflows.export_description import read_config, without_folders
from harden.workflows.export_subject import ExportSettings
from harden.workflows.prepare import ModelSpec
from harden.workflows.prove import effort_for
from harden.workflows.push import PushSettings, push
from harden.workflows.report import report
from harden.workflows.run_folder import RunFolder
from harden.workflows.side_by_side import ReportSettings
from harden.workflows.verify import require_findings, verify

from .builders import Notebook, Workshop
from .test_afterwards import quick

EVERYTHING = ("fp32", "fp16", "int8")


def exported_from(run: Path, out: Path, **changes: Any) -> tuple[Exported, ...]:
    base = {"spec": ModelSpec(model=str(run)), "formats": ("safetensors", "onnx"), "precisions": EVERYTHING}
    return export(ExportSettings(**{**base, **changes}), out=out, narrator=Notebook())


@pytest.fixture(scope="module")
def run(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quick(workshop, tmp_path_factory.mktemp("exports") / "run")


@pytest.fixture(scope="module")
def original(run: Path) -> tuple[Path, tuple[Exported, ...]]:
    folder = run.parent / "files"
    return folder, exported_from(run, folder)


@pytest.fixture
def folder(original: tuple[Path, tuple[Exported, ...]], tmp_path: Path) -> Path:
    """A copy at another place, as on another machine."""
    return Path(shutil.copytree(original[0], tmp_path / "files"))


def wrong(folder: Path) -> set[tuple[str, str]]:
    findings = verify(folder, arch=None, narrator=Notebook())
    return {(finding.file, finding.what) for finding in findings if not finding.holds}


# -- what is in the folder ---------------------------------------------------------------------------------------------


def test_one_folder_holds_everything_and_says_nothing_of_this_machine(
    original: tuple[Path, tuple[Exported, ...]], workshop: Workshop
) -> None:
    folder, found = original
    assert [(item.format, item.precision) for item in found] == [
        ("safetensors", "fp32"),
        *(("onnx", precision) for precision in EVERYTHING),
    ]
    for item in found[1:]:
        assert [s.kind for s in item.standings] == ["clean", "adversarial", "under Square"]
    listed = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert listed == {*read_manifest(folder).files, MANIFEST}
    for name in ("config.json", MANIFEST):
        assert str(workshop.root) not in (folder / name).read_text()
    config = json.loads((folder / "config.json").read_text())
    assert config["training"]["eps"] == 0.03
    assert config["training"]["norm"] == "linf"
    assert len(config["recipe_sha256"]) == len(config["data"]["names_and_labels_sha256"]) == 64
    for name in ("model.onnx", "model_fp16.onnx", "model_int8.onnx"):
        metadata = {e.key: e.value for e in onnx.load(folder / name).metadata_props}
        inside = json.loads(metadata["harden"])
        assert {key: inside[key] for key in ("classes", "data", "recipe_sha256", "training")} == {
            key: config[key] for key in ("classes", "data", "recipe_sha256", "training")
        }


def test_exported_twice_gives_equal_bytes(original: tuple[Path, tuple[Exported, ...]], run: Path) -> None:
    folder, _ = original
    again = run.parent / "files-again" / "files"
    exported_from(run, again)
    for path in folder.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (again / path.relative_to(folder)).read_bytes(), path.name


def test_the_sample_stays_in_the_ball_and_is_what_the_model_answered(
    original: tuple[Path, tuple[Exported, ...]], run: Path
) -> None:
    sample = load_sample(original[0] / SAMPLE)
    difference = (sample.adversarial() - sample.clean()).abs()
    assert float(difference.max()) <= 0.03 + 1e-7
    assert float(difference.amax(dim=(1, 2, 3)).mean()) > 0.02
    classifier = RunFolder(run).load_classifier()
    with torch.no_grad():
        assert torch.allclose(classifier(sample.adversarial()), sample.adversarial_scores, atol=1e-5)


def test_a_later_export_of_the_same_model_keeps_the_other_files(run: Path, tmp_path: Path) -> None:
    exported_from(run, tmp_path, formats=("onnx",), precisions=("fp32",))
    exported_from(run, tmp_path, formats=("onnx",), precisions=("fp16",))
    assert {"model.onnx", "model_fp16.onnx"} <= set(read_manifest(tmp_path).files)
    assert wrong(tmp_path) == set()
    notebook = Notebook()
    settings = ExportSettings(spec=ModelSpec(model=str(run)), formats=("safetensors",), samples=6)
    export(settings, out=tmp_path, narrator=notebook)  # on other images, of which the files before know nothing
    assert "model.onnx" in notebook.warnings[0]
    assert not {"model.onnx", "model_fp16.onnx"} & set(read_manifest(tmp_path).files)


@pytest.mark.parametrize("other", [{"tolerance": 1e-3}, {"max_drop": 0.1}])
def test_a_later_export_that_is_asked_for_another_agreement_vouches_for_its_own_files_only(
    other: dict[str, float], folder: Path, run: Path
) -> None:
    notebook = Notebook()
    settings = ExportSettings(spec=ModelSpec(model=str(run)), formats=("safetensors",), **other)  # type: ignore[arg-type]
    (found,) = export(settings, out=folder, narrator=notebook)
    assert {parity.tolerance for parity in found.parities} == {settings.tolerance}
    assert "model.onnx, model_fp16.onnx, model_int8.onnx of another export" in notebook.warnings[0]
    manifest = read_manifest(folder)
    assert (manifest.tolerance, manifest.max_drop) == (settings.tolerance, settings.max_drop)
    assert not {"model.onnx", "model_fp16.onnx", "model_int8.onnx"} & {*manifest.files, *manifest.standing}
    assert wrong(folder) == set()


def test_an_int8_file_that_loses_accuracy_is_refused_by_name_and_nothing_is_left(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is calibrated on nearly black images, so that what it meets is cut off."""
    import harden.workflows.export as module

    monkeypatch.setattr(module, "_calibration", lambda *_: torch.rand(8, 3, 16, 16) * 0.02)
    with pytest.raises(SystemExit) as caught:
        program()(["export", str(run), "--precision", "fp32", "--precision", "int8", "--out", str(tmp_path / "files")])
    assert caught.value.code == 5
    said = " ".join(capfd.readouterr().err.split())
    assert "model_int8.onnx (int8) does not agree" in said
    assert "the error grows most in " in said
    assert "--max-drop" in said
    assert [entry.name for entry in (tmp_path / "files").iterdir()] == ["model_int8.onnx.rejected"]


@pytest.mark.parametrize(
    "name", ["README.md", "config.json", "sample.safetensors", "model.safetensors", "model_int8.onnx"]
)
def test_files_of_others_are_not_written_over(name: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(RunFolderError, match=name):
        exported_from(run, tmp_path, formats=("safetensors",), precisions=())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, '{"mine": 1}')]


def test_an_export_by_a_version_without_manifests_is_written_over(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"harden": "0.1.0"}')
    (tmp_path / "model.safetensors").write_bytes(b"old")
    exported_from(run, tmp_path, formats=("safetensors",), precisions=(), samples=6)
    assert wrong(tmp_path) == set()


def test_the_run_itself_is_no_place_for_its_export(run: Path) -> None:
    before = (run / "config.json").read_bytes()
    with pytest.raises(RunFolderError, match="is a run folder"):
        exported_from(run, run)
    assert (run / "config.json").read_bytes() == before


def test_dear_networks_are_proven_on_fewer_images(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = RunFolder(run).load_classifier()
    cheap = effort_for(classifier, None)
    assert (cheap.images, cheap.attacked, cheap.queries) == (256, 100, 200)
    assert effort_for(classifier, 20).attacked == 20
    monkeypatch.setattr("harden.workflows.prove._CRAFTING", 1.0)
    monkeypatch.setattr("harden.workflows.prove._SEARCHING", 1.0)
    dear = effort_for(classifier, None)
    assert (dear.images, dear.attacked, dear.queries) == (32, 32, 50)


# -- verify ------------------------------------------------------------------------------------------------------------


def test_a_copy_elsewhere_is_what_was_exported(folder: Path) -> None:
    findings = verify(folder, arch=None, narrator=Notebook())
    assert all(finding.holds for finding in findings)
    require_findings(findings, folder)
    looked = {(finding.file, finding.what) for finding in findings}
    assert {("model_int8.onnx", "accuracy, under Square"), ("model.safetensors", "accuracy, pgd-10")} <= looked


def test_one_changed_weight_is_seen_in_the_hash_and_in_the_scores(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.load(folder / "model.onnx")
    bias = next(t for t in proto.graph.initializer if list(t.dims) == [3])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32([0, 9, 0]), bias.name))
    onnx.save(proto, folder / "model.onnx")
    found = wrong(folder)
    assert ("model.onnx", "SHA-256") in found
    assert ("model.onnx", "scores, clean") in found
    assert ("model.onnx", "accuracy, clean") in found
    assert {file for file, _ in found} == {"model.onnx"}
    with pytest.raises(SystemExit) as caught:
        program()(["verify", str(folder)])
    assert caught.value.code == 5
    assert "is not what was exported" in " ".join(capfd.readouterr().err.split())


def test_damaged_and_missing_files_are_named(folder: Path) -> None:
    (folder / "model_int8.onnx").write_bytes(b"nothing")
    (folder / "model_fp16.onnx").unlink()
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-40:] = bytes(40)
    (folder / "model.safetensors").write_bytes(weights)
    found = wrong(folder)
    assert ("model_int8.onnx", "scores") in found
    assert ("model_fp16.onnx", "SHA-256") in found
    assert ("model.safetensors", "SHA-256") in found
    assert ("model.safetensors", "scores, clean") in found


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (MANIFEST, "{"),
        (MANIFEST, "[]"),
        (MANIFEST, '{"schema": "harden-export/9"}'),
        (SAMPLE, "no tensors"),
        ("config.json", "{}"),
    ],
)
def test_what_a_stranger_may_have_written_is_refused_or_reported(file: str, content: str, folder: Path) -> None:
    (folder / file).write_text(content)
    with pytest.raises(ExportError) as caught:
        require_findings(verify(folder, arch=None, narrator=Notebook()), folder)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"max_drop": 0.02', '"max_drop": NaN'),
        ('"max_drop": 0.02', '"max_drop": 1e308'),
        ('"tolerance": 0.0001', '"tolerance": Infinity'),
        ('"queries": 200', '"queries": 1000000000000'),
        ('"queries": 200', '"queries": 0'),
        ('"seed": 0', '"seed": Infinity'),
        ('"standing": {', '"standing": ' + "[" * 100_000 + '"": {'),
    ],
)
def test_a_manifest_with_numbers_that_none_has_is_damaged(old: str, new: str, folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    assert old in text
    (folder / MANIFEST).write_text(text.replace(old, new))
    with pytest.raises(ExportError, match="is damaged"):
        verify(folder, arch=None, narrator=Notebook())


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_a_file_that_is_not_as_it_was(name: str, folder: Path) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**document, "files": {name: "0"}, "standing": {}}))
    assert [found for found, _ in read_manifest(folder).changed(folder)] == [name]


def test_a_config_that_is_nested_without_end_is_damaged(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ExportError, match="damaged"):
        read_config(folder)
    with pytest.raises(RunFolderError, match="damaged"):
        RunFolder(folder).read_config()


def test_the_images_of_another_model_are_reported(folder: Path) -> None:
    """Half as large, so that nothing can take them."""
    sample = load_sample(folder / SAMPLE)
    half = {"images": sample.images[..., ::2, ::2], "perturbations": sample.perturbations[..., ::2, ::2]}
    save_sample(replace(sample, **half), folder / SAMPLE)
    found = wrong(folder)
    assert {(SAMPLE, "SHA-256"), ("model.onnx", "scores"), ("model.safetensors", "scores")} <= found


@pytest.mark.parametrize("name", ["../config.json", "/etc/hostname", "*", "a\\b", ""])
def test_a_manifest_names_files_of_its_own_folder_only(name: str, folder: Path) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    document["files"][name] = document["files"]["config.json"]
    (folder / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(ExportError, match="damaged"):
        read_manifest(folder)


def test_a_folder_that_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no export"):
        verify(tmp_path, arch=None, narrator=Notebook())


def test_code_that_was_never_named_is_not_run_to_verify(workshop: Workshop, tmp_path: Path) -> None:
    spec = ModelSpec(model=str(workshop.weights), arch=workshop.arch)
    exported_from(tmp_path, tmp_path / "files", spec=spec, data=str(workshop.data), precisions=("fp32",), samples=20)
    card = (tmp_path / "files" / "README.md").read_text()
    assert "Nothing is known here of its training" in card
    assert str(tmp_path) not in card + (tmp_path / "files" / "config.json").read_text()
    notebook = Notebook()
    findings = verify(tmp_path / "files", arch=None, narrator=notebook)
    assert all(finding.holds for finding in findings)
    assert not any(finding.what.startswith("scores") for finding in findings if finding.file == "model.safetensors")
    assert f"--arch {tmp_path / 'files' / 'architecture' / 'net.py'}:net" in notebook.text
    named = f"{tmp_path / 'files' / 'architecture' / 'net.py'}:net"
    findings = verify(tmp_path / "files", arch=named, narrator=Notebook())
    assert ("model.safetensors", "scores, clean") in {(f.file, f.what) for f in findings if f.holds}


def test_without_the_images_only_hashes_are_looked_at(folder: Path) -> None:
    (folder / SAMPLE).unlink()
    notebook = Notebook()
    findings = verify(folder, arch=None, narrator=notebook)
    assert {finding.what for finding in findings} == {"SHA-256"}
    assert all(finding.holds for finding in findings)
    assert SAMPLE in notebook.warnings[0]


# -- images of any size ------------------------------------------------------------------------------------------------


def test_files_for_any_size_are_proven_verified_and_audited_at_a_size_that_is_asked_for(
    run: Path, workshop: Workshop, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    found = exported_from(run, folder, formats=("onnx",), precisions=("fp32", "fp16"), samples=20, any_size=True)
    assert all({"wide", "tall", "smaller", "of another size"} <= {s.kind for s in item.standings} for item in found)
    assert all(p.holds for item in found for p in item.parities)
    assert {path.name for path in folder.iterdir()} >= {"model.onnx", "model_fp16.onnx"}
    assert not (folder / "of-one-size").exists()
    assert wrong(folder) == set()
    assert "any H and W" in (folder / "README.md").read_text()
    assert "of another size" in (folder / "README.md").read_text()
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    source = open_data(str(workshop.data))
    for size, taken in ((None, 16), (24, 24)):
        spec = ModelSpec(model=str(folder / "model.onnx"), image_size=size)
        box, pictures = open_black_box(spec, source, source.listings["test"], Notebook())
        assert box.input_size == (3, taken, taken)
        images, labels = pictures.decode(source.listings["test"], Notebook(), "images").batch(slice(None))
        assert (box(images).argmax(1) == labels).float().mean() > 0.6
    # One manifest for all files: those of one size cannot stand beside these.
    notebook = Notebook()
    again = ExportSettings(spec=ModelSpec(model=str(run)), formats=("onnx",), samples=20)
    export(again, out=folder, narrator=notebook)
    assert any("model_fp16.onnx" in text for text in notebook.warnings)
    with pytest.raises(UsageError, match="--any-size is of ONNX files"):
        exported_from(run, tmp_path / "none", formats=("safetensors",), precisions=("fp32",), any_size=True)


@pytest.mark.parametrize(
    ("right", "wrong_instead"),
    [
        ("antialias = 1, exclude_outside = 1, ", ""),
        ('mode = "cubic", cubic_coeff_a = -0.5, antialias = 1, exclude_outside = 1', 'mode = "nearest"'),
        ("spare = Sub (sides, kept)", "spare = Sub (one, one)"),
        ("least = ReduceMin", "least = ReduceMax"),
    ],
    ids=["not antialiased", "nearest neighbours", "the corner", "squashed"],
)
def test_what_fits_images_otherwise_than_it_says_is_refused(
    right: str, wrong_instead: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert right in any_size._GRAPH
    monkeypatch.setattr(any_size, "_GRAPH", any_size._GRAPH.replace(right, wrong_instead))
    with pytest.raises(ExportError):
        exported_from(run, tmp_path / "files", formats=("onnx",), precisions=("fp32",), samples=20, any_size=True)
    assert not (tmp_path / "files" / "model.onnx").exists()


# -- the card ----------------------------------------------------------------------------------------------------------


def test_the_card_is_what_the_hub_reads_and_begins_with_the_worst_case(
    original: tuple[Path, tuple[Exported, ...]], run: Path
) -> None:
    yaml = pytest.importorskip("yaml")
    text = (original[0] / "README.md").read_text()
    _, block, body = text.split("---\n", 2)
    metadata = yaml.safe_load(block)
    assert metadata["pipeline_tag"] == "image-classification"
    found = json.loads((run / "report.json").read_text())["summary"][-1]
    metrics = metadata["model-index"][0]["results"][0]["metrics"]
    assert "worst of" in metrics[0]["name"]
    assert metrics[0]["value"] == pytest.approx(found["worst_case"]["value"], abs=1e-6)
    assert metrics[-1]["name"] == "accuracy, clean"
    for words in ("What it does not protect against", "fgsm-ep", "harden fit", "Square only", "12 images"):
        assert words in body
    headings = [line for line in body.splitlines() if line.startswith("## ")]
    assert headings.index("## Accuracy under attack") < headings.index("## Training")


def retold(run: Path, tmp_path: Path, **config: Any) -> tuple[Path, Path]:
    """A copy of a run whose config.json says something else besides; and where its export goes."""
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    said = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**said, **config}))
    return copy, tmp_path / "out"


def test_the_export_of_a_run_names_no_folder_of_this_machine(run: Path, tmp_path: Path) -> None:
    origin = json.loads((run / "config.json").read_text())["origin"]
    command = "harden fit '/home/me/my model.pt' --data=/home/me/imgs/ --arch /home/me/net.py:net --eps 8/255"
    copy, out = retold(run, tmp_path, command=command, origin={**origin, "weights": "/home/me:you/w.pt"})
    exported_from(copy, out, formats=("safetensors",), precisions=(), samples=6)
    card = (out / "README.md").read_text()
    assert "harden fit 'my model.pt' --data=imgs --arch net.py:net --eps 8/255\n" in card
    for path in (path for path in out.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert b"/home/me" not in content, path.name
        assert str(tmp_path).encode() not in content, path.name
    assert json.loads((out / "config.json").read_text())["origin"]["weights"] == "w.pt"


def audited(run: Path, name: str, *, images: int, standing: int, data: str) -> None:
    """Write an audit of the run into a folder of it: the run's own, of so many of its images."""
    found = Report.from_json(json.loads((run / "report.json").read_text())).subject
    rows = np.arange(images) % len(found)
    predictions = np.where(np.arange(images) < standing, found.labels[rows], (found.labels[rows] + 1) % 3)
    outcome = replace(
        found.outcomes[0],
        **{
            key: value[rows]
            for key, value in vars(found.outcomes[0]).items()
            if isinstance(value, np.ndarray) and len(value) == len(found)
        },
    )
    subject = replace(
        found,
        origin=ImageOrigin(data, "test", 30, "test images of the run"),
        labels=found.labels[rows],
        files=(),
        clean_predictions=found.labels[rows],
        clean_margins=found.clean_margins[rows],
        outcomes=(replace(outcome, predictions=predictions),),
        gallery=(),
        representation=None,
    )
    (run / name).mkdir()
    (run / name / "report.json").write_text(json.dumps(Report("Audit", (subject,)).to_json()))


def test_the_card_quotes_the_largest_audit_of_the_runs_own_data(run: Path, tmp_path: Path) -> None:
    """Not the lowest figure of any images: others' data, or a handful of its own, look as bad as one likes."""
    copy, out = retold(run, tmp_path)
    own = json.loads((copy / "config.json").read_text())["training"]["data"]
    audited(copy, "audit", images=24, standing=12, data=own)
    audited(copy, "audit-2", images=24, standing=18, data=own)
    audited(copy, "audit-3", images=6, standing=0, data=own)
    audited(copy, "audit-4", images=30, standing=3, data=f"{own}-of-others")
    exported_from(copy, out, formats=("safetensors",), precisions=(), samples=6)
    card = (out / "README.md").read_text()
    assert "of 24 images (imgs, 24 of 30 test images of the run)" in card.replace(Path(own).name, "imgs")
    assert "**50.0 %" in card
    assert "| held out for the figures above | 24 of 30 test images of the run |" in card


def test_figures_of_a_run_that_was_not_audited_are_not_said_to_be_of_its_test_images(run: Path, tmp_path: Path) -> None:
    copy, out = retold(run, tmp_path)
    (copy / "report.json").unlink()
    exported_from(copy, out, formats=("safetensors",), precisions=(), samples=6)
    card = (out / "README.md").read_text()
    assert "It was not audited; these figures are of the 6 images of " in card
    assert "test images, which were not audited" in card
    assert "held out for the figures above" not in card


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("../a/imgs", "imgs"),
        ("C:\\Users\\me\\w.pt", "w.pt"),
        ("local-dir:/home/me/files", "local-dir:files"),
        ("webdataset:/data/me/{0..9}.tar", "webdataset:{0..9}.tar"),
        ("/data/me/t.csv?image=file&root=/data/me/x", "t.csv?image=file&root=x"),
        ("torchvision:CIFAR10@/data/me", "torchvision:CIFAR10"),
        ("timm:resnet18@a1_in1k", "timm:resnet18@a1_in1k"),
        ("hf-hub:org/name@main", "hf-hub:org/name@main"),
        ("hf:org/name?image=img", "hf:org/name?image=img"),
        ("hf:/data/me/set", "hf:set"),
        ("--eps=8/255", "--eps=8/255"),
        ("--pretrain", "--pretrain"),
        ("sat@nfgsm", "sat@nfgsm"),
    ],
)
def test_of_a_path_its_last_part_is_told(typed: str, said: str) -> None:
    assert without_folders(typed) == said


# -- a network beside its own export -----------------------------------------------------------------------------------


def test_an_export_beside_its_run_meets_examples_of_the_run(
    original: tuple[Path, tuple[Exported, ...]], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks_only = Scope(checks=False, curve=False, representation=False)
    monkeypatch.setattr(Scope, "of", classmethod(lambda *_: attacks_only))
    settings = ReportSettings(
        spec=ModelSpec(model=str(run)),
        against=(str(original[0] / "model.onnx"),),
        attacks=("fgsm", "square"),
        samples=15,
    )
    found, _ = report(settings, out=tmp_path, narrator=Notebook(), command="")
    beside, subject = found.results
    assert beside.model == "model.onnx"
    assert [outcome.name for outcome in subject.outcomes] == ["FGSM", "Square"]
    assert [outcome.access for outcome in beside.outcomes][:2] == [Access.TRANSFER, Access.TRANSFER]
    assert beside.outcomes[-1].name == "Square"
    assert (beside.clean_predictions == subject.clean_predictions).all()


# -- push --------------------------------------------------------------------------------------------------------------


class Hub:
    """A stand-in for the hub's client that remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refuses = False
        self.private = True

    def create_repo(self, name: str, **arguments: Any) -> str:
        if self.refuses:
            raise RuntimeError("401 Client Error")
        self.calls.append(("create", {"name": name, **arguments}))
        return f"https://hub.example/{name}"

    def repo_info(self, name: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(id=name, private=self.private)

    def upload_folder(self, **arguments: Any) -> None:
        self.calls.append(("upload", arguments))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=lambda: stand_in))
    return stand_in


def test_push_is_private_and_leaves_the_images_here_unless_told(folder: Path, hub: Hub) -> None:
    settings = PushSettings(folder=folder, repository="org/name")
    (folder / "secret.txt").write_text("not part of the export")
    assert push(settings, narrator=Notebook()) == "https://hub.example/org/name"
    (_, made), (_, sent) = hub.calls
    assert made == {"name": "org/name", "private": True, "exist_ok": True}
    assert sent["folder_path"] == folder
    assert set(sent["allow_patterns"]) == {*read_manifest(folder).files, MANIFEST} - {SAMPLE}
    push(replace(settings, public=True, with_images=True), narrator=Notebook())
    assert hub.calls[2][1]["private"] is False
    assert SAMPLE in hub.calls[3][1]["allow_patterns"]


def test_a_public_repository_gets_nothing_unless_public_is_said(folder: Path, hub: Hub) -> None:
    hub.private = False
    settings = PushSettings(folder=folder, repository="org/name")
    with pytest.raises(UsageError, match="public") as caught:
        push(settings, narrator=Notebook())
    assert "--public" in str(caught.value.hint)
    assert [call for call, _ in hub.calls] == ["create"]
    push(replace(settings, public=True), narrator=Notebook())
    assert hub.calls[-1][0] == "upload"


def test_a_folder_without_its_sample_is_uploaded_as_it_is(folder: Path, hub: Hub) -> None:
    (folder / SAMPLE).unlink()
    settings = PushSettings(folder=folder, repository="org/name")
    with pytest.raises(ExportError, match=r"sample.safetensors is missing"):
        push(replace(settings, with_images=True), narrator=Notebook())
    push(settings, narrator=Notebook())
    document = json.loads((folder / MANIFEST).read_text())
    del document["files"][SAMPLE]
    (folder / MANIFEST).write_text(json.dumps(document))
    push(settings, narrator=Notebook())
    assert all(SAMPLE not in sent["allow_patterns"] for call, sent in hub.calls if call == "upload")


def test_what_has_changed_is_not_uploaded(folder: Path, hub: Hub) -> None:
    (folder / "README.md").write_text("better than it is")
    with pytest.raises(ExportError, match=r"README.md has changed"):
        push(PushSettings(folder=folder, repository="org/name"), narrator=Notebook())
    assert hub.calls == []


def test_a_hub_that_refuses_and_a_name_that_is_none(
    folder: Path, hub: Hub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="names no repository"):
        push(PushSettings(folder=folder, repository="name"), narrator=Notebook())
    hub.refuses = True
    with pytest.raises(SystemExit) as caught:
        program()(["push", str(folder), "org/name"])
    assert caught.value.code == 1
    assert "hf auth login" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="huggingface_hub"):
        push(PushSettings(folder=folder, repository="org/name"), narrator=Notebook())
