"""Ctrl-C and budgets are obeyed in every phase of a fit, within a unit of work of that phase."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from tests.cli.slow_network import NETWORK, Running
from tests.workflows.builders import Workshop

pytestmark = pytest.mark.slow

SOON = 6.0
"""Seconds within which a command ends after a signal: a unit of work here takes one, and Python itself some to end."""
FIT = ("--eps", "8/255", "--method", "sat", "--batch-size", "20", "--epochs", "3", "--attacks", "fast")


@pytest.fixture
def slow(workshop: Workshop, tmp_path: Path) -> tuple[object, ...]:
    """The words of a command that hardens the slow network."""
    (tmp_path / "slow.py").write_text(NETWORK)
    torch.save(workshop.module.state_dict(), tmp_path / "slow.pth")
    return ("fit", tmp_path / "slow.pth", "--arch", f"{tmp_path / 'slow.py'}:net", "--data", workshop.data, *FIT)


PHASES = {
    "listing": ("Data", {"SLOW_FILE": "0.5", "SLOW_LISTING": "1"}),
    "decoding": ("Model", {"SLOW_FILE": "0.5", "SLOW_DECODING": "1"}),
    "preflight": ("Preflight", {"SLOW_PASS": "0.8"}),
    "planning": ("run folder:", {"SLOW_PASS": "0.4"}),
    "training": ("Hardening", {"SLOW_PASS": "0.2"}),
    "measuring": ("epoch 1", {"SLOW_IMAGE": "0.002"}),
    "audit": ("Final audit", {"SLOW_IMAGE": "0.002"}),
}
"""By phase: what is said when it has begun, and what makes it slow."""


@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_ends_a_fit_within_a_unit_of_work(phase: str, slow: tuple[object, ...], tmp_path: Path) -> None:
    words, changes = PHASES[phase]
    running = Running(slow, tmp_path, HARDEN_CACHE=str(tmp_path / "cache"), **changes)
    running.wait_for(words)
    time.sleep(1.0)
    running.interrupt()
    code, took = running.ended()
    assert code == 130, running.said
    assert took < SOON, running.said
    assert "Traceback" not in running.said
    kept = list(tmp_path.glob("runs/*"))
    assert bool(kept) or phase not in ("measuring", "audit")
    assert ("--resume" in running.said) is bool(kept)


@pytest.mark.parametrize("phase", ["preflight", "training"])
def test_a_second_signal_ends_it_at_once(phase: str, slow: tuple[object, ...], tmp_path: Path) -> None:
    running = Running(slow, tmp_path, SLOW_PASS="20" if phase == "preflight" else "3")
    running.wait_for("Model" if phase == "preflight" else "Hardening", 200)
    time.sleep(1.0)
    running.interrupt()
    running.wait_for("again to end at once")
    running.interrupt()
    code, took = running.ended()
    assert code == 130, running.said
    assert took < SOON, running.said
