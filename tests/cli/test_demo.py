"""`harden demo`, with fewer epochs than a user gets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harden.cli.app import program
from harden.workflows import demo


def test_the_demo_goes_all_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    short = replace(demo.DEMO, epochs=6, pretrain=3, batch_size=32, audit_samples=100, attacks=("fast",))
    monkeypatch.setattr(demo, "DEMO", short)
    out = tmp_path / "demo"
    with pytest.raises(SystemExit) as caught:
        program()(["demo", "--out", str(out), "--json"])
    assert caught.value.code == 0
    shown = json.loads(capfd.readouterr().out)
    before, after = shown["models"]
    assert after["worst_case"]["value"] > before["worst_case"]["value"] + 0.1
    assert after["clean"]["value"] > 0.8
    for name in ("report.html", "model.safetensors", "export/model.safetensors", "export/model.onnx"):
        assert (out / name).stat().st_size > 1000, name
