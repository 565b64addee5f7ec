"""Auditing models side by side, for `harden fit` and `harden report`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harden import __version__
from harden.access import Access
from harden.attacks import ATTACKS, Planned, Transfer, attack_names
from harden.audit.keeping import identity_of
from harden.audit.result import ImageOrigin
from harden.data import ImageSet, duplicate_files, name_of
from harden.distributed import ALONE, Processes
from harden.durations import duration
from harden.errors import Interrupted, UsageError
from harden.files import write_whole
from harden.models.classifier import Classifier
from harden.models.fingerprint import fingerprint
from harden.report import write_report
from harden.report.figures import counted
from harden.report.report import Report
from harden.training.canary import Collapse
from harden.training.history import History
from harden.workflows.black_box import score_attacks
from harden.workflows.budget import Budget
from harden.workflows.examine import Scope, Subject, examine
from harden.workflows.narrator import Narrator
from harden.workflows.settings import FitSettings

DEFAULT_ATTACKS = ("standard",)
UNREADABLE = "unreadable.txt"
_OVERFITTED = (Collapse.CATASTROPHIC_OVERFITTING, Collapse.NOT_RECORDED)
"""What a reader is warned of; an earlier version that did not record the kind may have meant it."""


def audit_subjects(
    subjects: Sequence[Subject],
    *,
    eps: float,
    attacks: Sequence[str] | None,
    dataset: str,
    origin: ImageOrigin | None = None,
    seed: int,
    narrator: Narrator,
    title: str,
    scope: Scope,
    kept_in: Path | None,
    history: History | None = None,
    facts: Sequence[tuple[str, str]] = (),
    train: ImageSet | None = None,
    caveats: Sequence[str] = (),
    transfers: Sequence[Planned] = (),
    stop_requested: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
) -> Report:
    """Examine every subject with the same attacks, and put the results side by side.

    Args:
        subjects: the last is the one that the report is about.
        eps: l_inf radius on the [0, 1] scale.
        attacks: names of presets and attacks; None: the default. A black box meets only those that need no gradient.
        dataset: for the report: what is audited, in words.
        origin: the same for programs; None in a follower, whose results nobody reads.
        seed: of everything random.
        narrator: hears how far it is.
        title, history, facts, caveats: for the report.
        scope: what to measure besides.
        kept_in: folder for finished attacks, so that an interrupted audit can go on; the caller removes it. A follower
            writes nothing.
        train: training images, to look for copies of audited images among them.
        transfers: attacks from surrogates; they come before those that ask for scores only.
        stop_requested: asked as often as the narrator hears something.
        processes: that share the attacks, with the same subjects, attacks, scope and seed; the report is the leader's.

    Raises:
        Interrupted: a stop was requested.
        ProcessLostError: another process is gone.
        UsageError: no attack is left for a black box, or a follower's subjects are not those of the leader.
    """

    def stopping() -> None:
        if stop_requested():
            raise Interrupted("stopped in the audit; what was finished is kept")
        processes.require_leader()

    if processes.size > 1:
        _require_alike(subjects, transfers, seed, processes)
    copies = duplicate_files(train, subjects[-1].images) if train is not None else None
    results = [
        examine(
            subject,
            plan_for(subject, attacks, eps, transfers),
            eps=eps,
            scope=scope if subject is subjects[-1] or scope.baselines else replace(scope, checks=False),
            dataset=dataset,
            seed=seed,
            narrator=narrator,
            stopping=stopping,
            copies=copies,
            kept_in=kept_in,
            processes=processes,
        )
        for subject in subjects
    ]
    results = [replace(result, origin=origin) for result in results]
    return Report(title, tuple(results), history, tuple(facts), (*overfitted(history), *caveats))


def _require_alike(subjects: Sequence[Subject], transfers: Sequence[Planned], seed: int, processes: Processes) -> None:
    """Refuse to share attacks on other models or images than the leader's: the outcomes would be those of neither.

    Raises:
        UsageError: they are not the same here.
    """
    attacks = (entry.attack for entry in (*transfers, *(entry for subject in subjects for entry in subject.transfers)))
    surrogates = (one for attack in attacks if isinstance(attack, Transfer) for one in attack.surrogates)
    audited = (identity_of(one.classifier, name=one.name, images=one.images, seed=seed) for one in subjects)
    here = " ".join((*audited, *map(fingerprint, surrogates)))
    if processes.as_leader(lambda: here) != here:
        raise UsageError(
            "its models or images are not those of process 0, and it would attack others",
            hint="start all processes with the same command, on the same files",
        )


def plan_for(
    subject: Subject, attacks: Sequence[str] | None, eps: float, transfers: Sequence[Planned] = ()
) -> tuple[Planned, ...]:
    """Return the attacks that a subject meets: with gradients, then from surrogates, then with scores only.

    Raises:
        UsageError: an unknown name, or no attack is left for a black box.
    """
    if isinstance(subject.classifier, Classifier):
        names = attack_names(attacks or DEFAULT_ATTACKS)
    else:
        names = score_attacks(attacks, others=bool(transfers), beside=bool(subject.transfers))
    planned = [Planned(ATTACKS[name](eps), member) for name, member in names]
    last = [entry for entry in planned if entry.attack.access is Access.SCORES]
    return (
        *(entry for entry in planned if entry.attack.access is not Access.SCORES),
        *transfers,
        *subject.transfers,
        *last,
    )


def overfitted(history: History | None) -> tuple[str, ...]:
    """Return what a reader must know where training overfitted to its source attack, whatever became of it.

    On such a run of Fashion-MNIST an independent AutoAttack was 9 points below the worst case of the gradient attacks,
    5 of them by its black-box part; on runs that stayed sound, 2 to 3 points.
    """
    records = history.epochs if history is not None else ()
    epochs = [record.epoch for record in records if record.collapse in _OVERFITTED]
    if not epochs:
        return ()
    return (
        f"Training overfitted to its source attack (epoch {', '.join(map(str, epochs))}). Even after a roll-back "
        "gradients may be masked, and these attacks then find too little: confirm with an independent AutoAttack, or "
        "train again with another --seed.",
    )


def write_reports(report: Report, folder: Path, narrator: Narrator) -> dict[str, Path]:
    """Write the report into `folder` in every format."""
    written = write_report(report, folder)
    narrator.note(f"report: {written['html']}")
    return written


def write_unreadable(unreadable: Mapping[str, str], folder: Path, narrator: Narrator) -> tuple[str, ...]:
    """List files that could not be read in `folder`, one a line with the reason; return what a report must say of it.

    Args:
        unreadable: file -> reason; nothing is written for none.
        folder: of the report.
        narrator: hears where the list is.
    """
    if not unreadable:
        return ()
    lines = (f"{file}: {reason}\n" for file, reason in sorted(unreadable.items()))
    path = write_whole(folder / UNREADABLE, "".join(lines))
    what = counted(len(unreadable), "unreadable image file")
    narrator.note(f"{what} listed in {path}")
    return (f"Left out: {what}, listed in {UNREADABLE}.",)


def run_facts(
    settings: FitSettings, command: str, how: str, history: History, budget: Budget | None
) -> tuple[tuple[str, str], ...]:
    """Return how a run's numbers came about, as (label, value) pairs."""
    seconds = sum(epoch.seconds for epoch in history.epochs)
    chosen = "" if budget is None else f" (as many as fit into {duration(budget.seconds)})"
    return (
        ("command", command),
        ("method", f"{settings.method}, source attack {' + '.join(settings.source_attack or ('none',))}"),
        ("eps", f"l_inf {settings.eps:.6g} on the [0, 1] scale"),
        ("domain terms", f"beta {settings.beta:g}, gamma {settings.gamma:g}, split at {settings.split}"),
        (
            "schedule",
            f"{settings.epochs} epochs{chosen}, batch {settings.batch_size}, "
            f"Adam {settings.lr:g}, EMA {settings.ema:g}",
        ),
        ("augmentation", settings.augment or "none"),
        ("training time", duration(seconds)),
        ("splits", how),
        ("seed", str(settings.seed)),
        ("harden", __version__),
    )


def run_title(settings: FitSettings, crafted_by: Sequence[str]) -> str:
    """Return the title of a run's report, with the crafters that its training used."""
    return f"{name_of(settings.data)}: {settings.method} from {' and '.join(crafted_by) or 'clean images'}"
