"""Mistakes in what was typed exit with 2, and those that need no data are told before data are listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from harden import data as data_module
from harden.cli.app import program
from tests.workflows.builders import Workshop

FIT = ("fit", "{pickled}", "--data", "{data}")
REPORT = ("report", "{pickled}", "--data", "{data}")
COMPARE = ("compare", "--model", "{pickled}", "--data", "{data}")
EXPORT = ("export", "{pickled}", "--data", "{data}")

EARLY = [
    (("fit", "nothing.pt", "--data", "{data}"), ("no model file nothing.pt",)),
    (
        ("fit", "runs/nothing", "--data", "{data}"),
        ("no run folder or model file", "the run folders there are: runs/one"),
    ),
    (("fit", "{data}", "--data", "{data}"), ("no run folder",)),
    ((*FIT, "--arch", "nothing.py:net"), ("a file that does not exist",)),
    ((*FIT, "--out", "{data}"), ("exists already",)),
    ((*FIT, "--method", "adv"), ("unknown value 'adv'",)),
    ((*FIT, "--budget", "15"), ("--budget 15 needs a unit: 15s, 15m or 15h",)),
    ((*FIT, "--budget", "soon"), ("invalid --budget 'soon'",)),
    ((*FIT, "--eps", "8/x"), ("'8/x' is no eps",)),
    ((*FIT, "--attacks", "pgd-21"), ("did you mean 'pgd-20'",)),
    ((*FIT, "--source-attack", "fgms"), ("did you mean 'fgsm'",)),
    ((*FIT, "--device", "tpu"), ("device",)),
    ((*FIT, "--static", "nothing.pt", "--method", "eat"), ("nothing.pt",)),
    ((*FIT, "--epochs", "0"), ("epochs: 0 lies outside",)),
    ((*FIT, "--epochs", "many"), ("--epochs",)),
    ((*FIT, "--precision", "fp8"), ("precision",)),
    ((*FIT, "--augment", "turn"), ("augment",)),
    ((*FIT, "--on-collapse", "cry"), ("on_collapse",)),
    ((*FIT, "--track", "diary"), ("track",)),
    ((*FIT, "--processes", "0"), ("--processes 0",)),
    ((*FIT, "--accumulate", "2", "--method", "atda"), ("--accumulate",)),
    ((*FIT, "--recipe", "nothing"), ("no recipe",)),
    ((*FIT, "--colour", "red"), ("No such option",)),
    (("fit", "--resume", "runs/nothing"), ("no run folder", "the run folders there are: runs/one")),
    (("report", "runs/nothing", "--data", "{data}"), ("no run folder", "runs/one")),
    ((*REPORT, "--against", "nothing.pt"), ("nothing.pt",)),
    ((*REPORT, "--surrogate", "nothing.pt"), ("nothing.pt",)),
    ((*REPORT, "--attacks", "pgd-21"), ("did you mean 'pgd-20'",)),
    ((*REPORT, "--fail-under", "robust"), ("'robust' is not a gate",)),
    ((*REPORT, "--fail-under", "robust=2"), ("is a share in [0, 1]",)),
    ((*REPORT, "--fail-under", "robuts=0.5"), ("did you mean 'robust'",)),
    ((*REPORT, "--fail-under", "robust=x", "--surrogate", "auto"), ("is not a floor",)),
    ((*REPORT, "--device", "tpu"), ("device",)),
    ((*REPORT, "--eps", "x"), ("'x' is no eps",)),
    ((*REPORT, "--out", "{done}"), ("holds a report already",)),
    ((*COMPARE, "--methods", "adv"), ("adv",)),
    ((*COMPARE, "--device", "tpu"), ("device",)),
    ((*COMPARE, "--attacks", "pgd-21"), ("did you mean 'pgd-20'",)),
    ((*COMPARE, "--budget", "15"), ("needs a unit",)),
    ((*COMPARE, "--seeds", "0"), ("--seeds 0",)),
    ((*COMPARE, "--out", "{data}"), ("exists already",)),
    ((*COMPARE, "--surrogate", "nothing.pt"), ("nothing.pt",)),
    (("compare", "--model", "nothing.pt", "--data", "{data}"), ("nothing.pt",)),
    (("export", "runs/nothing", "--data", "{data}"), ("no run folder", "runs/one")),
    ((*EXPORT, "--to", "onxx"), ("did you mean 'onnx'",)),
    ((*EXPORT, "--precision", "int4"), ("did you mean 'int8'",)),
    ((*EXPORT, "--opset", "3"), ("--opset must be 18 or later, got 3",)),
    ((*EXPORT, "--tolerance", "-1"), ("--tolerance",)),
    ((*EXPORT, "--out", "{done}"), ("which no export",)),
    (("inspect", "nothing.pt", "--data", "{data}"), ("nothing.pt",)),
    (("verify", "nothing"), ("no export",)),
    (("verify", "{pickled}"), ("no export",)),
    (("push", "nothing", "org/name"), ("no export",)),
    (("demo", "--out", "{data}"), ("exists already",)),
    (("harden",), ("No such command",)),
]
LATER = [
    ((*FIT[:3], "nowhere"), ("no folder at",)),
    ((*FIT[:3], "nowhere.csv"), ("no file at",)),
    ((*FIT[:3], "webdataset:nowhere"), ("nowhere",)),
    ((*FIT, "--split", "layer9"), ("no layer 'layer9'",)),
    ((*FIT, "--freeze", "layer9"), ("--freeze",)),
    ((*FIT, "--class-map", "0,1"), ("--class-map",)),
    ((*FIT, "--mean", "0.5", "--std", "0"), ("std positive",)),
    (("fit", "{weights}", "--arch", "{net}:nothing", "--data", "{data}"), ("nothing",)),
    (("fit", "{weights}", "--arch", "nothing", "--data", "{data}"), ("names no network",)),
    (("fit", "timm:resnet18x", "--data", "{data}"), ("resnet18x",)),
]


def ended(
    arguments: tuple[str, ...], shop: Workshop, folder: Path, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    run = folder / "runs" / "one"
    run.mkdir(parents=True)
    for name in ("config.json", "recipe.toml"):
        (run / name).write_text("")
    done = folder / "done"
    done.mkdir()
    for name in ("report.json", "README.md"):
        (done / name).write_text("")
    names = {"data": shop.data, "pickled": shop.pickled, "weights": shop.weights, "net": shop.root / "net.py"}
    with pytest.raises(SystemExit) as caught:
        program()([argument.format(**names, done=done) for argument in arguments])
    out, err = capfd.readouterr()
    assert out == ""
    assert "defect" not in err
    assert "Traceback" not in err
    assert sorted(path.name for path in folder.iterdir()) == ["done", "runs"]
    return int(caught.value.code or 0), " ".join(err.split())


@pytest.mark.parametrize(("arguments", "words"), EARLY, ids=lambda value: " ".join(value))
def test_what_needs_no_data_is_told_before_data_are_listed(
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def listed(path: str, gray_bits: int | None = None) -> None:
        raise AssertionError("the data were listed")

    monkeypatch.setitem(data_module.LAYOUTS, "folder", listed)
    monkeypatch.setitem(data_module.LAYOUTS, "sklearn", listed)
    code, err = ended(arguments, workshop, tmp_path, capfd)
    assert code == 2, err
    for word in words:
        assert word in err


@pytest.mark.parametrize(("arguments", "words"), LATER, ids=lambda value: " ".join(value))
def test_other_mistakes_in_what_was_typed_exit_with_2_too(
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    code, err = ended(arguments, workshop, tmp_path, capfd)
    assert code == 2, err
    for word in words:
        assert word in err
