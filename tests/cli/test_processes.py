"""`harden fit` in several processes, as a user starts them: with --processes, or with torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import load_file

from harden.cli import processes
from harden.cli.processes import together
from harden.distributed import Processes, Seat
from harden.errors import UsageError
from tests.cli.test_end_to_end import command, decent, environment

NET = """
import os
import signal

from torch import nn


def fail():
    raise RuntimeError("the teapot is empty")


TROUBLES = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "fail": fail,
}


class Net(nn.Sequential):
    '''Lets the trouble that $TROUBLE names (what:rank:pass) happen in a training pass.'''

    passes = 0

    def forward(self, images):
        if self.training:
            self.passes += 1
            what, rank, at = os.environ.get("TROUBLE", "::").split(":")
            if rank == os.environ.get("RANK", "0") and at == str(self.passes):
                TROUBLES[what]()
        return super().forward(images)


def build():
    return Net(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))
"""
TINY = (
    "--data", "sklearn:digits", "--pretrain", 1, "--epochs", 2, "--batch-size", 200, "--ema", 0.9,
    "--selection-samples", 20, "--attacks", "fgsm", "--audit-samples", 10,
)  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "net.py").write_text(NET, encoding="utf-8")
    return folder


def run(*arguments: object, cwd: Path, trouble: str = "") -> subprocess.CompletedProcess[str]:
    """Run in as few seconds as processes can be started in; `trouble` as the network has it."""
    settings = environment(**({"TROUBLE": trouble} if trouble else {}))
    return subprocess.run(list(map(str, arguments)), cwd=cwd, env=settings, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def alone(desk: Path) -> Path:
    """A run of one process."""
    decent(run(*command("fit", "net.py:build", *TINY, "--out", "alone"), cwd=desk))
    return desk / "alone"


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(folder: Path, other: Path) -> None:
    for mine, theirs in zip(records(folder), records(other), strict=True):
        assert mine["scalars"] == pytest.approx(theirs["scalars"], rel=1e-4, abs=1e-5)
        assert mine["passes"] == theirs["passes"]
    for name in ("initial.safetensors", "model.safetensors"):
        mine, theirs = load_file(folder / name), load_file(other / name)
        for key, values in theirs.items():
            torch.testing.assert_close(mine[key], values, rtol=1e-3, atol=1e-4)
    assert (folder / "report.json").exists()


def processes_in(folder: Path) -> list[str]:
    """Return the processes that run in `folder`, where the system tells."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append(process.name)
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_stopped_in_two_processes_and_resumed_by_three_is_the_run_of_one(alone: Path, desk: Path) -> None:
    stopped = run(
        *command("fit", "net.py:build", *TINY, "--processes", 2, "--out", "many"), cwd=desk, trouble="stop:1:12"
    )
    decent(stopped, 130)
    assert stopped.stderr.count("Hardening") == 1
    assert "continue with: harden fit --resume many" in stopped.stderr
    assert stopped.stdout == ""
    resumed = run(*command("fit", "--resume", "many", "--gpus", 3), cwd=desk)
    decent(resumed)
    assert resumed.stdout.count("Everything is in many") == 1
    assert_same_run(desk / "many", alone)


def test_a_killed_process_is_a_clean_error_and_the_run_goes_on_without_it(alone: Path, desk: Path) -> None:
    killed = run(
        *command("fit", "net.py:build", *TINY, "--processes", 2, "--out", "bereft"), cwd=desk, trouble="kill:1:12"
    )
    decent(killed, 1)
    assert processes_in(desk) == []
    assert "error: another process of this run is gone (killed, or out of memory?)" in killed.stderr
    assert "try: continue with: harden fit --resume bereft" in killed.stderr
    decent(run(*command("fit", "--resume", "bereft"), cwd=desk))
    assert_same_run(desk / "bereft", alone)


@pytest.mark.slow
def test_what_fails_in_a_follower_is_told_by_the_leader(desk: Path) -> None:
    failed = run(
        *command("fit", "net.py:build", *TINY, "--processes", 2, "--out", "failed"), cwd=desk, trouble="fail:1:4"
    )
    decent(failed, 1)
    assert "process 1 of 0 to 1 ended: RuntimeError: the teapot is empty" in failed.stderr
    assert failed.stderr.count("error:") == 1


@pytest.mark.slow
def test_torchrun_with_three_processes_is_the_run_of_one(alone: Path, desk: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 3)
    done = run(*torchrun, "-m", "harden", "fit", "net.py:build", *TINY, "--out", "launched", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Hardening") == done.stdout.count("Everything is in launched") == 1
    assert_same_run(desk / "launched", alone)


@pytest.mark.parametrize(
    ("count", "variables", "words"),
    [
        (0, {}, "--processes 0 does nothing"),
        (10_000, {}, "--processes 10000 is more than this machine can run"),
        (3, {"RANK": "0", "WORLD_SIZE": "2"}, "torchrun started 2 processes"),
        (None, {"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2, WORLD_SIZE=2"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    count: int | None, variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words), together(count):
        pass


def test_a_follower_runs_no_code_of_the_current_folder_that_the_leader_would_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("typer", "queue", "json"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "argv", ["harden", "--version"])
    monkeypatch.delenv("PYTHONPATH", raising=False)  # as in a checkout that was never installed
    assert processes._start(Seat(1, 2, 1, 2), 1, 1).wait(60) == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("code", "ends"), [(0, False), (130, False), (1, True), (-9, True)])
def test_only_a_follower_that_fails_ends_a_leader_that_takes_long(
    code: int, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = MagicMock()
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(processes.os, "_exit", ended)
    monkeypatch.setattr(processes.os, "write", MagicMock())
    processes._watch(MagicMock(wait=lambda: code), Processes(0, 2))
    assert ended.called is ends


@pytest.mark.slow
def test_a_dry_run_needs_no_followers_and_they_end_with_it(desk: Path) -> None:
    done = run(*command("fit", "net.py:build", *TINY, "--processes", 2, "--dry-run"), cwd=desk)
    decent(done)
    assert "2, which share every step" in done.stderr
    assert processes_in(desk) == []
