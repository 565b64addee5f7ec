"""Planning and running the training of a fit."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, replace

import torch

from harden.adaptation import separate_weights
from harden.attacks import frozen
from harden.defences import (
    DEFENCES,
    FEATURE_DEFENCES,
    Defence,
    DefenceContext,
    DefenceSettings,
)
from harden.durations import duration
from harden.errors import RunFolderError, UsageError
from harden.files import write_whole
from harden.models.head import all_but
from harden.models.tap import Tap, as_representation
from harden.randomness import stream
from harden.training.batches import Batches
from harden.training.loop import Trainer
from harden.training.settings import Replan, Trained, TrainingSettings
from harden.workflows.affordable import outlined
from harden.workflows.budget import Budget
from harden.workflows.defaults import default_batch_size, default_lr
from harden.workflows.job import Job, selection_entries
from harden.workflows.plan import (
    RESERVE,
    SOON,
    TIMED_SECONDS,
    Plan,
    Timing,
    refuse_early,
    share_withstood,
    time_attack_pass,
    time_step,
)
from harden.workflows.plan_table import planned_cost, tell_plan
from harden.workflows.run_folder import RunFolder
from harden.workflows.settings import DEFAULT_EPOCHS, FitSettings, as_recipe
from harden.workflows.tracking import Tracking
from harden.workflows.watch import Watch

MOST_WEIGHTS = 2**27
"""Of separate discriminators that somebody asks for: half a GiB, and three times that to train them."""


def build_defence(job: Job) -> tuple[Defence, str | None]:
    """Build the defence for the split, and return the layer that it taps.

    Raises:
        UsageError: the discriminators asked for would be huge.
    """
    settings, classifier = job.settings, job.classifier
    layer = settings.split if settings.method in FEATURE_DEFENCES and settings.beta > 0 else None
    width = 0
    if layer is not None:
        with frozen(classifier), Tap(classifier, layer) as tapped, torch.no_grad():
            features, _ = tapped(torch.full((2, *classifier.input_size), 0.5, device=classifier.device))
        width = as_representation(features).shape[1]
    context = DefenceContext(
        classes=len(classifier.classes),
        feature_width=width,
        generator=stream(settings.seed, "discriminators"),
        network=sum(p.numel() for p in classifier.parameters()),
        sources=len(job.source_attacks),
        statics=job.statics,
    )
    if settings.shared_trunk is False and settings.classwise:
        widest = max(width, context.classes if settings.gamma > 0 else 0)
        if separate_weights(widest, context.classes) > MOST_WEIGHTS:
            raise UsageError(
                f"separate discriminators for {context.classes:,} classes on {widest:,} features would have "
                f"{separate_weights(widest, context.classes):,} weights",
                hint="leave shared_trunk out, or choose a --split with fewer features",
            )
    knobs = DefenceSettings(
        beta=settings.beta,
        gamma=settings.gamma,
        classwise=settings.classwise,
        shared_trunk=settings.shared_trunk,
        grl_warmup=settings.grl_warmup,
    )
    return DEFENCES[settings.method](context, knobs), layer


def training_settings(job: Job, epochs: int, batch_size: int | None = None) -> TrainingSettings:
    """Return what the training loop needs to know of the job's settings; they may leave the batch size open."""
    s = job.settings
    return TrainingSettings(
        epochs=epochs,
        batch_size=batch_size or s.batch_size or default_batch_size(len(job.train)),
        lr=s.lr or default_lr(job.classifier.module),
        eps=job.eps,
        source_attacks=job.source_attacks,
        weight_decay=s.weight_decay,
        lr_warmup=s.lr_warmup,
        eps_ramp=s.eps_ramp,
        ema=s.ema,
        epoch_parts=s.epoch_parts or 1,
        augment=s.augment or "none",
        on_collapse=s.on_collapse,
        max_clean_drop=s.max_clean_drop,
        freeze=s.freeze,
        accumulate=s.accumulate,
        recompute=s.recompute,
        sync_batchnorm=s.sync_batchnorm,
        shard=s.shard,
        precision=s.precision,
        seed=s.seed,
    )


def clean_training(job: Job) -> tuple[Defence, TrainingSettings]:
    """Return what the clean training before hardening needs: of everything, or of a new last layer alone."""
    head = job.classifier.origin.head if job.settings.replace_head else None
    settings = replace(
        training_settings(job, job.settings.pretrain or 0),
        source_attacks=(),
        epoch_parts=1,
        eps_ramp=0.0,
        freeze=all_but(job.classifier.module, head.layers) if head is not None else (),
        max_clean_drop=None,
    )
    context = DefenceContext(len(job.classifier.classes), 0, stream(0, "none"))
    return DEFENCES["nt"](context, DefenceSettings()), settings


def plan_run(job: Job, defence: Defence, layer: str | None, *, pretrained: bool) -> Plan:
    """Time a few steps on copies and plan the run; where its steps are few, with smaller batches.

    Raises:
        UsageError: the budget is too small.
    """
    settings = job.settings
    epochs = settings.epochs if settings.epochs is not None or settings.budget is not None else DEFAULT_EPOCHS
    batch_size = settings.batch_size or default_batch_size(len(job.train), epochs)
    plan = _plan(job, defence, layer, epochs, batch_size, pretrained=pretrained)
    smaller = settings.batch_size or default_batch_size(len(job.train), plan.epochs / plan.epoch_parts)
    if smaller == batch_size:
        return plan
    return _plan(job, defence, layer, epochs, smaller, pretrained=pretrained)


def _plan(
    job: Job, defence: Defence, layer: str | None, epochs: int | None, batch_size: int, *, pretrained: bool
) -> Plan:
    settings = job.settings
    training = training_settings(job, epochs or 1000, batch_size)
    clean = clean_training(job) if settings.pretrain and not pretrained else None
    seconds = TIMED_SECONDS if settings.budget is not None else SOON
    attack_pass = time_attack_pass(job.classifier, job.train, job.eps, seconds / 2)
    cost = planned_cost(job)
    guess = Timing(_shared(training, job).batch_size * attack_pass * cost.passes / 2, attack_pass, cost.passes)

    def plan(timing: Timing, clean_step: float | None = None, withstood: float = 0.0) -> Plan:
        pretraining = 0.0
        if clean is not None:
            steps = (settings.pretrain or 0) * max(1, len(job.train) // clean[1].batch_size)
            pretraining = steps * (clean_step or _shared(clean[1], job).batch_size * timing.attack_pass)
        return outlined(
            settings,
            timing,
            training=training,
            train_images=len(job.train),
            val_images=len(job.val),
            test_images=len(job.splits.test),
            epochs=epochs,
            began=job.began,
            pretraining=pretraining,
            withstood=withstood,
            audit=job.audits,
        )

    refuse_early(plan, guess)
    timing, clean_step = guess, None
    if not _in_parts(job):  # a step on copies of everything is what there may be no room for
        step, passes = time_step(job.classifier, defence, layer, job.train, _shared(training, job), seconds)
        timing = Timing(step, attack_pass, passes)
        if clean is not None:
            clean_step, _ = time_step(job.classifier, clean[0], None, job.train, _shared(clean[1], job), seconds)
    withstood = share_withstood(job.classifier, job.train, job.eps, most=int(seconds / attack_pass))
    return plan(timing, clean_step, withstood)


def _shared(settings: TrainingSettings, job: Job) -> TrainingSettings:
    """Return settings whose step is what one of several processes does in a step."""
    return replace(settings, batch_size=math.ceil(settings.batch_size / job.processes.size))


def _in_parts(job: Job) -> bool:
    return job.settings.shard and job.processes.size > 1


def train(run: RunFolder, job: Job) -> tuple[Job, Trained]:
    """Pre-train if asked, plan, and train to the chosen weights; or go on from the run's checkpoint.

    Returns:
        The job with its plan settled, its classifier holding the chosen weights; and what training says of itself.
    """
    defence, layer = build_defence(job)
    fresh = not run.checkpoint.exists()
    if job.settings.pretrain and not (run.initial_weights.exists() or run.pretraining.exists()):
        plan_run(job, defence, layer, pretrained=False)  # a budget that is too small is told before anything is trained
    pretrain(run, job)
    if fresh:
        plan = plan_run(job, defence, layer, pretrained=True)
        tell_plan(job, plan)
        job = _settle(run, job, plan)
    if job.settings.epochs is None:
        raise RunFolderError(f"{run.recipe} does not say how many epochs", hint="start the run again in another folder")
    job.narrator.heading("Hardening" if job.source_attacks else "Training")
    tracking = _tracking(run, job)
    replan = _replan(run, job, job.budget) if job.budget is not None else None
    job.processes.tell(f"{job.settings.to_json()}\n{json.dumps({'resume': not fresh, 'replans': replan is not None})}")
    watch = Watch(run, job, "hardening", tracking)
    try:
        trained = _trainer(run, job, defence, layer, watch, replan).run(resume=not fresh)
    finally:
        tracking.close()
    return replace(job, settings=replace(job.settings, epochs=len(trained.history.epochs))), trained


def steps_taken(job: Job, trained: Trained) -> int:
    """Return the training steps that all epochs of a run took."""
    s = job.settings
    batches = Batches(len(job.train), s.batch_size or len(job.train), s.epoch_parts or 1, s.seed)
    return batches.steps * len(trained.history.epochs)


def join_training(run: RunFolder, job: Job) -> Job | None:
    """Take part in what the leader does in `train`; plans are its business, and so are files.

    Returns:
        The leader's job, its classifier holding the chosen weights; None where the leader needs nobody any more.

    Raises:
        ProcessLostError: the leader is gone.
    """
    defence, layer = build_defence(job)
    pretrain(run, job)
    word = job.processes.hear(job.stop_requested)
    if word is None:
        return None
    described, manner = word.split("\n")
    settings, manner = FitSettings.from_json(described), json.loads(manner)
    val = job.images.decode(selection_entries(job.images, job.splits, settings), job.narrator, "validation images")
    job = replace(job, settings=settings, val=val)

    def replan(done: int, seconds: float) -> int:
        return int(job.processes.hear() or done)

    watch = Watch(None, job, "hardening")
    trainer = _trainer(run, job, defence, layer, watch, replan if manner["replans"] else None)
    trainer.run(resume=manner["resume"])
    return job


def _trainer(
    run: RunFolder, job: Job, defence: Defence, layer: str | None, watch: Watch, replan: Replan | None
) -> Trainer:
    assert job.settings.epochs is not None
    return Trainer(
        classifier=job.classifier,
        defence=defence,
        layer=layer,
        train=job.train,
        val=job.val,
        settings=training_settings(job, job.settings.epochs),
        checkpoint=run.checkpoint,
        observer=watch,
        stop_requested=job.stop_requested,
        time_is_over=job.budget.training_is_over if job.budget is not None else lambda: False,
        replan=replan,
        processes=job.processes,
    )


def _tracking(run: RunFolder, job: Job) -> Tracking:
    history = run.read_history()
    settings = {key: str(value) for key, value in asdict(job.settings).items() if value is not None}
    begun = len(history.epochs) if history is not None else 0
    return Tracking(job.settings.track, run.path, settings, begun=begun, narrator=job.narrator)


def _settle(run: RunFolder, job: Job, plan: Plan) -> Job:
    """Write what the plan decided into the run's recipe, and take the validation images that selection will use."""
    settled = replace(
        job.settings,
        epochs=plan.epochs,
        epoch_parts=plan.epoch_parts,
        batch_size=plan.batch_size,
        budget=None,
        selection_samples=plan.selection_samples,
        audit_samples=plan.audit_samples,
    )
    if job.budget is not None:
        job.budget.attack_pass, job.budget.finish_seconds = plan.timing.attack_pass, plan.finish_seconds
        job.budget.keep()
    write_whole(run.recipe, as_recipe(settled, comment=_chosen_by(job.budget)))
    val = job.images.decode(selection_entries(job.images, job.splits, settled), job.narrator, "validation images")
    return replace(job, settings=settled, val=val)


def _chosen_by(budget: Budget | None) -> str | None:
    """Return what a recipe must say of the numbers that a budget chose."""
    return None if budget is None else f"A budget of {duration(budget.seconds)} chose the epochs and the samples."


def _replan(run: RunFolder, job: Job, budget: Budget) -> Replan:
    """Correct the number of epochs once real ones have been timed: the few steps timed before may have been unlucky."""

    def replan(done: int, seconds: float) -> int:
        drift = 1.0  # in parts, the others would have to pass images through as well
        if not _in_parts(job):
            drift = time_attack_pass(job.classifier, job.train, job.eps) / budget.attack_pass
        budget.drift = drift
        left = budget.deadline - RESERVE * budget.seconds - time.monotonic() - budget.finish_seconds * drift
        epochs = done + max(0, int(left / seconds))
        job.narrator.note(f"{epochs} epochs fit into the budget, at {duration(seconds)} each")
        settled = replace(job.settings, epochs=max(done, epochs))
        write_whole(run.recipe, as_recipe(settled, comment=_chosen_by(budget)))
        job.processes.tell(str(epochs))
        return epochs

    return replan


def pretrain(run: RunFolder, job: Job) -> None:
    """Train cleanly first where asked, and keep the weights that hardening starts from."""
    if run.initial_weights.exists():
        return
    if job.settings.pretrain:
        job.narrator.heading("Clean pre-training")
        defence, settings = clean_training(job)
        trainable = {name for name, p in job.classifier.module.named_parameters() if p.requires_grad}
        Trainer(
            classifier=job.classifier,
            defence=defence,
            layer=None,
            train=job.train,
            val=job.val,
            settings=settings,
            checkpoint=run.pretraining,
            observer=Watch(None, job, "pre-training"),
            stop_requested=job.stop_requested,
            processes=job.processes,
        ).run(resume=True)
        for name, parameter in job.classifier.module.named_parameters():
            parameter.requires_grad_(name in trainable)  # what was frozen for a new last layer is hardened
    if not job.processes.leads:
        return
    run.save_classifier(job.classifier, run.initial_weights)
    run.pretraining.unlink(missing_ok=True)
    run.starting_weights.unlink(missing_ok=True)
