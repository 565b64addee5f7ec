"""Auditing models side by side, and `harden report`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harden import __version__
from harden.attacks import ATTACKS, Planned, attack_names
from harden.audit.result import Exposure
from harden.audit.runner import audit
from harden.data import DataSource, Entry, ImageSet, duplicate_files, open_data
from harden.errors import DataError, Interrupted, UsageError
from harden.files import write_whole
from harden.models.classifier import Classifier
from harden.report import write_report
from harden.report.figures import counted
from harden.report.report import Report
from harden.training.canary import Collapse
from harden.training.history import EpochRecord, History
from harden.workflows.budget import Budget
from harden.workflows.encounters import Encounters
from harden.workflows.narrator import Narrator
from harden.workflows.prepare import (
    Images,
    ModelSpec,
    as_run,
    choose_device,
    images_for,
    open_model,
)
from harden.workflows.run_folder import RunFolder, refuse_stated, unused
from harden.workflows.settings import FitSettings

FEW_IMAGES = 1000
UNREADABLE = "unreadable.txt"


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to audit.

    Attributes:
        name: for the report.
        classifier: the model.
        images: what it is attacked on, in its own format; the same files for every subject.
        exposures: per attack name what its training or selection had to do with it.
    """

    name: str
    classifier: Classifier
    images: ImageSet
    exposures: Mapping[str, Exposure]


def audit_subjects(
    subjects: Sequence[Subject],
    *,
    eps: float,
    attacks: Sequence[tuple[str, bool]],
    dataset: str,
    seed: int,
    narrator: Narrator,
    title: str,
    history: History | None = None,
    facts: Sequence[tuple[str, str]] = (),
    train: ImageSet | None = None,
    samples_flag: str | None = None,
    caveats: Sequence[str] = (),
    stop_requested: Callable[[], bool] = lambda: False,
) -> Report:
    """Audit every subject with the same attacks, and put the results side by side.

    Args:
        subjects: the last is the one that the report is about.
        eps: l_inf radius on the [0, 1] scale.
        attacks: names in `ATTACKS`, each with whether it is a member of an ensemble; see `attack_names`.
        dataset: for the report.
        seed: of the random starts.
        narrator: hears how far it is.
        title, history, facts, caveats: for the report.
        train: training images, to look for copies of audited images among them.
        samples_flag: what audits more images; None: there are no more.
        stop_requested: asked as often as the narrator hears something.

    Raises:
        Interrupted: a stop was requested.
    """
    results = []
    for subject in subjects:

        def progress(attack: str, done: int, total: int, name: str = subject.name) -> None:
            narrator.progress(f"auditing {name}: {attack}", done, total)
            if stop_requested():
                raise Interrupted("stopped in the audit; the trained weights are kept")

        results.append(
            audit(
                subject.classifier,
                subject.images,
                [Planned(ATTACKS[name](eps), member) for name, member in attacks],
                model=subject.name,
                dataset=dataset,
                exposures=subject.exposures,
                seed=seed,
                progress=progress,
            )
        )
    found = [*overfitted(history), *caveats]
    if len(subjects[-1].images) < FEW_IMAGES:
        repair = f", and raise {samples_flag} for a claim" if samples_flag else ""
        found.append(f"Only {len(subjects[-1].images)} images were audited; mind the intervals{repair}.")
    if train is not None:
        copies = duplicate_files(train, subjects[-1].images)
        if copies:
            found.append(
                f"{len(copies)} audited images are pixel for pixel among the training images "
                f"(first: {copies[0][1]} = {copies[0][0]})."
            )
    return Report(title, tuple(results), history, tuple(facts), tuple(found))


def overfitted(history: History | None) -> tuple[str, ...]:
    """Return what a reader must know where training overfitted to its source attack, whatever became of it.

    On such a run of Fashion-MNIST an independent AutoAttack was 9 points below the worst case of the gradient attacks,
    5 of them by its black-box part; on runs that stayed sound, 2 to 3 points.
    """
    records = history.epochs if history is not None else ()
    epochs = [record.epoch for record in records if Collapse.CATASTROPHIC_OVERFITTING.value in record.event]
    if not epochs:
        return ()
    return (
        f"Training overfitted to its source attack (epoch {', '.join(map(str, epochs))}). Even after a roll-back "
        "gradients may be masked, and these attacks then find too little: confirm with an independent AutoAttack, or "
        "train again with another --seed.",
    )


def write_reports(report: Report, folder: Path, narrator: Narrator) -> dict[str, Path]:
    """Write report.json, report.html and report.md into `folder`."""
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
    chosen = "" if budget is None else f" (as many as fit into {budget.seconds:.0f} s)"
    return (
        ("command", command),
        ("method", f"{settings.method}, source attack {settings.source_attack}"),
        ("eps", f"l_inf {settings.eps:.6g} on the [0, 1] scale"),
        ("domain terms", f"beta {settings.beta:g}, gamma {settings.gamma:g}, split at {settings.split}"),
        (
            "schedule",
            f"{settings.epochs} epochs{chosen}, batch {settings.batch_size}, "
            f"Adam {settings.lr:g}, EMA {settings.ema:g}",
        ),
        ("augmentation", settings.augment or "none"),
        ("training time", f"{seconds:.0f} s"),
        ("splits", how),
        ("seed", str(settings.seed)),
        ("harden", __version__),
    )


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What `harden report` is asked for.

    Attributes:
        spec: the model; what it says besides the model's name goes for the others too.
        data: images; None: those of the run.
        against: models to compare with; "initial" is the run's model before hardening.
        device: as for `harden fit`.
        eps: l_inf radius on the [0, 1] scale; None: the run's, or the default for the images.
        attacks: names of presets and attacks.
        samples: images to audit, stratified; None: all.
        seed: of the sample and the random starts.
    """

    spec: ModelSpec
    data: str | None = None
    against: tuple[str, ...] = ()
    eps: float | None = None
    attacks: tuple[str, ...] = ("full",)
    samples: int | None = None
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class _Opened:
    name: str
    classifier: Classifier
    images: Images
    exposures: Mapping[str, Exposure]


def report(settings: ReportSettings, *, out: Path | None, narrator: Narrator, command: str) -> tuple[Report, Path]:
    """Audit a model, beside others if asked, and write the report.

    Args:
        settings: what to do.
        out: the folder for report.*; None: `RUN/audit`, or `MODEL-report` here, numbered where that exists.
        narrator: hears what happens.
        command: what the user typed, for the record.

    Returns:
        The report, and the folder it was written to.

    Raises:
        HardenError: anything the user can repair.
    """
    run = as_run(settings.spec.model)
    if run is not None and all(spec == "initial" or as_run(spec) is not None for spec in settings.against):
        refuse_stated(run, settings.spec)
    data = settings.data or (run.read_config().get("training", {}).get("data") if run else None)
    if data is None:
        raise UsageError("which images?", hint="give --data DIR; only a finished run folder knows its own")
    source = open_data(data)
    entries, which, left_out = _entries(source, _runs(settings, run))
    for caveat in left_out:
        narrator.warn(caveat)
    narrator.heading("Model")
    eps = settings.eps
    if eps is None and run is not None:
        eps = run.read_config().get("training", {}).get("eps")
    subject = _open(settings, settings.spec.model, source, eps, narrator)
    if eps is None:
        shape = subject.classifier.input_size
        eps = default_eps(shape)
    others = [_open(settings, spec, source, eps, narrator, run=run) for spec in settings.against]
    chosen = subject.images.sample(entries, settings.samples, settings.seed, "audit")
    device = choose_device(settings.device)
    subjects = []
    for opened in (*others, subject):
        if opened.images.classes != subject.images.classes:
            raise DataError(
                f"{opened.name} and {subject.name} number the classes differently, so they cannot stand side by side",
                hint="audit them one by one",
            )
        images = opened.images.decode(chosen, narrator, "images to audit")
        subjects.append(Subject(opened.name, opened.classifier.to(device), images, opened.exposures))
    stem = Path(settings.spec.model).stem.replace(":", "-")
    folder = out or unused(run.path / "audit" if run else Path(f"{stem}-report"))
    unreadable = {file: why for opened in (*others, subject) for file, why in opened.images.unreadable.items()}
    narrator.heading("Audit")
    history = _history(run)
    found = audit_subjects(
        subjects,
        eps=eps,
        attacks=attack_names(settings.attacks),
        dataset=f"{data}, {len(chosen)} of {len(entries)} {which}",
        seed=settings.seed,
        narrator=narrator,
        title=f"Audit of {subject.name}",
        history=history,
        facts=(("command", command), ("images", which), ("seed", str(settings.seed)), ("harden", __version__)),
        samples_flag="--samples" if len(chosen) < len(entries) else None,
        caveats=(*left_out, *write_unreadable(unreadable, folder, narrator)),
    )
    write_reports(found, folder, narrator)
    return found, folder


def default_eps(shape: tuple[int, int, int]) -> float:
    """Return the eps for images (C, H, W) when nobody says: 0.1 for gray up to 32 pixels (the paper's), else 4/255."""
    return 0.1 if shape[0] == 1 and max(shape[1:]) <= 32 else 4 / 255


def _runs(settings: ReportSettings, run: RunFolder | None) -> list[RunFolder]:
    """Return the run folders among the models, the one that the report is on first."""
    others = (as_run(spec) for spec in settings.against if spec != "initial")
    return [folder for folder in (run, *others) if folder is not None]


def _entries(source: DataSource, runs: Sequence[RunFolder]) -> tuple[tuple[Entry, ...], str, tuple[str, ...]]:
    """Return what to audit on, what it is, and what must be said of it.

    These are the test images that all of the runs have in common, where they used these data; else the test folder, or
    else everything there is.

    Raises:
        DataError: the runs have no test image in common.
    """
    plans = [(run.path.name, plan) for run in runs if (plan := run.splits_of(source)) is not None]
    if plans:
        (first, plan), *rest = plans
        everyone = ", ".join(name for name, _ in plans)
        common = set(plan.test).intersection(*(other.test for _, other in rest))
        if not common:
            raise DataError(
                f"{everyone} have no test image in common: each held out others of {source.location}",
                hint="audit them one by one, or on images that none of them has seen: --data DIR",
            )
        left_out = len(plan.test) - len(common)
        caveat = (
            f"{left_out} of the {len(plan.test)} test images of {first} are left out, because "
            f"{' or '.join(name for name, _ in rest)} did not hold them out for testing."
        )
        which = "test images of the runs" if rest else "test images of the run"
        if left_out:
            which = f"test images that {everyone} have in common"
        return tuple(entry for entry in plan.test if entry in common), which, (caveat,) if left_out else ()
    for split, name in (("test", "test images"), ("val", "validation images (there is no test folder)")):
        if split in source.listings:
            return tuple(source.listings[split]), name, ()
    split, entries = next(iter(source.listings.items()))
    return tuple(entries), "images (the data has no test folder: some may have been trained on)", ()


def _open(
    settings: ReportSettings,
    spec: str,
    source: DataSource,
    eps: float | None,
    narrator: Narrator,
    *,
    run: RunFolder | None = None,
) -> _Opened:
    """Open a run folder, "initial" of `run`, or a model with a preflight."""
    initial = spec == "initial"
    folder = run if initial else as_run(spec)
    if initial and run is None:
        raise UsageError("--against initial needs a run folder as the model", hint="name the model to compare with")
    if folder is not None:
        # --arch is about the model that the report is on; another run builds its own network.
        arch = settings.spec.arch if initial or spec == settings.spec.model else None
        classifier = folder.load_classifier(initial=initial, arch=arch)
        images = images_for(classifier, source)
        name = f"{folder.path.name} (initial)" if initial else folder.path.name
        config = folder.read_config()
        met = Encounters.from_json(config.get("earlier" if initial else "training"))
        radius = eps if eps is not None else config.get("training", {}).get("eps", 0.0)
        return _Opened(name, classifier, images, met.exposures(radius))
    listed = source.listings.get("train") or source.listings.get("val") or next(iter(source.listings.values()))
    classifier, images = open_model(replace(settings.spec, model=spec), source, listed, narrator)
    return _Opened(Path(spec).name, classifier, images, {})


def _history(run: RunFolder | None) -> History | None:
    if run is None or not run.metrics.exists():
        return None
    lines = run.metrics.read_text(encoding="utf-8").splitlines()
    epochs = tuple(EpochRecord.from_json(json.loads(line)) for line in lines if line.strip())
    return History(epochs, run.read_config().get("training", {}).get("chosen_epoch"))
