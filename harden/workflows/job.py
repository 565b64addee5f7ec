"""A fit that is ready to run: model, images and settings, with everything settled that the user left open."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from harden.data import (
    DataSource,
    Entry,
    ImageSet,
    Reading,
    SplitPlan,
    continue_splits,
    from_anywhere,
    open_data,
    plan_splits,
)
from harden.defences import (
    FEATURE_DEFENCES,
    STATIC_DEFENCES,
    WHOLE_BATCH_DEFENCES,
)
from harden.distributed import ALONE, Processes
from harden.errors import ModelError, UsageError
from harden.models.classifier import Classifier
from harden.models.factory import is_reference, origin_of
from harden.models.modes import require_trainable
from harden.models.split import default_split, require_features
from harden.models.trust import require_trust
from harden.randomness import derive_seed
from harden.training.memory import memory_needed
from harden.training.settings import TrainingSettings
from harden.workflows.affordable import refuse_hopeless
from harden.workflows.budget import Budget
from harden.workflows.defaults import default_batch_size, default_lr, default_sources, eps_text, passes_per_image
from harden.workflows.devices import choose_device
from harden.workflows.encounters import Encounters
from harden.workflows.first_checks import check_first
from harden.workflows.narrator import Narrator
from harden.workflows.normalising import DOUBTED_IMAGES, rows_for_preflight
from harden.workflows.prepare import (
    Candidate,
    Images,
    ModelSpec,
    as_run,
    classifier_of,
    default_eps,
    find_normalisation,
    images_for,
    load_candidate,
)
from harden.workflows.run_folder import reading_for, refuse_stated
from harden.workflows.settings import DEFAULT_PRETRAIN, HEAD_STEPS, FitSettings
from harden.workflows.surrogates import open_statics
from harden.workflows.tracking import require_packages

StopRequested = Callable[[], bool]
"""Asked after every training step; true ends the run so that it can be resumed."""


@dataclass(frozen=True, eq=False)
class Job:
    """Everything a run needs, whether it starts or continues.

    Attributes:
        began: when it did, on the clock of `time.monotonic`; with a budget, as if the run had never paused.
        earlier: which attacks the model met before this run.
        budget: what is kept of the time budget; None without one, and before there is a run folder.
        statics: networks besides the classifier that examples are crafted on.
        audits: whether the run ends with an audit.
        processes: that train and audit together; the followers have the same job.
    """

    settings: FitSettings
    images: Images
    splits: SplitPlan
    train: ImageSet
    val: ImageSet
    classifier: Classifier
    narrator: Narrator
    stop_requested: StopRequested
    began: float
    command: str
    earlier: Encounters
    budget: Budget | None = None
    statics: tuple[nn.Module, ...] = ()
    audits: bool = True
    processes: Processes = ALONE

    @property
    def eps(self) -> float:
        """The l_inf radius on the [0, 1] scale; `prepare_job` has settled it."""
        assert self.settings.eps is not None
        return self.settings.eps

    @property
    def source_attacks(self) -> tuple[str, ...]:
        """The keys of the crafters, none for clean training; `prepare_job` has settled them."""
        return self.settings.source_attack or ()


def prepare_job(
    settings: FitSettings,
    splits: SplitPlan,
    narrator: Narrator,
    stop_requested: StopRequested,
    began: float,
    command: str,
    source: DataSource | None = None,
    processes: Processes = ALONE,
    audit: bool = True,
) -> Job:
    """Load the model and the images, run the preflight, and settle what the user left open.

    Of the data, `source` is what is open already; `processes` are those that train together; `audit` is whether the
    run ends with one, and its budget begins here.
    """
    device = choose_device(settings.device)
    source = source or open_source(settings)
    earlier = as_run(settings.model)
    narrator.heading("Model")
    spec = spec_of(settings)
    if earlier is not None:
        classifier = earlier.load_classifier(arch=settings.arch)
        images = images_for(classifier, source)
        train, val = _decode(images, splits, settings, narrator)
        met = Encounters.from_json(earlier.read_config().get("training"))
        pretrain = settings.pretrain or 0
        narrator.note(f"hardening further from the run {earlier.path}")
    else:
        met = Encounters()
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(derive_seed(settings.seed, "weights"))
            candidate = load_candidate(spec, source, splits.train, narrator)
        images = candidate.images
        if audit and device.type == "cpu":  # where the module is so far
            _refuse_hopeless(settings, candidate, splits, began, processes)
        train, val = _decode(images, splits, settings, narrator)
        untrained = not candidate.loaded.has_weights
        pretrain = settings.pretrain if settings.pretrain is not None else _pretraining(settings, len(train), untrained)
        if untrained and pretrain == 0:
            what = "the new last layer" if settings.replace_head else "this network"
            raise ModelError(
                f"{what} has no weights and --pretrain 0 asks for no clean training",
                hint="leave --pretrain out" + ("" if settings.replace_head else ", or give a file of weights"),
            )
        narrator.heading("Preflight")
        sample = train.subset(rows_for_preflight(train.labels, settings.seed))
        normalisation = find_normalisation(
            spec,
            candidate,
            sample,
            narrator,
            must_know=not pretrain,
            more=lambda: train.subset(rows_for_preflight(train.labels, settings.seed, most=DOUBTED_IMAGES)),
        )
        if pretrain:
            what = "the new last layer alone is " if settings.replace_head else ""
            narrator.note(f"{what}trained cleanly for {pretrain} epoch{'s' * (pretrain != 1)} before hardening")
        classifier = classifier_of(candidate, normalisation)
    classifier.to(device)
    require_trainable(classifier)
    shape = classifier.input_size
    eps = settings.eps
    if eps is None:
        eps = default_eps(shape)
        narrator.note(f"eps {eps_text(eps)} (l_inf, on the [0, 1] scale; the default for these images, see --eps)")
    else:
        narrator.note(f"eps {eps_text(eps)} (l_inf, on the [0, 1] scale)")
    sources = default_sources(settings, memory_needed(train.images.shape))
    if sources is not None and "fgsm" in sources:
        narrator.note(
            "fgsm-ep, the default, costs as much as fgsm and starts where the last epoch's examples were; on "
            "Fashion-MNIST it gave more robust models, and adv4adv did not overfit to it (recipes/README.md)"
        )
    augment = settings.augment or ("none" if shape[0] == 1 else "flip+shift")
    settings = replace(
        settings,
        eps=eps,
        augment=augment,
        class_map=_class_map(classifier, images) if earlier is None else None,
        lr=settings.lr or default_lr(classifier.module),
        source_attack=sources,
        pretrain=pretrain,
        data=from_anywhere(settings.data, source),
        image_size=settings.image_size,
        gray_bits=reading_of(settings).gray_bits,
        split=_layer(settings, classifier, narrator),
    )
    job = Job(settings, images, splits, train, val, classifier, narrator, stop_requested, began, command, met)
    return replace(job, processes=processes)


def check_fit(settings: FitSettings) -> None:
    """Refuse what the settings alone show to be impossible, before data are listed.

    Raises:
        UsageError: naming what is wrong.
    """
    models = (settings.model, *settings.static)
    check_first(models=models, arch=settings.arch, device=settings.device, attacks=settings.attacks)
    require_packages(settings.track)
    if settings.accumulate > 1 and settings.method in WHOLE_BATCH_DEFENCES:
        raise UsageError(
            f"{settings.method} compares moments of the whole batch, and --accumulate shows it parts only",
            hint="take --recompute or a smaller --batch-size instead",
        )
    earlier = as_run(settings.model)
    if earlier is not None and settings.replace_head:
        raise UsageError(
            f"--replace-head is for a model that is no run folder, and {earlier.path} is one",
            hint=f"name its weights and what builds it: {earlier.weights} --arch path/file.py:callable",
        )
    if earlier is not None:
        refuse_stated(earlier, spec_of(settings), settings.reading)


def _refuse_hopeless(
    settings: FitSettings, candidate: Candidate, splits: SplitPlan, began: float, processes: Processes
) -> None:
    """Refuse a budget that cannot hold the fit: see `refuse_hopeless`."""
    image_format = candidate.images.image_format
    shape = (image_format.channels, *image_format.size)
    training = TrainingSettings(
        epochs=1,
        batch_size=min(settings.batch_size or default_batch_size(len(splits.train)), len(splits.train)),
        lr=0.0,
        eps=settings.eps if settings.eps is not None else default_eps(shape),
        source_attacks=default_sources(settings) or (),
    )
    refuse_hopeless(
        settings,
        candidate.loaded.module,
        shape,
        splits,
        training=training,
        passes=passes_per_image(settings),
        began=began,
        processes=processes.size,
    )


def reading_of(settings: FitSettings) -> Reading:
    """Return how the data are read: as the settings say, and what they leave open as the run that is hardened further.

    Raises:
        RunFolderError: that run is damaged.
    """
    return reading_for(as_run(settings.model), settings.reading, other_data=True)


def open_source(settings: FitSettings) -> DataSource:
    """Open the data of a fit.

    Raises:
        HardenError: see `open_data`.
    """
    return open_data(settings.data, reading_of(settings))


def spec_of(settings: FitSettings) -> ModelSpec:
    """Return what the settings say of the model."""
    return ModelSpec(
        model=settings.model,
        arch=settings.arch,
        trust_pickle=settings.trust_pickle,
        class_map=settings.class_map,
        mean=settings.mean,
        std=settings.std,
        image_size=settings.image_size,
        replace_head=settings.replace_head,
        ignore_other_classes=settings.ignore_other_classes,
    )


def _class_map(classifier: Classifier, images: Images) -> tuple[int, ...] | None:
    """Return the network's output for each class of the data; None where they are in the same order."""
    if classifier.subset is not None:
        return classifier.subset.chosen
    return None if images.mapping == tuple(range(len(images.mapping))) else images.mapping


def with_statics(job: Job) -> Job:
    """Return the job with the static networks that its method crafts on; they may have to be trained first.

    Raises:
        HardenError: a model of `--static` cannot be opened.
        Interrupted: a stop was requested.
    """
    if job.settings.method not in STATIC_DEFENCES:
        return job
    job.narrator.heading("Static models")
    settings = job.settings
    statics = open_statics(
        settings.static,
        spec=spec_of(settings),
        subject=job.classifier,
        images=job.images,
        plan=job.splits,
        seed=settings.seed,
        device=job.classifier.device,
        narrator=job.narrator,
        stop_requested=job.stop_requested,
    )
    return replace(job, statics=statics)


def require_trust_in_statics(folder: Path, settings: FitSettings, arch: str | None) -> None:
    """Refuse to run code for a run's static models that the user never named: the folder may be somebody else's.

    Args:
        folder: of the run.
        settings: as its recipe says.
        arch: code that the user named.

    Raises:
        UnsafeInputError: naming the code.
    """
    for code in (*settings.static, settings.arch if arch is None and settings.static else None):
        if code is not None and is_reference(code):
            require_trust(origin_of(code, {}), folder)


def choose_splits(settings: FitSettings, source: DataSource, narrator: Narrator) -> SplitPlan:
    """Return what is trained, selected and tested on: as in the run that is hardened further, or else drawn anew."""
    earlier = as_run(settings.model)
    inherited = earlier.splits_of(source) if earlier is not None else None
    if earlier is not None and inherited is None:
        narrator.note(f"{earlier.path} used other images, so the splits are drawn anew")
    splits = plan_splits(source, seed=settings.seed) if inherited is None else continue_splits(inherited, source)
    narrator.note(splits.how)
    return splits


def selection_entries(images: Images, splits: SplitPlan, settings: FitSettings) -> tuple[Entry, ...]:
    """Return the validation images that the canary and selection use."""
    return images.sample(splits.val, settings.selection_samples, settings.seed, "selection")


def _decode(images: Images, splits: SplitPlan, settings: FitSettings, narrator: Narrator) -> tuple[ImageSet, ImageSet]:
    """Decode the training images and the validation images that selection uses; test images are not touched."""
    image_format = images.image_format
    narrator.note(f"images as {image_format.channels} x {image_format.size[0]} x {image_format.size[1]}")
    train = images.decode(splits.train, narrator, "training images")
    val = images.decode(selection_entries(images, splits, settings), narrator, "validation images")
    return train, val


def _pretraining(settings: FitSettings, images: int, untrained: bool) -> int:
    """Return the epochs of clean training first when nobody says."""
    if settings.replace_head:
        return math.ceil(HEAD_STEPS / max(1, images // (settings.batch_size or default_batch_size(images))))
    return DEFAULT_PRETRAIN if untrained else 0


def _layer(settings: FitSettings, classifier: Classifier, narrator: Narrator) -> str | None:
    """Return the layer to split at, if the method needs one, and say why it was chosen."""
    if settings.method not in FEATURE_DEFENCES or settings.beta == 0:
        return settings.split
    if settings.split is not None:
        require_features(classifier, settings.split)
        return settings.split
    chosen = default_split(classifier)
    narrator.note(f"split at {chosen.point.layer!r}: {chosen.reason}")
    return chosen.point.layer
