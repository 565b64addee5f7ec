"""`harden fit`: from a model and a folder of images to a hardened model with a before/after audit."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harden.attacks import ATTACKS
from harden.audit.result import ImageOrigin
from harden.data import SplitPlan, name_of
from harden.defences import STATIC_DEFENCES
from harden.distributed import ALONE, Processes
from harden.errors import (
    BudgetError,
    Interrupted,
    ProcessLostError,
    RunFolderError,
    UsageError,
    UserCodeError,
    WriteError,
)
from harden.export.to_safetensors import load_weights
from harden.files import clear_temporaries, write_whole
from harden.models.fingerprint import fingerprint
from harden.models.state_dict import load_into
from harden.models.user_code import copied
from harden.report.figures import counted
from harden.report.report import Report
from harden.training.evaluate import CANARY_ATTACK
from harden.training.freezing import frozen_names
from harden.training.history import History
from harden.training.selection import CONFIRMATION_ATTACK, SELECTION_ATTACK, confirmation_attack
from harden.training.settings import Trained
from harden.workflows.affordable import affordable_audit
from harden.workflows.audit import audit_subjects, run_facts, run_title, write_reports, write_unreadable
from harden.workflows.budget import Budget, time_limit
from harden.workflows.data_facts import facts_of
from harden.workflows.encounters import Encounters
from harden.workflows.ending import with_ending
from harden.workflows.examine import Scope, Subject
from harden.workflows.hardening import build_defence, join_training, plan_run, steps_taken, train
from harden.workflows.job import (
    Job,
    StopRequested,
    check_fit,
    choose_splits,
    open_source,
    prepare_job,
    require_trust_in_statics,
    with_statics,
)
from harden.workflows.narrator import Narrator, Silent
from harden.workflows.new_run import keep_architecture, new_run, require_free
from harden.workflows.plan import Plan
from harden.workflows.plan_table import tell_plan
from harden.workflows.prepare import as_run
from harden.workflows.reopening import reopened
from harden.workflows.run_folder import RunFolder, describe
from harden.workflows.settings import FitSettings, as_recipe


@dataclass(frozen=True, eq=False)
class FitResult:
    """What a fit leaves behind.

    Attributes:
        run: the run folder; None for a dry run.
        report: before and after; None for a dry run, or where no audit was asked for.
        plan: of a dry run.
        data: of the data, for programs; see `DataFacts`.
    """

    run: RunFolder | None
    report: Report | None
    plan: Plan | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


def fit(
    settings: FitSettings,
    *,
    out: Path | None,
    dry_run: bool,
    narrator: Narrator,
    stop_requested: StopRequested,
    command: str,
    audit: bool = True,
    splits: SplitPlan | None = None,
    processes: Processes = ALONE,
    began: float | None = None,
) -> FitResult:
    """Harden a model.

    Args:
        settings: what to do; unset ones are decided here and written into the run's recipe.
        out: the run folder, which must not exist or be empty; None makes one under `runs/`.
        dry_run: stop after the preflight and the plan; nothing is written.
        narrator: hears what happens.
        stop_requested: asked after every training step.
        command: what the user typed, for the record.
        audit: whether to end with an audit; without it, test images are not read.
        splits: what is trained, selected and tested on; None: drawn by the seed, or those of an earlier run.
        processes: that train and audit together; this one leads, and the others `follow`.
        began: when a budget begins, on the clock of `time.monotonic`; None: now.

    Raises:
        HardenError: anything the user can repair.
        Interrupted: a stop was requested; the run can be resumed.
    """
    began = time.monotonic() if began is None else began
    with time_limit(settings.budget if audit and settings.epochs is None else None, began):
        return _fit(settings, out, dry_run, narrator, stop_requested, command, audit, splits, processes, began=began)


def _fit(
    settings: FitSettings,
    out: Path | None,
    dry_run: bool,
    narrator: Narrator,
    stop_requested: StopRequested,
    command: str,
    audit: bool,
    splits: SplitPlan | None,
    processes: Processes,
    *,
    began: float,
) -> FitResult:
    check_fit(settings)
    require_free(out)
    narrator.heading("Data")
    source = open_source(settings)
    narrator.note(f"{len(source.classes)} classes in {source.location}")
    known = facts_of(source, [earlier] if (earlier := as_run(settings.model)) is not None else [])
    known.tell(narrator)
    splits = splits or choose_splits(settings, source, narrator)
    job = prepare_job(settings, splits, narrator, stop_requested, began, command, source, processes, audit)
    processes.require(job.classifier.device)
    settings = job.settings
    frozen_names(job.classifier.module, settings.freeze)
    job = with_statics(job)  # before there is a folder: a stop here leaves nothing to go on with
    if not audit:
        job = replace(job, began=time.monotonic(), audits=False)  # all of a budget is for training
    if dry_run:
        defence, layer = build_defence(job)
        plan = plan_run(job, defence, layer, pretrained=False)
        tell_plan(job, plan)
        return FitResult(None, None, plan, known.to_json(job.images.probe))
    run = new_run(out, name=f"{name_of(settings.data)}-{settings.method}")
    try:
        keep_architecture(run, job.classifier)
        run.save_classifier(job.classifier, run.starting_weights if settings.pretrain else run.initial_weights)
        write_whole(run.recipe, as_recipe(settings))
        run.write_splits(splits, source)
        described = {**describe(job.classifier), "command": command, "earlier": job.earlier.to_json()}
        run.write_json(run.config, described | {"gray_bits": settings.gray_bits, "statics": _fingerprints(job)})
        if settings.budget is not None and settings.epochs is None:
            job = replace(job, budget=Budget(run.budget, settings.budget, began=job.began))
        narrator.note(f"run folder: {run.path}")
        write_unreadable(job.images.unreadable, run.path, narrator)
        return _execute(run, job)
    except (Exception, KeyboardInterrupt):
        if not run.can_go_on(settings.pretrain):
            shutil.rmtree(run.path, ignore_errors=True)  # nothing in it could be resumed
        raise


def resume(
    run: RunFolder,
    settings: FitSettings,
    *,
    narrator: Narrator,
    stop_requested: StopRequested,
    command: str,
    arch: str | None = None,
    audit: bool = True,
    processes: Processes = ALONE,
) -> FitResult:
    """Continue a run from its last checkpoint; it ends in the weights that an uninterrupted run would have had.

    Args:
        run: the folder.
        settings: as its recipe.toml says.
        narrator, stop_requested: as for `fit`.
        command: for the record, where config.json has none.
        arch: code that builds the network, where the run's own may not be run.
        audit, processes: as for `fit`; there may be more or fewer processes than before.

    Raises:
        RunFolderError: the run is finished, or damaged.
    """
    began, budget = time.monotonic(), None
    if (run.path / "report.json").exists():
        clear_temporaries(run.path)
        shutil.rmtree(run.audit_progress, ignore_errors=True)  # left where it was killed after its last file
        raise RunFolderError(f"{run.path} is finished", hint=f"audit it again with: harden report {run.path}")
    if run.budget.exists():
        budget = Budget.read(run.budget, began=began)
        began = budget.began
        if not run.checkpoint.exists():
            settings = replace(settings, epochs=None, budget=budget.seconds)
    clear_temporaries(run.path)
    narrator.heading(f"Resuming {run.path}")
    job = reopened(run, settings, narrator, stop_requested, arch=arch)
    job = replace(job, began=began, command=job.command or command, budget=budget, audits=audit, processes=processes)
    processes.require(job.classifier.device)
    if settings.method in STATIC_DEFENCES:
        require_trust_in_statics(run.path, settings, arch)
    job = with_statics(job)
    if _fingerprints(job) != run.read_config().get("statics", []):
        narrator.warn(
            "the static networks are not those that the run began with, so it does not end as it would have if nobody "
            "had stopped it"
        )
    try:
        return _execute(run, job)
    except UsageError as error:
        if budget is None or run.weights.exists():
            raise
        raise UsageError(
            error.message, hint=f'write more "seconds" into {run.budget}, or start the run again in another folder'
        ) from error


def follow(processes: Processes, *, stop_requested: StopRequested, arch: str | None = None) -> None:
    """Train and audit together with a leader that runs `fit` or `resume`, in its run folder, until it needs nobody.

    Args:
        processes: that do so.
        stop_requested: asked after every training step, where one process that says so stops all, and in the audit,
            which goes on only with all of them.
        arch: code that builds the network, if the user named it.

    Raises:
        HardenError: as `resume`.
        UsageError: the static networks are not the leader's.
        ProcessLostError: another process is gone.
    """
    word = processes.hear(stop_requested)
    if word is None:
        return
    where, statics, described = word.split("\n", 2)
    run, settings = RunFolder(Path(where)), FitSettings.from_json(described)
    job = reopened(run, settings, Silent(), stop_requested, arch=arch)
    job = with_statics(replace(job, processes=processes))
    # Not config.json's: a resumed run may go on with others, if all of its processes do.
    if _fingerprints(job) != statics.split():
        raise UsageError(
            "its static networks are not those of process 0, and each would train on other examples",
            hint="--static with files that are the same for all processes",
        )
    trained = join_training(run, job)
    word = processes.hear(stop_requested) if trained is not None else None
    if trained is not None and word is not None:
        trained = replace(trained, settings=replace(trained.settings, audit_samples=json.loads(word)))
        processes.make_alike(trained.classifier)
        _report_on(run, trained, _subjects(run, trained, Encounters()))


def _fingerprints(job: Job) -> list[str]:
    return [fingerprint(network) for network in job.statics]


def _execute(run: RunFolder, job: Job) -> FitResult:
    """Train, keep the weights, and, if the run ends with one, audit and report."""
    if job.budget is not None:
        job.budget.keep()
    job.processes.tell(f"{run.path.absolute()}\n{' '.join(_fingerprints(job))}\n{job.settings.to_json()}")
    try:
        job, trained = train(run, job)
        _keep(run, job, trained)
        return FitResult(run, _audit(run, job, trained) if job.audits else None)
    except (WriteError, UserCodeError) as error:
        hint = f"{error.hint}; what is there is kept, and goes on with: harden fit --resume {run.path}"
        error.hint = hint if run.can_go_on(job.settings.pretrain) else error.hint
        raise
    except Interrupted as stop:
        if job.budget is not None:
            job.budget.keep()
        again = f"continue with: harden fit --resume {run.path}" if run.can_go_on(job.settings.pretrain) else None
        raise Interrupted(stop.message, hint=again) from None
    except BudgetError as spent:
        if run.weights.exists():
            hint = f"the hardened model is kept; audit it with: harden report {run.path}"
            raise BudgetError(f"{spent.message}, in the final audit", hint=hint) from None
        raise
    except ProcessLostError as lost:
        raise ProcessLostError(lost.message, hint=f"continue with: harden fit --resume {run.path}") from lost


def _keep(run: RunFolder, job: Job, trained: Trained) -> None:
    """Write the hardened weights, and what the run was into config.json."""
    settings = job.settings
    config = run.read_config()
    config["training"] = {
        "method": settings.method,
        **_met(job, trained).to_json(),
        "norm": "linf",
        "eps": job.eps,
        "split": settings.split,
        "beta": settings.beta,
        "gamma": settings.gamma,
        "epochs": settings.epochs,
        "budget": job.budget.seconds if job.budget is not None else None,
        "chosen_epoch": trained.history.chosen_epoch,
        "validation_worst_case": trained.confirmation,
        "data": settings.data,
        "seed": settings.seed,
    }
    run.write_json(run.config, config)
    run.save_classifier(job.classifier, run.weights)  # last: a run that has them is complete but for its audit
    chosen = f"chose epoch {trained.history.chosen_epoch} of {len(trained.history.epochs)}"
    if trained.confirmation is not None:
        chosen += (
            f": {trained.confirmation:.1%} of {counted(len(job.val), 'validation image')} withstand "
            f"{ATTACKS[SELECTION_ATTACK](job.eps).name} and {confirmation_attack(job.eps).name}"
        )
    job.narrator.note(chosen)


def _audit(run: RunFolder, job: Job, trained: Trained) -> Report:
    """Audit the model before and after on the same test images, once."""
    job.narrator.heading("Final audit")
    job = replace(job, settings=affordable_audit(job.settings, job.budget, job.narrator))
    settings = job.settings
    subjects = _subjects(run, job, _met(job, trained))
    unread = write_unreadable(job.images.unreadable, run.path, job.narrator)
    known = facts_of(job.images.source, [run])
    job.processes.tell(json.dumps(settings.audit_samples))  # now that what the followers decode as well is in the cache
    job.processes.make_alike(job.classifier)  # buffers that training has no part in may differ
    report = _report_on(
        run,
        job,
        subjects,
        title=run_title(settings, trained.source_attacks),
        history=trained.history,
        facts=run_facts(settings, job.command, job.splits.how, trained.history, job.budget),
        caveats=(*unread, *known.caveats),
    )
    report = replace(report, data=known.to_json(job.images.probe))
    report = with_ending(run, report, steps=steps_taken(job, trained))
    write_reports(report, run.path, job.narrator)
    shutil.rmtree(run.audit_progress, ignore_errors=True)
    return report


def _subjects(run: RunFolder, job: Job, met: Encounters) -> tuple[Subject, Subject]:
    """Return the model before and after, and the test images that both are audited on."""
    settings = job.settings
    entries = job.images.sample(job.splits.test, settings.audit_samples, settings.seed, "audit")
    test = job.images.decode(entries, job.narrator, "test images")
    # A copy, not built anew: the code that --arch names may have changed while the run went on.
    before = copied(job.classifier)
    load_into(before.module, load_weights(run.initial_weights))
    return (
        Subject("before", before, test, job.earlier.exposures(job.eps)),
        Subject(settings.method, job.classifier, test, met.exposures(job.eps)),
    )


def _report_on(
    run: RunFolder,
    job: Job,
    subjects: Sequence[Subject],
    *,
    title: str = "",
    history: History | None = None,
    facts: Sequence[tuple[str, str]] = (),
    caveats: Sequence[str] = (),
) -> Report:
    """Audit the subjects, in all processes alike; what the report says besides is needed by the leader alone."""
    settings = job.settings
    return audit_subjects(
        subjects,
        eps=job.eps,
        attacks=settings.attacks,
        scope=Scope.of(settings.attacks, brief=True),
        kept_in=run.audit_progress,
        dataset=f"{settings.data}, {len(subjects[-1].images)} of {len(job.splits.test)} test images",
        origin=ImageOrigin(settings.data, "test", len(job.splits.test)),
        seed=settings.seed,
        narrator=job.narrator,
        title=title,
        history=history,
        facts=facts,
        train=job.train if job.processes.leads else None,
        caveats=caveats,
        stop_requested=job.stop_requested,
        processes=job.processes,
    )


def _met(job: Job, trained: Trained) -> Encounters:
    """Return what the model met in earlier runs and in this one."""
    selection = (CANARY_ATTACK, SELECTION_ATTACK, CONFIRMATION_ATTACK) if trained.source_attacks else ()
    return job.earlier.followed_by(Encounters(trained.source_attacks, selection))
