"""`harden demo`: the whole path on data that comes with scikit-learn, in about a minute on two cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from harden.errors import UsageError
from harden.report.report import Report
from harden.workflows.export import Exported, export
from harden.workflows.export_subject import ExportSettings
from harden.workflows.fit import fit
from harden.workflows.job import StopRequested
from harden.workflows.narrator import Narrator
from harden.workflows.prepare import ModelSpec
from harden.workflows.run_folder import RunFolder
from harden.workflows.settings import FitSettings

DEMO = FitSettings(
    model="harden.models.demo:demo_net",
    data="sklearn:digits",
    method="adv4adv",
    eps=0.15,
    pretrain=15,
    epochs=40,
    batch_size=64,
    augment="none",
    selection_samples=400,
)


@dataclass(frozen=True, eq=False)
class DemoResult:
    """Where the demo left everything."""

    run: RunFolder
    report: Report
    exported: tuple[Exported, ...]


def demo(*, out: Path | None, seed: int, narrator: Narrator, stop_requested: StopRequested, command: str) -> DemoResult:
    """Train a small classifier of scikit-learn's digits, harden it, audit it before and after, export it.

    Raises:
        HardenError: the folder exists, or anything else the user can repair.
    """
    result = fit(
        replace(DEMO, seed=seed),
        out=out,
        dry_run=False,
        narrator=narrator,
        stop_requested=stop_requested,
        command=command,
    )
    if result.run is None or result.report is None:
        raise UsageError("the demo did not run")
    exported = export(
        ExportSettings(spec=ModelSpec(model=str(result.run.path)), formats=("safetensors", "onnx"), anyway=True),
        out=None,
        narrator=narrator,
    )
    return DemoResult(result.run, result.report, exported)
