"""How a run ended: judged by its audit, kept in config.json, and read back from any run folder.

`harden fit` exits with 1 unless the model was hardened: a script that trains and then exports must stop there, as it
stops where a test fails, and a run that only ran is no success. The folder keeps its weights and its report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harden.defences import SOURCES
from harden.errors import DataError, RunFolderError, TrainingError
from harden.report import document
from harden.report.ending import EndCause, Ending, EndStatus
from harden.report.judging import judge
from harden.report.report import Report
from harden.workflows.narrator import Narrator
from harden.workflows.run_folder import RunFolder

NOT_AUDITED = Ending(
    EndStatus.NOT_JUDGED,
    EndCause.NOT_AUDITED,
    "the run ended without an audit",
    "Audit it with: harden report RUN --against initial",
)


def with_ending(run: RunFolder, report: Report, *, steps: int | None = None) -> Report:
    """Judge how a run ended, keep that in config.json, and return the report with it.

    Args:
        run: the folder, whose config.json says what was trained how.
        report: on the model of the run, beside the one from before if that was audited.
        steps: training steps that the run took; None if that is not known.
    """
    config = run.read_config()
    ending = _judged(report, config, steps)
    run.write_json(run.config, {**config, "ending": ending.to_json()})
    return replace(report, ending=ending)


def ending_of(run: RunFolder) -> Ending:
    """Return how a run ended; of a folder that does not say so, as its report shows it.

    Raises:
        RunFolderError: config.json is missing or damaged.
    """
    config = run.read_config()
    kept = config.get("ending")
    if kept is not None:
        try:
            return Ending.from_json(kept)
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{run.config} is damaged (ending: {type(error).__name__})", hint="start the run again"
            ) from error
    try:
        report = document.read(run.path / "report.json")
    except DataError:  # there is none, or another version's
        return NOT_AUDITED
    return _judged(report, config, None)


def require_hardened(ending: Ending | None, run: RunFolder) -> None:
    """Return unless a run did not do what it was started for.

    Raises:
        TrainingError: naming the status and what to do.
    """
    if ending is not None and ending.status.is_failure:
        raise TrainingError(
            f"the run did not harden the model ({ending.status.value}); its weights and its report are in {run.path}",
            hint=ending.remedy,
        )


def require_exportable(run: RunFolder, *, anyway: bool, narrator: Narrator) -> None:
    """Return if a run hardened its model, was not judged, or is exported all the same.

    Raises:
        RunFolderError: it did not harden its model, and nobody said --anyway.
    """
    ending = ending_of(run)
    if not ending.status.is_failure:
        return
    if not anyway:
        raise RunFolderError(
            f"the run {run.path} did not harden its model. {ending.sentence()}",
            hint=f"{ending.remedy} Or export the model as it is with --anyway: its model card says how the run ended",
        )
    narrator.warn(f"the run {run.path} did not harden its model, and the model card says so. {ending.sentence()}")


def _judged(report: Report, config: Mapping[str, Any], steps: int | None) -> Ending:
    method = config.get("training", {}).get("method")
    return judge(report.subject, report.baseline, claims=SOURCES.get(method) != (), steps=steps)
