"""Images, models and folders that are no good, through the command line: message, exit code, nothing left behind."""

from __future__ import annotations

import copy
import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from harden.cli.app import program
from tests.workflows.builders import Workshop


@pytest.fixture(scope="module")
def bad(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models and image folders with one thing wrong in each."""
    root = tmp_path_factory.mktemp("bad")

    def changed(name: str, place: int, layer: nn.Module) -> None:
        network = copy.deepcopy(workshop.module)
        network[place] = layer
        torch.save(network, root / name)

    broken = copy.deepcopy(workshop.module[5])
    broken.weight.data[0, 0] = float("nan")
    changed("nan.pt", 5, broken)
    changed("four.pt", 0, nn.Conv2d(4, 8, 3, stride=2, padding=1))
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 20, 3)), root / "size20.pt")
    weights = copy.deepcopy(workshop.module.state_dict())
    weights["5.weight"][0, 0] = float("inf")
    torch.save(weights, root / "inf.pth")

    shutil.copytree(workshop.data, root / "one", ignore=shutil.ignore_patterns("b", "c"))
    shutil.copytree(workshop.data, root / "empty")
    for path in (root / "empty" / "train" / "b").iterdir():
        path.unlink()
    shutil.copytree(workshop.data, root / "junk")
    for number, path in enumerate(sorted((root / "junk").rglob("*.png"))):
        path.write_bytes((b"", b"<html>", path.read_bytes()[:100])[number % 3])
    return root


CASES = [
    (("fit", "{bad}/nan.pt", "--data", "{data}"), ("scores are NaN or infinite", "an earlier checkpoint")),
    (("fit", "{bad}/inf.pth", "--arch", "{arch}", "--data", "{data}"), ("not finite: 5.weight", "earlier checkpoint")),
    (("fit", "{bad}/four.pt", "--data", "{data}"), ("reads images of 4 channel(s), the data has 3", "--arch")),
    (("fit", "{bad}/size20.pt", "--data", "{data}"), ("cannot take 3x16x16 images", "--image-size")),
    (("report", "{bad}/size20.pt", "--data", "{data}"), ("cannot take 3x16x16 images", "--image-size")),
    (("fit", "{pickled}", "--data", "{bad}/one"), ("has 1 class folder; at least 2 were expected", "expected ROOT")),
    (("fit", "{pickled}", "--data", "{bad}/empty"), ("class 'b' has no images in", "if it is not a class")),
    (("fit", "{pickled}", "--data", "{bad}/junk"), ("none of the", "empty file (0 bytes)", "8-bit PNG or JPEG")),
    (("fit", "{pickled}", "--data", "{data}", "--epochs", "1", "--out", "{pickled}/r"), ("cannot create", "--out")),
    (
        ("report", "{pickled}", "--data", "{data}", "--attacks", "fgsm", "--samples", "9", "--out", "{pickled}/r"),
        ("cannot write", "Not a directory", "get write access"),
    ),
    (
        ("export", "{pickled}", "--data", "{data}", "--to", "safetensors", "--out", "{pickled}/e"),
        ("cannot write", "Not a directory", "get write access"),
    ),
    (
        ("compare", "--model", "{pickled}", "--data", "{data}", "--methods", "nt", "--out", "{pickled}/c"),
        ("cannot", "--out"),
    ),
]


@pytest.mark.parametrize(("arguments", "words"), CASES, ids=[" ".join(arguments[:4]) for arguments, _ in CASES])
def test_told_with_the_repair_and_nothing_is_left(
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    bad: Path,
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    before = workshop.pickled.read_bytes()
    names = {"bad": bad, "data": workshop.data, "pickled": workshop.pickled, "arch": workshop.arch}
    with pytest.raises(SystemExit) as ended:
        program()([argument.format(**names) for argument in arguments])
    out, err = capfd.readouterr()
    assert ended.value.code == 1, err
    assert out == ""
    assert "Traceback" not in err
    assert "defect" not in err
    assert "try:" in err
    flat = " ".join(err.split())
    for word in words:
        assert word in flat
    assert list(tmp_path.iterdir()) == []
    assert workshop.pickled.read_bytes() == before


PATHS = [
    ("x" * 5000, 1, "file name too long"),
    ("a/" * 2500, 1, "file name too long"),
    ("csv:" + "x" * 5000, 1, "file name too long"),
    ("webdataset:" + "x" * 300, 1, "file name too long"),
    ("two\nlines", 2, "no folder at"),
    ("broken", 2, "is a link to"),
    ("npz:broken", 2, "is a link to"),
    ("loop", 1, "too many levels of symbolic links"),
    ("csv:loop", 1, "too many levels of symbolic links"),
    ("loop/below", 1, "too many levels of symbolic links"),
    ("file", 1, "is a file; a folder of images was expected"),
    ("file/below", 2, "no folder at"),
    ("csv:empty", 1, "is a folder; a CSV file was expected"),
    ("empty", 1, "has 0 class folders"),
    ("webdataset:empty", 1, "holds no tar archive"),
    ("~nobody-of-this-name/imgs", 2, "no folder at"),
    ("", 2, "a path was expected"),
    ("a\0b", 2, "no null byte"),
    ("locked", 1, "cannot be listed: permission denied"),
]


@pytest.mark.parametrize(("spec", "code", "words"), PATHS, ids=[repr(spec[:20]) for spec, _, _ in PATHS])
def test_what_the_system_says_of_a_path_is_said(
    spec: str,
    code: int,
    words: str,
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for name in ("empty", "locked"):
        (tmp_path / name).mkdir()
    scandir = os.scandir

    def refusing(path: object) -> object:  # permissions do not bind the user that tests may run as
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(SystemExit) as ended:
        program()(["fit", str(workshop.pickled), "--data", spec])
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (code, "")
    assert words in " ".join(err.split())
    assert "defect" not in err
    assert "try:" in err
    assert len(err) < 1500


def test_a_file_that_the_system_lets_nobody_read_is_no_defect(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/some/file")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harden.workflows.report.report", refused)
    with pytest.raises(SystemExit) as ended:
        program()(["report", str(workshop.pickled), "--data", str(workshop.data)])
    err = " ".join(capfd.readouterr().err.split())
    assert ended.value.code == 1
    assert "/some/file cannot be read or written: permission denied" in err
    assert "defect" not in err
