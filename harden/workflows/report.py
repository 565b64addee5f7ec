"""`harden report`: any model, on any images, beside others if asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from harden import __version__
from harden.attacks import ATTACKS, Planned
from harden.audit.gate import Gate, judge_gates, parse_gates, read_floors
from harden.audit.result import ImageOrigin
from harden.data import ImageSet
from harden.distributed import ALONE, Processes
from harden.errors import Interrupted, OccupiedError, ProcessLostError
from harden.files import require_writable
from harden.report.report import Report
from harden.workflows.audit import DEFAULT_ATTACKS, audit_subjects, plan_for, write_reports, write_unreadable
from harden.workflows.examine import Scope
from harden.workflows.first_checks import check_first
from harden.workflows.narrator import Narrator, Silent
from harden.workflows.new_run import unused
from harden.workflows.prepare import as_run
from harden.workflows.run_folder import RunFolder
from harden.workflows.side_by_side import Ready, ReportSettings, make_ready
from harden.workflows.surrogate_training import Surrogate
from harden.workflows.surrogates import AUTO, open_surrogates, transfer_attacks

PROGRESS = "progress"
"""Folder beside a report in the making that holds its finished attacks."""


def report(
    settings: ReportSettings,
    *,
    out: Path | None,
    narrator: Narrator,
    command: str,
    stop_requested: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
) -> tuple[Report, Path]:
    """Audit a model, beside others if asked, and write the report.

    Args:
        settings: what to do.
        out: the folder for report.*; None: `RUN/audit`, or `MODEL-report` here, numbered where that exists. An audit
            that was interrupted there goes on.
        narrator: hears what happens.
        command: what the user typed, for the record.
        stop_requested: asked after every pass of the audit.
        processes: that share the attacks; this one leads, and the others `follow`.

    Returns:
        The report, with the verdict on every gate, and the folder it was written to.

    Raises:
        HardenError: anything the user can repair.
        Interrupted: a stop was requested; the audit can be gone on with.
    """
    presets = settings.attacks or DEFAULT_ATTACKS
    others = (*settings.against, *settings.surrogates)
    models = (settings.spec.model, *(name for name in others if name not in ("initial", AUTO)))
    check_first(models=models, arch=settings.spec.arch, device=settings.device, attacks=presets)
    if settings.fail_under and settings.surrogates:  # whose attacks have names that are not known yet
        read_floors(settings.fail_under)
    elif settings.fail_under:
        parse_gates(settings.fail_under, attacks={name: attack(0.0).name for name, attack in ATTACKS.items()})
    run = as_run(settings.spec.model)
    folder = _folder(settings, run, out)
    history = run.read_history() if run is not None else None  # damage is said before anything takes long
    ready = make_ready(settings, run, narrator, processes)
    # Surrogates may take long to train: what they will craft is known before, and so is whether the gates make sense.
    absent = [Surrogate(name, nn.Identity(), 0.0) for name in settings.surrogates]
    promised = _transfers(settings, absent, ready)
    gates = _gates(settings.fail_under, plan_for(ready.subjects[-1], settings.attacks, ready.eps, promised))
    transfers = _transfers(settings, _surrogates(settings, ready, narrator, stop_requested), ready)
    unreadable = {file: why for opened in ready.opened for file, why in opened.images.unreadable.items()}
    narrator.heading("Audit")
    processes.tell("audit")  # now that what the followers need as well is in the caches
    kept_in = folder / PROGRESS
    again = f"the same command with --out {folder} goes on after the attacks that were finished"
    try:
        found = audit_subjects(
            ready.subjects,
            eps=ready.eps,
            attacks=settings.attacks,
            dataset=f"{ready.data}, {len(ready.chosen)} of {ready.available} {ready.which}",
            origin=ImageOrigin(ready.data, ready.split, ready.available, ready.which),
            seed=settings.seed,
            narrator=narrator,
            title=f"Audit of {ready.subjects[-1].name}",
            scope=Scope.of(presets),
            kept_in=kept_in,
            history=history,
            facts=(
                ("command", command),
                ("images", ready.which),
                ("seed", str(settings.seed)),
                ("harden", __version__),
            ),
            train=_training_images(ready, narrator),
            caveats=(*ready.caveats, *write_unreadable(unreadable, folder, narrator)),
            transfers=transfers,
            stop_requested=stop_requested,
            processes=processes,
        )
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted("stopped in the audit", hint=again if kept_in.exists() else None) from None
    except ProcessLostError as lost:
        raise ProcessLostError(lost.message, hint=again if kept_in.exists() else None) from lost
    verdicts = judge_gates(found.subject, gates, ignores_checks=settings.gate_ignores_checks)
    found = replace(found, gates=verdicts, data=ready.facts)
    write_reports(found, folder, narrator)
    shutil.rmtree(kept_in, ignore_errors=True)
    return found, folder


def follow(settings: ReportSettings, processes: Processes, *, stop_requested: Callable[[], bool]) -> None:
    """Audit together with a leader that runs `report` with the same settings, until it needs nobody.

    Args:
        settings: what to do.
        processes: that share the attacks.
        stop_requested: asked after every pass.

    Raises:
        HardenError: as `report`.
        UsageError: the models or images are not the leader's.
        ProcessLostError: another process is gone.
    """
    if processes.hear(stop_requested) is None:
        return
    narrator = Silent()
    ready = make_ready(settings, as_run(settings.spec.model), narrator, processes)
    audit_subjects(
        ready.subjects,
        eps=ready.eps,
        attacks=settings.attacks,
        dataset="",
        seed=settings.seed,
        narrator=narrator,
        title="",
        scope=Scope.of(settings.attacks or DEFAULT_ATTACKS),
        kept_in=None,
        transfers=_transfers(settings, _surrogates(settings, ready, narrator, stop_requested), ready),
        stop_requested=stop_requested,
        processes=processes,
    )


def _surrogates(
    settings: ReportSettings, ready: Ready, narrator: Narrator, stop_requested: Callable[[], bool]
) -> tuple[Surrogate, ...]:
    subject = ready.opened[-1]
    return open_surrogates(
        settings.surrogates,
        spec=settings.spec,
        subject=subject.classifier,
        images=subject.images,
        plan=ready.run.splits_of(ready.source) if ready.run is not None else None,
        audited=ready.chosen,
        seed=settings.seed,
        device=ready.device,
        narrator=narrator,
        stop_requested=stop_requested,
    )


def _transfers(settings: ReportSettings, surrogates: Sequence[Surrogate], ready: Ready) -> list[Planned]:
    paper = "paper" in (settings.attacks or DEFAULT_ATTACKS)
    return transfer_attacks(surrogates, eps=ready.eps, paper=paper, member=not paper)


def _gates(text: str | None, plan: Sequence[Planned]) -> tuple[Gate, ...]:
    """Read `--fail-under` for the attacks that the subject meets."""
    if not text:
        return ()
    typed = {attack(0.0).name: name for name, attack in ATTACKS.items()}
    every, members = (
        {typed.get(entry.attack.name, entry.attack.name): entry.attack.name for entry in plan if entry.member is member}
        for member in (False, True)
    )
    return parse_gates(text, attacks=every, members=members)


def _folder(settings: ReportSettings, run: RunFolder | None, out: Path | None) -> Path:
    """Return where the report goes: the folder asked for, the newest one with an unfinished audit, or a new one.

    Raises:
        OccupiedError: the folder asked for has a report.
        WriteError: no file can be written there.
    """
    if out is not None:
        require_writable(out)
        if (out / "report.json").exists():
            raise OccupiedError(f"{out} holds a report already", hint="choose another --out, or remove that one")
        return out
    stem = Path(settings.spec.model).stem.replace(":", "-")
    base = run.path / "audit" if run else Path(f"{stem}-report")
    free = unused(base)
    require_writable(free)
    last = sorted(base.parent.glob(f"{base.name}*/{PROGRESS}"), key=lambda path: path.stat().st_mtime)
    return last[-1].parent if last and not (last[-1].parent / "report.json").exists() else free


def _training_images(ready: Ready, narrator: Narrator) -> ImageSet | None:
    """Return the images that the run trained on, as the subject sees them; None where they are not known."""
    plan = ready.run.splits_of(ready.source) if ready.run is not None else None
    return ready.opened[-1].images.decode(plan.train, narrator, "training images, to look for copies") if plan else None
