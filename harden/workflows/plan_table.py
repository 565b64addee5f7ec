"""What a run is going to do and what it will cost, as a table for the user."""

from __future__ import annotations

from harden.defences import FEATURE_DEFENCES, UNLABELLED_DEFENCES
from harden.durations import duration
from harden.training.crafting import Cost, cost_of
from harden.workflows.defaults import eps_text
from harden.workflows.job import Job
from harden.workflows.plan import Plan


def tell_plan(job: Job, plan: Plan) -> None:
    """Say what will be done, at what cost."""
    settings = job.settings
    sources = " + ".join(job.source_attacks) or "none"
    job.narrator.heading("Plan")
    job.narrator.table(
        ("what", "value"),
        [
            ("method", f"{settings.method}, source attack {sources}, eps {eps_text(job.eps)}"),
            *(
                [("domain terms", f"beta {settings.beta:g}, gamma {settings.gamma:g}, split at {settings.split}")]
                if settings.method in FEATURE_DEFENCES
                else []
            ),
            ("epochs", f"{plan.epochs} of {plan.steps_per_epoch} steps of {plan.batch_size} images{_share(plan)}"),
            *([("processes", f"{job.processes.size}, which share every step")] if job.processes.size > 1 else []),
            ("passes per step", _passes(job, plan.timing.passes) + " (F forward, B backward, b backward to the input)"),
            *([("clean pre-training", duration(plan.pretraining))] if plan.pretraining else []),
            ("time per step", f"{plan.timing.step * 1000:.1f} ms"),
            ("time per epoch", f"{duration(plan.epoch_seconds)} with its held-out measurements"),
            ("selection", f"on {plan.selection_samples} validation images"),
            *([("final audit", f"{plan.audit_samples} test images, before and after")] if job.audits else []),
            ("estimated time", duration(plan.seconds)),
        ],
    )


def _share(plan: Plan) -> str:
    return "" if plan.epoch_parts == 1 else f" (each 1/{plan.epoch_parts} of the training images)"


def planned_cost(job: Job) -> Cost:
    """Return the passes that one training image costs where examples are crafted apart."""
    return cost_of(
        job.source_attacks,
        networks=1 + len(job.statics),
        labelled=job.settings.method not in UNLABELLED_DEFENCES,
    )


def _passes(job: Job, counted: int) -> str:
    """Return the passes of a step, in passes of one batch of clean images, `counted` of them in all."""
    cost = planned_cost(job)
    if not cost.gradients:
        return "1F+1B"
    if counted < cost.passes:  # the examples come out of the clean images' own pass
        extra = "+1b" if counted > 2 * cost.trained else ""
        return f"{cost.trained}F{extra}+{cost.trained}B to train and to craft"
    crafted = "1F+1b" if cost.gradients == 1 else f"{cost.gradients} x (F+b)"
    predicted = f" and {cost.predictions}F" if cost.predictions else ""
    return f"{cost.trained}F+{cost.trained}B to train, {crafted}{predicted} to craft"
