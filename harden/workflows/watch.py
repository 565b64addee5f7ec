"""Where the news of the training loop goes: to a person, into metrics.jsonl, to trackers, to the budget."""

from __future__ import annotations

import json

from harden.durations import duration
from harden.files import write_whole
from harden.training.history import EpochRecord, History
from harden.workflows.job import Job
from harden.workflows.run_folder import RunFolder
from harden.workflows.tracking import Tracking

LEAK = 0.01
"""Accuracy on adversarial examples above that on clean images by more than this is called label leaking."""


class Watch:
    """Hears the training loop: keeps metrics.jsonl and the budget, and passes progress on to the narrator.

    Args:
        run: where metrics.jsonl goes; None writes none.
        job: whose narrator and budget hear.
        task: for progress.
        tracking: is told of every epoch; None is none.
    """

    def __init__(self, run: RunFolder | None, job: Job, task: str, tracking: Tracking | None = None) -> None:
        self.run = run
        self.tracking = tracking
        self.narrator = job.narrator
        self.budget = job.budget
        self.task = task
        self.detail = ""
        self.leaking = False

    def step(self, done: int, total: int) -> None:
        """A step is done."""
        self.narrator.progress(self.task, done, total, self.detail)
        if self.budget is not None:
            self.budget.tick()

    def epoch(self, record: EpochRecord, history: History) -> None:
        """An epoch is over."""
        scalars = record.scalars
        parts = [f"epoch {record.epoch}", f"loss {scalars['loss']:.3f}"]
        names = (("val_clean", "clean"), ("val_source", "source"), ("val_canary", "PGD-10"), ("val_robust", "PGD-20"))
        parts += [f"{label} {scalars[name]:.1%}" for name, label in names if name in scalars]
        parts += [f"domain {scalars[n]:.0%}" for n in scalars if n.startswith("domain_accuracy")]
        self.detail = ", ".join(parts)
        self.narrator.note(f"{self.detail}, {duration(record.seconds)}")
        clean, adversarial = (scalars.get(f"train_accuracy_{domain}", 0.0) for domain in ("clean", "adv"))
        if adversarial > clean + LEAK and not self.leaking:
            self.leaking = True
            self.narrator.warn(
                f"training examples are easier than clean images ({adversarial:.1%} against {clean:.1%} right): labels "
                "leak through the source attack, and robustness under it means little; try --source-attack nfgsm"
            )
        if self.run is not None:
            lines = "".join(json.dumps(epoch.to_json()) + "\n" for epoch in history.epochs)
            write_whole(self.run.metrics, lines)
        if self.tracking is not None:
            self.tracking.epoch(record.epoch, scalars)
        if self.budget is not None:
            self.budget.tick()

    def note(self, text: str) -> None:
        """Something happened that a person should read."""
        self.narrator.warn(text)
