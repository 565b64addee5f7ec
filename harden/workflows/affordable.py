"""Whether a budget can hold a fit at all, told as soon as the images are counted and a few have passed through."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import nn

from harden.attacks import attack_names
from harden.data import SplitPlan
from harden.models.modes import evaluating
from harden.training.settings import TrainingSettings
from harden.workflows.budget import Budget
from harden.workflows.narrator import Narrator
from harden.workflows.normalising import PREFLIGHT_IMAGES
from harden.workflows.plan import Plan, Timing, best_parts, make_plan, plan_within, refuse_early, seconds_per_image
from harden.workflows.settings import FitSettings

FEWEST_AUDITED = 20
"""Images that are audited however little time is left."""
MOST_TIMED, TIMED_SECONDS = 128, 0.5
"""Images that a first forward pass is timed on, and for how long."""


def outlined(
    settings: FitSettings,
    timing: Timing,
    *,
    training: TrainingSettings,
    train_images: int,
    val_images: int,
    test_images: int,
    epochs: int | None,
    began: float,
    pretraining: float = 0.0,
    withstood: float = 0.0,
    audit: bool = True,
) -> Plan:
    """Return the plan of a fit for these timings: of `epochs`, or of what is left of its budget since `began`.

    Args:
        settings: of the fit.
        training: what the training loop needs to know of them.
        began: on the clock of `time.monotonic`.
        timing, train_images, val_images, test_images, epochs, pretraining, withstood, audit: see `make_plan`.

    Raises:
        BudgetError: the budget is too small; the hint names the smallest that would do.
    """

    def plan(parts: int, budget: float | None) -> Plan:
        return make_plan(
            timing,
            train_images=train_images,
            val_images=val_images,
            test_images=test_images,
            settings=training,
            attacks=attack_names(settings.attacks),
            epochs=epochs,
            epoch_parts=parts,
            budget=budget,
            audit_samples=settings.audit_samples,
            pretraining=pretraining,
            withstood=withstood,
            audit=audit,
        )

    def within(budget: float) -> Plan:
        if settings.epoch_parts is not None:
            return plan(settings.epoch_parts, budget)
        return best_parts(lambda parts: plan(parts, budget), steps=train_images // training.batch_size)

    if settings.budget is None or settings.epochs is not None:
        return plan(settings.epoch_parts or 1, None)
    spent = time.monotonic() - began
    return plan_within(within, budget=settings.budget - spent, spent=spent)


def refuse_hopeless(
    settings: FitSettings,
    module: nn.Module,
    shape: tuple[int, int, int],
    splits: SplitPlan,
    *,
    training: TrainingSettings,
    passes: int,
    began: float,
    processes: int,
) -> None:
    """Refuse a budget that cannot hold the fit, before an image is decoded.

    Only what every fit does is counted: one look of the preflight, the steps, and an audit of the fewest images.

    Args:
        settings: of the fit.
        module: the user's network, on the device that trains it; modes are restored.
        shape: (C, H, W) of its images.
        splits: whose images are counted.
        training: what the training loop needs to know of the settings.
        passes: that a clean image costs in a step, forward and backward.
        began: on the clock of `time.monotonic`.
        processes: that share a step.

    Raises:
        BudgetError: the hint names the smallest budget that would do.
    """
    if settings.budget is None or settings.epochs is not None:
        return

    def run(count: int) -> None:
        with evaluating(module):
            module(torch.full((count, *shape), 0.5))

    forward = seconds_per_image(run, MOST_TIMED, TIMED_SECONDS)

    def plan(timing: Timing) -> Plan:
        looked = timing.attack_pass / 2 * min(PREFLIGHT_IMAGES, len(splits.train))
        return outlined(
            settings,
            timing,
            training=training,
            train_images=len(splits.train),
            val_images=min(len(splits.val), settings.selection_samples),
            test_images=len(splits.test),
            epochs=None,
            began=began - looked,
        )

    refuse_early(plan, Timing(training.batch_size * forward * passes / processes, 2 * forward, passes))


def affordable_audit(settings: FitSettings, budget: Budget | None, narrator: Narrator) -> FitSettings:
    """Return the settings with as many images to audit as are left time for; training may have taken more than planned.

    Args:
        settings: as planned.
        budget: of the run; None leaves the settings as they are.
        narrator: is told where it is fewer.
    """
    planned = settings.audit_samples
    if budget is None or planned is None:
        return settings
    samples = max(min(planned, FEWEST_AUDITED), int(planned * budget.share_left()))
    if samples < planned:
        narrator.warn(f"the budget leaves time to audit {samples} images instead of {planned}")
    return replace(settings, audit_samples=samples)
