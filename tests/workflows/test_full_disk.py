"""A disk that is full in the middle of each kind of write: what is said, and that nothing is lost or half there."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from harden import files
from harden.cli.errors import EXIT_FAILURE, exit_code
from harden.errors import RunFolderError, WriteError
from harden.export.to_safetensors import save_weights
from harden.files import write_torch, write_whole
from harden.models.pickled import save_skeleton
from harden.training.checkpoint import write_checkpoint
from harden.workflows.export import export
from harden.workflows.export_subject import ExportSettings
from harden.workflows.prepare import ModelSpec
from harden.workflows.report import report
from harden.workflows.run_folder import RunFolder
from harden.workflows.side_by_side import ReportSettings
from harden.workflows.verify import verify

from .builders import Notebook, Workshop
from .test_fit import go_on, run, same, settings

NO_SPACE = "No space left on device"


# -- the writers themselves, on the device that is always full ---------------------------------------------------------


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose temporary neighbour is /dev/full, which takes nothing."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    path = tmp_path / "file"
    monkeypatch.setattr(files, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="0")))
    path.write_text("what was there")
    (tmp_path / ".file.0.tmp").symlink_to("/dev/full")
    return path


BIG = {"a": torch.zeros(50_000)}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_whole(path, "x" * 50_000),
        lambda path: write_torch(path, BIG),
        lambda path: write_checkpoint(BIG, path),
        lambda path: save_skeleton(nn.Linear(200, 200), path),
    ],
    ids=["text", "torch", "checkpoint", "skeleton"],
)
def test_a_full_disk_is_told_as_one_and_the_old_file_stays(write: Any, full: Path) -> None:
    with pytest.raises(WriteError, match=r"cannot write .*file: ") as caught:
        write(full)
    assert "free space" in str(caught.value.hint)
    assert any(word in caught.value.message for word in (NO_SPACE, "the disk is full"))
    assert exit_code(caught.value) == EXIT_FAILURE
    assert not (full.parent / ".file.0.tmp").is_symlink()
    if write.__code__.co_names[0] != "save_skeleton":  # which is written into new folders only
        assert full.read_text() == "what was there"


def test_the_writer_of_safetensors_is_heard_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError(f"Error while serializing: I/O error: {NO_SPACE} (os error 28)")

    save_weights(BIG, tmp_path / "w.safetensors", {})
    before = (tmp_path / "w.safetensors").read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(WriteError, match=NO_SPACE) as caught:
        save_weights(BIG, tmp_path / "w.safetensors", {})
    assert exit_code(caught.value) == EXIT_FAILURE, "an export that disagrees is another matter"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("w.safetensors", before)]


def test_what_cannot_be_pickled_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="pickle") as caught:
        write_torch(tmp_path / "x.pt", lambda: 0)
    assert not isinstance(caught.value, WriteError)
    assert list(tmp_path.iterdir()) == []


# -- a whole run -------------------------------------------------------------------------------------------------------


class FullDisk:
    """Lets no file of a certain name through once it was written so many times."""

    def __init__(self, name: str, after: int = 0) -> None:
        self.name, self.after, self.failed = name, after, False

    def replace(self, temporary: Any, path: Any) -> None:
        if Path(path).name == self.name or Path(path).parent.name == self.name:
            self.after -= 1
            if self.after < 0:
                self.failed = True
                raise OSError(errno.ENOSPC, NO_SPACE)
        os.rename(temporary, path)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    def fill(name: str, after: int = 0) -> FullDisk:
        made = FullDisk(name, after)
        monkeypatch.setattr(files, "os", SimpleNamespace(replace=made.replace, fsync=os.fsync))
        return made

    return fill


@pytest.fixture(scope="module")
def whole(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(asked(workshop), out)
    return out


def asked(shop: Workshop) -> Any:
    return settings(shop, model=str(shop.weights), arch=shop.arch, method="sat", epochs=2, attacks=("fgsm", "pgd-10"))


@pytest.mark.parametrize(
    "name", ["net.py", "initial.safetensors", "recipe.toml", "splits.json", "config.json", "checkpoint.pt"]
)
def test_before_there_is_anything_to_go_on_from_nothing_is_left(
    name: str, disk: Any, workshop: Workshop, tmp_path: Path
) -> None:
    full = disk(name)
    with pytest.raises(WriteError, match=f"{name}: {NO_SPACE}") as caught:
        run(asked(workshop), tmp_path / "run")
    assert full.failed
    assert "--resume" not in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("checkpoint.pt", 1),
        ("metrics.jsonl", 1),
        ("config.json", 1),
        ("model.safetensors", 0),
        ("progress", 0),
        ("report.html", 0),
        ("report.json", 0),
    ],
)
def test_later_the_run_goes_on_once_there_is_space(
    name: str, after: int, disk: Any, workshop: Workshop, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    full = disk(name, after)
    with pytest.raises(WriteError, match=NO_SPACE) as caught:
        run(asked(workshop), out)
    assert full.failed
    assert f"harden fit --resume {out}" in str(caught.value.hint)
    assert not (out / "report.json").exists()
    assert list(out.rglob("*.tmp")) == []
    with pytest.raises(WriteError):
        go_on(out)  # the disk is still full
    monkeypatch.undo()
    go_on(out)
    assert same(out, whole)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


# -- after the run -----------------------------------------------------------------------------------------------------


def state(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["progress", "report.json"])
def test_a_report_that_cannot_be_written_leaves_the_run_as_it_was_and_goes_on(
    name: str, disk: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(whole)
    wanted = ReportSettings(spec=ModelSpec(model=str(whole)), attacks=("fgsm",), samples=12)
    disk(name)
    with pytest.raises(WriteError, match=NO_SPACE):
        report(wanted, out=tmp_path / "r", narrator=Notebook(), command="harden report")
    assert state(whole) == before
    assert not (tmp_path / "r" / "report.json").exists()
    monkeypatch.undo()
    report(wanted, out=tmp_path / "r", narrator=Notebook(), command="harden report")
    assert json.loads((tmp_path / "r" / "report.json").read_text())
    assert not (tmp_path / "r" / "progress").exists()


def test_an_export_that_cannot_be_written_leaves_the_one_before(
    disk: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ExportSettings(spec=ModelSpec(model=str(whole)), formats=("safetensors",))
    export(wanted, out=tmp_path / "e", narrator=Notebook())
    before = state(tmp_path / "e")
    other = replace(wanted, formats=("safetensors", "onnx"), samples=9, max_drop=0.5)
    for name in ("model.safetensors", "sample.safetensors", "config.json", "README.md", "manifest.json"):
        disk(name)
        with pytest.raises(WriteError, match=NO_SPACE):
            export(other, out=tmp_path / "e", narrator=Notebook())
        assert state(tmp_path / "e") == before, name
    monkeypatch.undo()
    export(other, out=tmp_path / "e", narrator=Notebook())
    assert state(tmp_path / "e").keys() - before.keys() == {"model.onnx"}
    assert all(f.holds for f in verify(tmp_path / "e", arch=None, narrator=Notebook()))


def test_a_run_that_was_damaged_is_no_failed_export(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(RunFolderError) as caught:
        RunFolder(tmp_path / "run").load_classifier()
    assert exit_code(caught.value) == EXIT_FAILURE
