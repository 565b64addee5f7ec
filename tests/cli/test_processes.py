"""`harden fit` and `harden report` in several processes, as a user starts them: with --processes, or with torchrun."""

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
from tests.cli.terminal import command, decent, decent_fit, environment

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
    '''Lets the trouble that $TROUBLE names (what:rank:mode:pass) happen in a pass of the mode "train" or "eval".'''

    passes = {"train": 0, "eval": 0}

    def forward(self, images):
        what, rank, mode, at = os.environ.get("TROUBLE", ":::").split(":")
        here = "train" if self.training else "eval"
        self.passes[here] += 1
        if rank == os.environ.get("RANK", "0") and (mode, at) == (here, str(self.passes[here])):
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
    decent_fit(run(*command("fit", "net.py:build", *TINY, "--out", "alone"), cwd=desk), desk / "alone")
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
        *command("fit", "net.py:build", *TINY, "--processes", 2, "--out", "many"), cwd=desk, trouble="stop:1:train:12"
    )
    decent(stopped, 130)
    assert stopped.stderr.count("Hardening") == 1
    assert "continue with: harden fit --resume many" in stopped.stderr
    assert stopped.stdout == ""
    resumed = run(*command("fit", "--resume", "many", "--gpus", 3), cwd=desk)
    decent_fit(resumed, desk / "many")
    assert resumed.stdout.count("Everything is in many") == 1
    assert_same_run(desk / "many", alone)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--shard", "--sync-batchnorm")], ids=["whole", "shard"])
def test_a_killed_process_is_a_clean_error_and_the_run_goes_on_without_it(
    flags: tuple[str, ...], alone: Path, desk: Path
) -> None:
    out = f"bereft{len(flags)}"
    killed = run(
        *command("fit", "net.py:build", *TINY, *flags, "--processes", 2, "--out", out),
        cwd=desk,
        trouble="kill:1:train:12",
    )
    decent(killed, 1)
    assert processes_in(desk) == []
    assert "error: another process of this run is gone (killed, or out of memory?)" in killed.stderr
    assert f"try: continue with: harden fit --resume {out}" in killed.stderr
    decent_fit(run(*command("fit", "--resume", out), cwd=desk), desk / out)
    assert_same_run(desk / out, alone)


@pytest.mark.slow
def test_three_processes_with_a_part_of_the_weights_each_are_the_run_of_one(alone: Path, desk: Path) -> None:
    done = run(*command("fit", "net.py:build", *TINY, "--shard", "--processes", 3, "--out", "parts"), cwd=desk)
    decent_fit(done, desk / "parts")
    assert_same_run(desk / "parts", alone)
    shown = run(*command("report", "parts", "--attacks", "fgsm", "--out", "shown"), cwd=desk)
    decent(shown)


@pytest.mark.slow
def test_what_fails_in_a_follower_is_told_by_the_leader(desk: Path) -> None:
    failed = run(
        *command("fit", "net.py:build", *TINY, "--processes", 2, "--out", "failed"), cwd=desk, trouble="fail:1:train:4"
    )
    decent(failed, 1)
    assert "process 1 of 0 to 1 ended: RuntimeError: the teapot is empty" in failed.stderr
    assert failed.stderr.count("error:") == 1


@pytest.mark.slow
def test_torchrun_with_three_processes_is_the_run_of_one(alone: Path, desk: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 3)
    done = run(*torchrun, "-m", "harden", "fit", "net.py:build", *TINY, "--out", "launched", cwd=desk)
    assert done.stderr.count("Hardening") == done.stdout.count("Everything is in launched") == 1
    assert_same_run(desk / "launched", alone)


# -- audits ------------------------------------------------------------------------------------------------------------

AUDIT = ("--against", "initial", "--attacks", "fgsm,pgd-10,mim,apgd-ce,apgd-margin", "--data", "sklearn:digits")


def said(folder: Path) -> dict[str, Any]:
    """Return what a report says but for its seconds and the command."""
    found = json.loads((folder / "report.json").read_text())
    found["facts"] = [fact for fact in found["facts"] if fact[0] != "command"]
    return json.loads(
        json.dumps(found), object_hook=lambda part: {key: value for key, value in part.items() if key != "seconds"}
    )


@pytest.fixture(scope="module")
def reported(alone: Path) -> dict[str, Any]:
    """The report of one process on 360 images, which are two batches."""
    decent(run(*command("report", "alone", *AUDIT, "--out", "report"), cwd=alone.parent))
    return said(alone.parent / "report")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_a_report_of_several_processes_is_that_of_one(count: int, reported: dict[str, Any], desk: Path) -> None:
    done = run(*command("report", "alone", *AUDIT, "--gpus", count, "--out", f"report-{count}"), cwd=desk)
    decent(done)
    assert done.stdout.count("Everything is in") == done.stderr.count("Audit\n") == 1
    assert said(desk / f"report-{count}") == reported
    assert processes_in(desk) == []


@pytest.mark.slow
def test_torchrun_reports_with_two_processes(reported: dict[str, Any], desk: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    done = run(*torchrun, "-m", "harden", "report", "alone", *AUDIT, "--out", "report-launched", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Everything is in") == 1
    assert said(desk / "report-launched") == reported


@pytest.mark.slow
@pytest.mark.parametrize(("trouble", "code"), [("kill:1:eval:12", 1), ("fail:1:eval:12", 1), ("stop:0:eval:40", 130)])
def test_a_report_that_ends_early_is_gone_on_with_by_any_number(
    trouble: str, code: int, reported: dict[str, Any], desk: Path
) -> None:
    folder = f"report-{trouble.replace(':', '-')}"
    ended = run(*command("report", "alone", *AUDIT, "--processes", 2, "--out", folder), cwd=desk, trouble=trouble)
    decent(ended, code)
    assert processes_in(desk) == []
    assert f"the same command with --out {folder} goes on" in " ".join(ended.stderr.split())
    assert list((desk / folder / "progress").glob("*.json"))
    decent(run(*command("report", "alone", *AUDIT, "--processes", 3, "--out", folder), cwd=desk))
    assert without_gallery(said(desk / folder)) == without_gallery(reported)


def without_gallery(report: dict[str, Any]) -> dict[str, Any]:
    """Leave out images to look at, which are found anew for attacks that were finished before."""
    return {**report, "results": [{**result, "gallery": None} for result in report["results"]]}


@pytest.mark.slow
def test_the_last_audit_of_a_fit_is_shared_and_that_of_its_weights(desk: Path) -> None:
    """On the same images, `harden report` finds alone what the processes of the fit found together."""
    sizes = ("--audit-samples", 300, "--out", "shared", "--processes", 2)
    decent_fit(run(*command("fit", "net.py:build", *TINY, *sizes), cwd=desk), desk / "shared")
    decent(run(*command("report", "shared", "--attacks", "fgsm", "--samples", 300, "--out", "again"), cwd=desk))
    (_, hardened), (again,) = said(desk / "shared")["results"], said(desk / "again")["results"]
    for name in ("clean_predictions", "clean_margins"):
        assert hardened[name] == again[name]
    for name in ("predictions", "margins", "distances", "forwards", "backwards"):
        assert hardened["outcomes"][0][name] == again["outcomes"][0][name]


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
    monkeypatch.setattr(processes, "leave", ended)
    monkeypatch.setattr(processes.os, "write", MagicMock())
    processes._watch(MagicMock(wait=lambda: code), Processes(0, 2))
    assert ended.called is ends


@pytest.mark.slow
def test_a_dry_run_needs_no_followers_and_they_end_with_it(desk: Path) -> None:
    done = run(*command("fit", "net.py:build", *TINY, "--processes", 2, "--dry-run"), cwd=desk)
    decent(done)
    assert "2, which share every step" in done.stderr
    assert processes_in(desk) == []
