"""`harden fit`: from a model and a folder of images to a hardened model with a before/after audit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from harden.attacks import ATTACKS, CRAFTERS, attack_names
from harden.audit.result import Exposure
from harden.audit.runner import exposures_of
from harden.data import Entry, ImageSet, SplitPlan, open_data, plan_splits
from harden.defences import DEFENCES, FEATURE_DEFENCES, Defence, DefenceContext, DefenceSettings
from harden.errors import ModelError, RunFolderError
from harden.files import write_whole
from harden.models.classifier import Classifier
from harden.models.split import default_split
from harden.models.tap import Tap, as_representation
from harden.randomness import derive_seed, stream
from harden.report.report import Report
from harden.training.history import EpochRecord, History
from harden.training.loop import (
    CANARY_ATTACK,
    CONFIRMATION_ATTACK,
    SELECTION_ATTACK,
    Replan,
    Trained,
    Trainer,
    TrainingSettings,
)
from harden.workflows.audit import Subject, audit_subjects, default_eps, run_facts, write_reports
from harden.workflows.narrator import Narrator
from harden.workflows.plan import RESERVE, Plan, make_plan, measure
from harden.workflows.prepare import (
    Images,
    ModelSpec,
    as_run,
    choose_device,
    classifier_of,
    find_normalisation,
    load_candidate,
    open_images,
    rows_for_preflight,
)
from harden.workflows.run_folder import RunFolder, classifier_from, describe, keep_architecture, new_run
from harden.workflows.settings import DEFAULT_EPOCHS, DEFAULT_PRETRAIN, FitSettings, as_recipe

StopRequested = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class FitResult:
    """What a fit leaves behind: the run folder and, unless it was a dry run, the before/after report."""

    run: RunFolder | None
    report: Report | None


@dataclass(frozen=True, eq=False)
class _Job:
    """Everything a run needs, whether it starts or continues."""

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

    @property
    def eps(self) -> float:
        assert self.settings.eps is not None
        return self.settings.eps

    @property
    def source_attack(self) -> str | None:
        return None if self.settings.method == "nt" else self.settings.source_attack


def fit(
    settings: FitSettings,
    *,
    out: Path | None,
    dry_run: bool,
    narrator: Narrator,
    stop_requested: StopRequested,
    command: str,
) -> FitResult:
    """Harden a model.

    Args:
        settings: what to do; unset ones are decided here and written into the run's recipe.
        out: the run folder, which must not exist or be empty; None makes one under `runs/`.
        dry_run: stop after the preflight and the plan; nothing is written.
        narrator: hears what happens.
        stop_requested: asked after every training step.
        command: what the user typed, for the record.

    Raises:
        HardenError: anything the user can repair.
        Interrupted: a stop was requested; the run can be resumed.
    """
    began = time.monotonic()
    source = open_data(settings.data)
    splits = plan_splits(source, seed=settings.seed)
    narrator.heading("Data")
    narrator.note(f"{len(source.classes)} classes in {source.location}")
    narrator.note(splits.how)
    job = _prepare(settings, splits, narrator, stop_requested, began, command)
    settings = job.settings
    if dry_run:
        defence, layer = _defence(job)
        plan = _plan(job, defence, layer, spent=time.monotonic() - began)
        _tell_plan(job, plan)
        return FitResult(None, None)
    run = new_run(out, name=f"{Path(settings.data).name}-{settings.method}")
    keep_architecture(run, job.classifier)
    write_whole(run.recipe, as_recipe(settings))
    run.write_json(run.splits, splits.to_json())
    run.write_json(run.config, {**describe(job.classifier), "command": command})
    narrator.note(f"run folder: {run.path}")
    return _execute(run, job)


def resume(
    run: RunFolder,
    settings: FitSettings,
    *,
    narrator: Narrator,
    stop_requested: StopRequested,
    command: str,
    arch: str | None = None,
) -> FitResult:
    """Continue a run from its last checkpoint; it ends in the weights that an uninterrupted run would have had.

    Args:
        run: the folder.
        settings: as its recipe.toml says.
        narrator, stop_requested, command: as for `fit`.
        arch: code that builds the network, where the run's own may not be run.

    Raises:
        RunFolderError: the run is finished, or damaged.
    """
    began = time.monotonic()
    if (run.path / "report.json").exists():
        raise RunFolderError(f"{run.path} is finished", hint=f"audit it again with: harden report {run.path}")
    config = run.read_json(run.config)
    splits = SplitPlan.from_json(run.read_json(run.splits))
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(settings.seed, "weights"))
        classifier = classifier_from(config, run.skeleton, arch=arch)
    if run.initial_weights.exists():
        classifier = run.load_classifier(initial=True, arch=arch)
    size = classifier.input_size
    images = open_images(
        open_data(settings.data), channels=size[0], size=(size[1], size[2]), class_map=settings.class_map
    )
    narrator.heading(f"Resuming {run.path}")
    train = images.decode(splits.train, narrator, "training images")
    val = images.decode(_selection(images, splits, settings), narrator, "validation images")
    classifier.to(choose_device(settings.device))
    return _execute(
        run, _Job(settings, images, splits, train, val, classifier, narrator, stop_requested, began, command)
    )


# -- before the run --------------------------------------------------------------------------------------------------


def _prepare(
    settings: FitSettings,
    splits: SplitPlan,
    narrator: Narrator,
    stop_requested: StopRequested,
    began: float,
    command: str,
) -> _Job:
    """Load the model and the images, run the preflight, and settle what the user left open."""
    device = choose_device(settings.device)
    source = open_data(settings.data)
    earlier = as_run(settings.model)
    narrator.heading("Model")
    spec = ModelSpec(
        model=settings.model,
        arch=settings.arch,
        trust_pickle=settings.trust_pickle,
        class_map=settings.class_map,
        mean=settings.mean,
        std=settings.std,
        image_size=settings.image_size,
    )
    if earlier is not None:
        classifier = earlier.load_classifier(arch=settings.arch)
        size = classifier.input_size
        images = open_images(source, channels=size[0], size=(size[1], size[2]), class_map=settings.class_map)
        if images.classes != classifier.classes:
            raise ModelError(
                f"the run {earlier.path} knows the classes {', '.join(classifier.classes[:8])}; "
                f"the data has {', '.join(images.classes[:8])}",
                hint="harden it on data with the same classes",
            )
        train, val = _decode(images, splits, settings, narrator)
        pretrain = settings.pretrain or 0
        narrator.note(f"hardening further from the run {earlier.path}")
    else:
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(settings.seed, "weights"))
            candidate = load_candidate(spec, source, narrator)
        images = candidate.images
        train, val = _decode(images, splits, settings, narrator)
        untrained = not candidate.loaded.has_weights
        pretrain = settings.pretrain if settings.pretrain is not None else DEFAULT_PRETRAIN if untrained else 0
        if untrained and pretrain == 0:
            raise ModelError(
                "this network has no weights and --pretrain 0 asks for no clean training",
                hint=f"give --pretrain {DEFAULT_PRETRAIN}, or a file of weights",
            )
        narrator.heading("Preflight")
        sample = train.subset(rows_for_preflight(train.labels, settings.seed))
        normalisation = find_normalisation(spec, candidate, sample, narrator)
        if pretrain:
            narrator.note(f"trained cleanly for {pretrain} epochs before hardening")
        classifier = classifier_of(candidate, normalisation)
    classifier.to(device)
    shape = classifier.input_size
    eps = settings.eps
    if eps is None:
        eps = default_eps(shape)
        narrator.note(f"eps {_eps_text(eps)} (l_inf, on the [0, 1] scale; the default for these images, see --eps)")
    else:
        narrator.note(f"eps {_eps_text(eps)} (l_inf, on the [0, 1] scale)")
    batch_size = settings.batch_size or default_batch_size(len(train))
    augment = settings.augment or ("none" if shape[0] == 1 else "flip+shift")
    settings = replace(
        settings,
        eps=eps,
        augment=augment,
        batch_size=batch_size,
        lr=settings.lr or default_lr(classifier.module),
        pretrain=pretrain,
        data=str(Path(settings.data).resolve()) if Path(settings.data).exists() else settings.data,
        image_size=settings.image_size,
        split=_layer(settings, classifier, narrator),
    )
    return _Job(settings, images, splits, train, val, classifier, narrator, stop_requested, began, command)


def _selection(images: Images, splits: SplitPlan, settings: FitSettings) -> tuple[Entry, ...]:
    return images.sample(splits.val, settings.selection_samples, settings.seed, "selection")


def _decode(images: Images, splits: SplitPlan, settings: FitSettings, narrator: Narrator) -> tuple[ImageSet, ImageSet]:
    """Decode the training images and the validation images that selection uses; test images are not touched."""
    image_format = images.image_format
    narrator.note(f"images as {image_format.channels} x {image_format.size[0]} x {image_format.size[1]}")
    train = images.decode(splits.train, narrator, "training images")
    val = images.decode(_selection(images, splits, settings), narrator, "validation images")
    return train, val


def default_lr(module: nn.Module) -> float:
    """Return the peak learning rate when nobody says, from the kind of normalisation layers the network has.

    0.01 (the paper's) without any, 0.005 with BatchNorm or GroupNorm: chosen on validation images, where 0.001 left the
    domain terms without effect in the few epochs of a fine-tuning run (recipes/README.md). 0.0005 with LayerNorm, as
    transformers are usually fine-tuned; that one was not measured here.
    """
    kinds = {type(m).__name__ for m in module.modules()}
    if any("LayerNorm" in kind or "RMSNorm" in kind for kind in kinds):
        return 5e-4
    return 5e-3 if any("Norm" in kind for kind in kinds) else 1e-2


def default_batch_size(images: int) -> int:
    """Return 256, or the power of two from 32 on that makes at least 40 steps of an epoch on fewer images."""
    size = 256
    while size > 32 and images // size < 40:
        size //= 2
    return size


def _layer(settings: FitSettings, classifier: Classifier, narrator: Narrator) -> str | None:
    """Return the layer to split at, if the method needs one, and say why it was chosen."""
    if settings.method not in FEATURE_DEFENCES or settings.beta == 0:
        return settings.split
    if settings.split is not None:
        with Tap(classifier, settings.split):
            return settings.split
    chosen = default_split(classifier)
    narrator.note(f"split at {chosen.point.layer!r}: {chosen.reason}")
    return chosen.point.layer


def _eps_text(eps: float) -> str:
    scaled = eps * 255
    return f"{eps:.6g}" + (f" = {scaled:.4g}/255" if abs(scaled - round(scaled, 2)) < 1e-6 else "")


# -- the run ---------------------------------------------------------------------------------------------------------


def _defence(job: _Job) -> tuple[Defence, str | None]:
    """Build the defence for the split, and return the layer that it taps."""
    settings, classifier = job.settings, job.classifier
    layer = settings.split if settings.method in FEATURE_DEFENCES and settings.beta > 0 else None
    width = 0
    if layer is not None:
        with Tap(classifier, layer) as tapped, torch.no_grad():
            modes = {m: m.training for m in classifier.modules()}
            classifier.eval()
            features, _ = tapped(torch.full((2, *classifier.input_size), 0.5, device=classifier.device))
            for module, mode in modes.items():
                module.training = mode
        width = as_representation(features).shape[1]
    context = DefenceContext(len(classifier.classes), width, stream(settings.seed, "discriminators"))
    knobs = DefenceSettings(
        beta=settings.beta, gamma=settings.gamma, classwise=settings.classwise, grl_warmup=settings.grl_warmup
    )
    return DEFENCES[settings.method](context, knobs), layer


def _training(job: _Job, epochs: int) -> TrainingSettings:
    s = job.settings
    return TrainingSettings(
        epochs=epochs,
        batch_size=s.batch_size or default_batch_size(len(job.train)),
        lr=s.lr or default_lr(job.classifier.module),
        eps=job.eps,
        source_attack=job.source_attack,
        weight_decay=s.weight_decay,
        lr_warmup=s.lr_warmup,
        eps_ramp=s.eps_ramp,
        ema=s.ema,
        augment=s.augment or "none",
        on_collapse=s.on_collapse,
        max_clean_drop=s.max_clean_drop,
        freeze=s.freeze,
        seed=s.seed,
    )


def _plan(job: _Job, defence: Defence, layer: str | None, *, spent: float) -> Plan:
    settings = job.settings
    epochs = settings.epochs if settings.epochs is not None or settings.budget is not None else DEFAULT_EPOCHS
    training = _training(job, epochs or 1000)
    timing = measure(job.classifier, defence, layer, job.train, training)
    return make_plan(
        timing,
        train_images=len(job.train),
        val_images=len(job.val),
        test_images=len(job.splits.test),
        settings=training,
        attacks=attack_names(settings.attacks),
        epochs=epochs,
        budget=None if settings.budget is None or settings.epochs is not None else settings.budget - spent,
        audit_samples=settings.audit_samples,
    )


def _tell_plan(job: _Job, plan: Plan) -> None:
    settings = job.settings
    cost = "1F+1B" if job.source_attack is None else f"2F+2B to train, {_crafting_passes(settings)} to craft"
    job.narrator.heading("Plan")
    job.narrator.table(
        ("what", "value"),
        [
            ("method", f"{settings.method}, source attack {settings.source_attack}, eps {_eps_text(job.eps)}"),
            ("domain terms", f"beta {settings.beta:g}, gamma {settings.gamma:g}, split at {settings.split}"),
            ("epochs", f"{plan.epochs} of {plan.steps_per_epoch} steps of {settings.batch_size} images"),
            ("passes per step", cost + " (F forward, B backward, b backward to the input)"),
            ("time per step", f"{plan.timing.step * 1000:.1f} ms"),
            ("time per epoch", f"{plan.epoch_seconds:.1f} s with its held-out measurements"),
            ("selection", f"on {plan.selection_samples} validation images"),
            ("final audit", f"{plan.audit_samples} test images, before and after"),
            ("estimated time", _duration(plan.seconds)),
        ],
    )


def _crafting_passes(settings: FitSettings) -> str:
    steps = CRAFTERS[settings.source_attack](0.1).steps
    return "1F+1b" if steps == 1 else f"{steps} x (F+b)"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


class _Watch:
    """Hears the training loop: keeps metrics.jsonl, and passes progress on to the narrator."""

    def __init__(self, run: RunFolder | None, narrator: Narrator, task: str) -> None:
        self.run = run
        self.narrator = narrator
        self.task = task
        self.detail = ""

    def step(self, done: int, total: int) -> None:
        self.narrator.progress(self.task, done, total, self.detail)

    def epoch(self, record: EpochRecord, history: History) -> None:
        scalars = record.scalars
        parts = [f"epoch {record.epoch}", f"loss {scalars['loss']:.3f}"]
        names = (("val_clean", "clean"), ("val_source", "source"), ("val_canary", "PGD-10"), ("val_robust", "PGD-20"))
        parts += [f"{label} {scalars[name]:.1%}" for name, label in names if name in scalars]
        parts += [f"domain {scalars[n]:.0%}" for n in scalars if n.startswith("domain_accuracy")]
        self.detail = ", ".join(parts)
        self.narrator.note(f"{self.detail}, {record.seconds:.0f} s")
        if self.run is not None:
            lines = "".join(json.dumps(epoch.to_json()) + "\n" for epoch in history.epochs)
            write_whole(self.run.metrics, lines)

    def note(self, text: str) -> None:
        self.narrator.warn(text)


def _execute(run: RunFolder, job: _Job) -> FitResult:
    """Pre-train if asked, plan, train, keep the weights, audit, report."""
    job = _pretrain(run, job)
    defence, layer = _defence(job)
    fresh = not run.checkpoint.exists()
    replan = None
    if fresh:
        budget = job.settings.budget
        plan = _plan(job, defence, layer, spent=time.monotonic() - job.began)
        _tell_plan(job, plan)
        job = _settle(run, job, plan)
        if budget is not None and job.settings.epochs is not None:
            replan = _replan(run, job, plan, deadline=job.began + budget)
    assert job.settings.epochs is not None
    job.narrator.heading("Hardening" if job.source_attack else "Training")
    trained = Trainer(
        classifier=job.classifier,
        defence=defence,
        layer=layer,
        train=job.train,
        val=job.val,
        settings=_training(job, job.settings.epochs),
        checkpoint=run.checkpoint,
        observer=_Watch(run, job.narrator, "hardening"),
        stop_requested=job.stop_requested,
        replan=replan,
    ).run(resume=not fresh)
    job = replace(job, settings=replace(job.settings, epochs=len(trained.history.epochs)))
    _keep(run, job, trained)
    report = _audit(run, job, trained)
    return FitResult(run, report)


def _settle(run: RunFolder, job: _Job, plan: Plan) -> _Job:
    """Write what the plan decided into the run's recipe, and take the validation images that selection will use."""
    settled = replace(
        job.settings,
        epochs=plan.epochs,
        budget=None,
        selection_samples=plan.selection_samples,
        audit_samples=plan.audit_samples,
    )
    write_whole(run.recipe, as_recipe(settled))
    val = job.images.decode(_selection(job.images, job.splits, settled), job.narrator, "validation images")
    return replace(job, settings=settled, val=val)


def _replan(run: RunFolder, job: _Job, plan: Plan, *, deadline: float) -> Replan:
    """Correct the number of epochs once real ones have been timed: the few steps timed before may have been unlucky."""

    def replan(done: int, seconds: float) -> int:
        drift = min(2.0, max(0.5, seconds / plan.epoch_seconds))
        reserve = RESERVE * (deadline - job.began)
        left = deadline - reserve - time.monotonic() - plan.finish_seconds * drift
        epochs = done + max(0, int(left / seconds))
        job.narrator.note(f"{epochs} epochs fit into the budget, at {seconds:.1f} s each")
        write_whole(run.recipe, as_recipe(replace(job.settings, epochs=max(1, epochs))))
        return epochs

    return replan


def _pretrain(run: RunFolder, job: _Job) -> _Job:
    """Train cleanly first where asked, and keep the weights that hardening starts from."""
    if run.initial_weights.exists():
        return job
    if job.settings.pretrain:
        job.narrator.heading("Clean pre-training")
        settings = replace(
            _training(job, job.settings.pretrain), source_attack=None, eps_ramp=0.0, freeze=(), max_clean_drop=None
        )
        defence = DEFENCES["nt"](DefenceContext(len(job.classifier.classes), 0, stream(0, "none")), DefenceSettings())
        Trainer(
            classifier=job.classifier,
            defence=defence,
            layer=None,
            train=job.train,
            val=job.val,
            settings=settings,
            checkpoint=run.pretraining,
            observer=_Watch(None, job.narrator, "pre-training"),
            stop_requested=job.stop_requested,
        ).run(resume=True)
    run.save_classifier(job.classifier, run.initial_weights)
    run.pretraining.unlink(missing_ok=True)
    return job


def _keep(run: RunFolder, job: _Job, trained: Trained) -> None:
    """Write the hardened weights, and what the run was into config.json."""
    run.save_classifier(job.classifier, run.weights)
    settings = job.settings
    config = run.read_json(run.config)
    config["training"] = {
        "method": settings.method,
        "source_attacks": list(trained.source_attacks),
        "norm": "linf",
        "eps": job.eps,
        "split": settings.split,
        "beta": settings.beta,
        "gamma": settings.gamma,
        "epochs": settings.epochs,
        "chosen_epoch": trained.history.chosen_epoch,
        "validation_worst_case": trained.confirmation,
        "data": settings.data,
        "seed": settings.seed,
        "selection_attacks": [CANARY_ATTACK, SELECTION_ATTACK, CONFIRMATION_ATTACK] if trained.source_attacks else [],
    }
    run.write_json(run.config, config)
    chosen = f"chose epoch {trained.history.chosen_epoch} of {len(trained.history.epochs)}"
    if trained.confirmation is not None:
        chosen += (
            f": {trained.confirmation:.1%} of {len(job.val)} validation images withstand {SELECTION_ATTACK} and "
            f"{CONFIRMATION_ATTACK}"
        )
    job.narrator.note(chosen)


def _audit(run: RunFolder, job: _Job, trained: Trained) -> Report:
    """Audit the model before and after on the same test images, once."""
    job.narrator.heading("Final audit")
    settings = job.settings
    entries = job.images.sample(job.splits.test, settings.audit_samples, settings.seed, "audit")
    test = job.images.decode(entries, job.narrator, "test images")
    before = run.load_classifier(initial=True, arch=settings.arch if _is_code(settings.arch) else None)
    before.to(job.classifier.device)
    where = f"{settings.data}, {len(test)} of {len(job.splits.test)} test images"
    report = audit_subjects(
        [
            Subject("before", before, test, {}),
            Subject(settings.method, job.classifier, test, _exposures(job, trained)),
        ],
        eps=job.eps,
        attacks=attack_names(settings.attacks),
        dataset=where,
        seed=settings.seed,
        narrator=job.narrator,
        title=_title(settings, trained),
        history=trained.history,
        facts=run_facts(settings, job.command, job.splits.how, trained.history),
        train=job.train,
    )
    write_reports(report, run.path, job.narrator)
    return report


def _title(settings: FitSettings, trained: Trained) -> str:
    sources = " and ".join(trained.source_attacks) or "clean images"
    return f"{Path(settings.data).name}: {settings.method} from {sources}"


def _is_code(arch: str | None) -> bool:
    return arch is not None and not arch.startswith(("timm:", "torchvision:"))


def _exposures(job: _Job, trained: Trained) -> dict[str, Exposure]:
    if not trained.source_attacks:
        return {}
    return exposures_of(
        training=[CRAFTERS[name](job.eps).name for name in trained.source_attacks],
        selection=[ATTACKS[name](job.eps).name for name in (CANARY_ATTACK, SELECTION_ATTACK, CONFIRMATION_ATTACK)],
    )
