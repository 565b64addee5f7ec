"""What `harden report` audits: a model, others beside it, and the images that they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harden.attacks import Planned
from harden.audit.result import Exposure
from harden.data import AS_IT_IS, DataSource, Entry, Reading, open_data, to_look_at
from harden.distributed import Processes
from harden.errors import DataError, UsageError
from harden.models.black_box import Audited
from harden.models.classifier import Classifier
from harden.workflows.black_box import is_black_box, open_black_box, without_gradients
from harden.workflows.data_facts import facts_of
from harden.workflows.devices import choose_device
from harden.workflows.encounters import Encounters
from harden.workflows.examine import Subject
from harden.workflows.narrator import Narrator
from harden.workflows.prepare import Images, ModelSpec, as_run, default_eps, images_for, open_model
from harden.workflows.run_folder import RunFolder, reading_for, refuse_stated
from harden.workflows.surrogate_training import Surrogate
from harden.workflows.surrogates import transfer_attacks


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What `harden report` is asked for.

    Attributes:
        spec: the model; what it says besides the model's name goes for the others too.
        data: images; None: those of the run.
        reading: how they are read; what it leaves open is as in the run.
        against: models to compare with; "initial" is the run's model before hardening.
        device: as for `harden fit`.
        eps: l_inf radius on the [0, 1] scale; None: the run's, or the default for the images.
        attacks: names of presets and attacks; None: the default.
        samples: images to audit, stratified; None: all.
        surrogates: models on which examples are crafted that are then tried on the audited ones; "auto" trains one.
        black_box: ask the model for scores only.
        fail_under: gates such as "robust=0.40", each on the lower end of an interval.
        gate_ignores_checks: judge the gates by the accuracies alone, whatever the checks say of them.
        seed: of the sample and of everything random.
    """

    spec: ModelSpec
    data: str | None = None
    reading: Reading = AS_IT_IS
    against: tuple[str, ...] = ()
    eps: float | None = None
    attacks: tuple[str, ...] | None = None
    samples: int | None = None
    surrogates: tuple[str, ...] = ()
    black_box: bool = False
    fail_under: str | None = None
    gate_ignores_checks: bool = False
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class Opened:
    """A model, its own format of the images, and how much of an attack each of its trainings has seen."""

    name: str
    classifier: Audited
    images: Images
    exposures: Mapping[str, Exposure]


@dataclass(frozen=True, eq=False)
class Ready:
    """What is audited, opened and decoded.

    Attributes:
        run: the run folder that the report is on, if it is on one.
        data: where the images are, as it was said.
        source: the images.
        split: as in `ImageOrigin`.
        which: what those to choose from are, in words.
        available: how many there are.
        chosen: those that are audited.
        caveats: what must be said of others, and of how they were found.
        facts: of the data, for programs; see `DataFacts`.
        eps: l_inf radius on the [0, 1] scale.
        opened: the models, in the order of the report; the last is the one that it is on.
        subjects: the same, with their images.
        device: where the networks are.
    """

    run: RunFolder | None
    data: str
    source: DataSource
    split: str
    which: str
    available: int
    chosen: tuple[Entry, ...]
    caveats: tuple[str, ...]
    facts: Mapping[str, Any]
    eps: float
    opened: tuple[Opened, ...]
    subjects: tuple[Subject, ...]
    device: torch.device


def make_ready(settings: ReportSettings, run: RunFolder | None, narrator: Narrator, processes: Processes) -> Ready:
    """Open the models, and decode the images that they are audited on."""
    if run is not None and all(spec == "initial" or as_run(spec) is not None for spec in settings.against):
        refuse_stated(run, settings.spec, settings.reading)
    data = settings.data or (run.read_config().get("training", {}).get("data") if run else None)
    if data is None:
        raise UsageError("which images?", hint="give --data DIR; only a finished run folder knows its own")
    source = open_data(data, reading_for(run, settings.reading, other_data=settings.data is not None))
    runs = _runs(settings, run)
    known = facts_of(source, runs)
    entries, split, which, left_out = _entries(source, runs)
    known.tell(narrator)
    for caveat in left_out:
        narrator.warn(caveat)
    narrator.heading("Model")
    eps = settings.eps
    if eps is None and run is not None:
        eps = run.read_config().get("training", {}).get("eps")
    subject = _open(settings, settings.spec.model, source, eps, narrator)
    if eps is None:
        eps = default_eps(subject.classifier.input_size)
    others = [_open(settings, spec, source, eps, narrator, run=run) for spec in settings.against]
    chosen = subject.images.sample(entries, settings.samples, settings.seed, "audit")
    device = choose_device(settings.device)
    processes.require(device)
    subjects = []
    for opened in (*others, subject):
        if opened.images.classes != subject.images.classes:
            raise DataError(
                f"{opened.name} and {subject.name} number the classes differently, so they cannot stand side by side",
                hint="audit them one by one",
            )
        if isinstance(opened.classifier, Classifier):
            opened.classifier.to(device)
        images = opened.images.decode(chosen, narrator, "images to audit")
        crafted = () if opened is subject else _from_subject(subject, opened, eps)
        subjects.append(Subject(opened.name, opened.classifier, images, opened.exposures, crafted))
    return Ready(
        run=run,
        data=data,
        source=source,
        split=split,
        which=which,
        available=len(entries),
        chosen=tuple(chosen),
        caveats=(*left_out, *known.caveats),
        facts=known.to_json(subject.images.probe),
        eps=eps,
        opened=(*others, subject),
        subjects=tuple(subjects),
        device=device,
    )


def _from_subject(subject: Opened, other: Opened, eps: float) -> tuple[Planned, ...]:
    """Return attacks that craft on the network that the report is about, for a black box beside it.

    It is often an export of that very network, whose own gradients are then the nearest thing to its own.
    """
    if isinstance(other.classifier, Classifier) or not isinstance(subject.classifier, Classifier):
        return ()
    return tuple(transfer_attacks([Surrogate(subject.name, subject.classifier, 0.0)], eps=eps, member=True))


def _runs(settings: ReportSettings, run: RunFolder | None) -> list[RunFolder]:
    """Return the run folders among the models, the one that the report is on first."""
    others = (as_run(spec) for spec in settings.against if spec != "initial")
    return [folder for folder in (run, *others) if folder is not None]


def _entries(source: DataSource, runs: Sequence[RunFolder]) -> tuple[tuple[Entry, ...], str, str, tuple[str, ...]]:
    """Return what to audit on, its split (as in `ImageOrigin`), what it is in words, and what must be said of it.

    These are the test images that all of the runs have in common, where they used these data; else the test split, or
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
        return tuple(entry for entry in plan.test if entry in common), "test", which, (caveat,) if left_out else ()
    for split, name in (("test", "test images"), ("val", "validation images (there is no test split)")):
        if split in source.listings:
            return tuple(source.listings[split]), split, name, ()
    split, entries = next(iter(source.listings.items()))
    return tuple(entries), "all", "images (the data has no test split: some may have been trained on)", ()


def _open(
    settings: ReportSettings,
    spec: str,
    source: DataSource,
    eps: float | None,
    narrator: Narrator,
    *,
    run: RunFolder | None = None,
) -> Opened:
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
        return Opened(name, classifier, images, met.exposures(radius))
    listed = to_look_at(source)
    typed, name = replace(settings.spec, model=spec), Path(spec).name
    if is_black_box(spec, black_box_flag=settings.black_box and spec == settings.spec.model):
        return Opened(name, *open_black_box(typed, source, listed, narrator), {})
    classifier, images = open_model(typed, source, listed, narrator)
    box = without_gradients(classifier, name)
    if box is not None:
        narrator.warn(f"{name} has no gradients (something in it leaves torch's graph): it is audited black-box only")
    return Opened(name, box or classifier, images, {})
