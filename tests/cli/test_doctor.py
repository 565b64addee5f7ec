"""`harden doctor` as a person and as a program see it; what it finds is tested beside the workflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harden.cli.app import program

SOUND: dict[str, dict[str, Any]] = {
    "torch": {"error": None, "version": "2.13.0", "threads": 1, "built_for_cuda": None, "devices": []},
    "torchvision": {"error": None, "version": "0.28.0"},
    "timm": {"error": None, "version": "1.0.31"},
    "onnx": {"error": None, "version": "1.23.2"},
    "onnxruntime": {"error": None, "version": "1.31.1", "used": ["CPUExecutionProvider"]},
}


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The libraries above, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr("harden.workflows.doctor.probe_all", lambda narrator: SOUND)
    monkeypatch.setattr("harden.workflows.doctor.nvidia_driver", lambda: None)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        program()(["doctor", *arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> str:
    error = "ImportError: [/brackets] are no markup"
    monkeypatch.setitem(SOUND, "timm", {"error": error})
    return error


def test_a_sound_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run() == 0
    out, err = capsys.readouterr()
    assert "Nothing here would stop a run." in out
    assert "importing torch" in err
    assert str(tmp_path) in "".join(out.split())
    assert list(tmp_path.iterdir()) == []
    assert run("--quiet") == 0
    assert capsys.readouterr().err == ""


def test_what_stops_a_run_is_exit_code_1(capsys: pytest.CaptureFixture[str], broken: str) -> None:
    assert run() == 1
    out, err = capsys.readouterr()
    assert "1 of these would stop a run." in out
    assert broken in out
    assert "defect" not in err


def test_a_repair_is_never_broken_into_lines(
    capsys: pytest.CaptureFixture[str], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run() == 1
    lines = capsys.readouterr().out.splitlines()
    repairs = [line for line in lines if "pip install" in line]
    assert repairs
    assert all("--force-reinstall" in line or "install" in line for line in repairs)
    assert any(line.strip().endswith(("timm", "'timm<2,>=1.0.20'")) for line in repairs)
    assert all(len(line) <= 60 for line in lines if line not in repairs and not line.startswith("  "))


def test_it_survives_a_torch_that_cannot_be_imported(tmp_path: Path) -> None:
    """In a process of its own, which finds the broken one first."""
    site = tmp_path / "site"
    site.mkdir()
    for name in SOUND:
        (site / f"{name}.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-m", "harden", "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    stops = [f["name"] for f in json.loads(done.stdout)["findings"] if f["verdict"] == "stops"]
    assert stops == ["torch", "onnx", "onnxruntime"]


def test_data_for_a_program(capsys: pytest.CaptureFixture[str], broken: str) -> None:
    assert run("--json") == 1
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out)
    assert document["schema"] == "harden-doctor/1"
    assert document["stops"] is True
    timm = next(finding for finding in document["findings"] if finding["name"] == "timm")
    assert timm["verdict"] == "stops"
    assert timm["repair"]


def test_a_terminal_that_cannot_write_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder's name may hold what the terminal cannot show."""
    folder = tmp_path / "größe"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        assert run() == 0
    shown = "".join((tmp_path / "out").read_text("ascii").split())
    assert r"gr\xf6\xdfe" in shown
    assert "textisinascii" in shown
