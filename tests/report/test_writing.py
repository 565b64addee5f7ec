"""Files appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harden.errors import RunFolderError, UsageError
from harden.report import FORMATS, write_report
from harden.report.report import Report

from .builders import build_report


def test_every_format_is_written_under_its_name(tmp_path: Path) -> None:
    written = write_report(build_report(images=30), tmp_path / "new" / "folder")
    assert {name: path.name for name, path in written.items()} == {name: f"report.{name}" for name in FORMATS}
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
        "report.xml",
    ]


@pytest.mark.parametrize("failing", ["html", "md", "xml"])
def test_the_json_comes_last_because_it_says_that_a_run_is_finished(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(report: Report, path: Path) -> Path:
        raise RunFolderError("no space")

    monkeypatch.setitem(FORMATS, failing, full)
    with pytest.raises(RunFolderError):
        write_report(build_report(images=30), tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_only_the_formats_asked_for_are_written(tmp_path: Path) -> None:
    assert list(write_report(build_report(images=30), tmp_path, ["md"])) == ["md"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_an_unknown_format_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pdf") as caught:
        write_report(build_report(images=30), tmp_path, ["md", "pdf"])
    assert "html" in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_a_failed_write_leaves_the_old_file_and_no_rest(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / f"report.{name}"
    old.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left") as caught:
        write_report(build_report(images=30), tmp_path, [name])
    assert caught.value.hint
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_a_folder_that_is_a_file_is_a_run_folder_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunFolderError, match="taken"):
        write_report(build_report(images=30), tmp_path / "taken")


def test_importing_the_report_does_not_import_jinja_or_torch() -> None:
    code = "import sys, harden.report, harden.report.terminal; print({'jinja2', 'torch'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
