"""How long a run takes, measured before it starts, and how many epochs a time budget buys."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch

from harden.attacks import ATTACKS, run_attack
from harden.data.dataset import ImageSet
from harden.defences import Defence
from harden.errors import UsageError
from harden.models.classifier import Classifier
from harden.randomness import stream
from harden.training.evaluate import BATCH
from harden.training.loop import CANARY_IMAGES, CANDIDATES, Trainer, TrainingSettings

TIMED_STEPS = 12
AUDIT_SHARE = 0.15
"""Share of a budget that the final audit may take before its sample is made smaller."""
SMALLEST_AUDIT = 500
RESERVE = 0.07
"""Share of a budget kept back: timings on shared machines drift."""
SURVIVORS = 0.75
"""Share of images that stand through an attack on a hardened model, as the estimates assume."""


@dataclass(frozen=True)
class Timing:
    """Measured seconds.

    Attributes:
        step: of one training step.
        attack_pass: of one forward and backward pass of one image in eval mode.
    """

    step: float
    attack_pass: float


@dataclass(frozen=True)
class Plan:
    """What the run will do and how long each part should take.

    Attributes:
        epochs: of hardening.
        steps_per_epoch: training steps.
        audit_samples: images of the final audit.
        epoch_seconds: of one epoch, its measurements included.
        finish_seconds: of confirmation, the audits before and after, and the report.
        timing: what this rests on.
    """

    epochs: int
    steps_per_epoch: int
    audit_samples: int
    epoch_seconds: float
    finish_seconds: float
    timing: Timing

    @property
    def seconds(self) -> float:
        """Of everything that is left to do."""
        return self.epochs * self.epoch_seconds + self.finish_seconds


class _Deaf:
    def step(self, done: int, total: int) -> None: ...

    def epoch(self, record: object, history: object) -> None: ...

    def note(self, text: str) -> None: ...


def measure(
    classifier: Classifier, defence: Defence, layer: str | None, train: ImageSet, settings: TrainingSettings
) -> Timing:
    """Time training steps and attack passes on copies; the classifier and the defence stay as they are."""
    trainer = Trainer(
        classifier=copy.deepcopy(classifier),
        defence=copy.deepcopy(defence),
        layer=layer,
        train=train,
        val=train.subset(torch.arange(min(len(train), 2))),
        settings=settings,
        checkpoint=None,
        observer=_Deaf(),
    )
    step = trainer.time_steps(TIMED_STEPS)
    images, labels = train.batch(torch.arange(min(BATCH, len(train))))
    images, labels = images.to(classifier.device), labels.to(classifier.device)
    attack = ATTACKS["pgd-10"](settings.eps)
    seconds = []
    for number in range(2):
        began = time.perf_counter()
        run_attack(attack, trainer.classifier, images, labels, generator=stream(0, "timing", number), drop_fooled=False)
        seconds.append((time.perf_counter() - began) / (len(images) * (attack.steps + 1 / 3)))
    return Timing(step, min(seconds))


def make_plan(
    timing: Timing,
    *,
    train_images: int,
    val_images: int,
    test_images: int,
    settings: TrainingSettings,
    attacks: tuple[str, ...],
    epochs: int | None,
    budget: float | None,
    audit_samples: int | None,
) -> Plan:
    """Return the plan for a number of epochs, or for the seconds that are left of a budget.

    Args:
        timing: measured on this model.
        train_images, val_images, test_images: counts (val: those used for selection).
        settings: of training.
        attacks: of the final audit.
        epochs: wanted, or None to let the budget decide.
        budget: seconds left, or None.
        audit_samples: images wanted for the audit, or None for all test images or as many as the budget allows.

    Raises:
        UsageError: the budget does not even hold one epoch and a small audit.
    """
    batch = min(settings.batch_size, train_images)
    steps = train_images // batch
    canary = min(CANARY_IMAGES, val_images)
    per_epoch = steps * timing.step
    confirmation = 0.0
    if settings.source_attack is not None:
        per_epoch += timing.attack_pass * SURVIVORS * (20 * val_images + 10 * canary)
        confirmation = CANDIDATES * timing.attack_pass * SURVIVORS * 170 * val_images
    # The model before hardening falls in the first steps of each attack; a few passes per image and attack.
    gradients = sum(ATTACKS[name](settings.eps).steps * ATTACKS[name](settings.eps).restarts for name in attacks)
    per_image = timing.attack_pass * (gradients * SURVIVORS + 8 * len(attacks))
    wanted = min(audit_samples or test_images, test_images)
    if budget is None:
        assert epochs is not None
        return Plan(epochs, steps, wanted, per_epoch, confirmation + wanted * per_image, timing)
    usable = budget * (1 - RESERVE)
    if audit_samples is None:
        affordable = int(usable * AUDIT_SHARE / per_image)
        wanted = min(test_images, max(SMALLEST_AUDIT, affordable))
    finish = confirmation + wanted * per_image
    bought = int((usable - finish) / per_epoch)
    if bought < 1:
        needed = (finish + per_epoch) / (1 - RESERVE)
        raise UsageError(
            f"the budget does not hold one epoch: {budget:.0f} s are left, one epoch and the audit need {needed:.0f} s",
            hint="give a longer --budget, a smaller --audit-samples, or a smaller --image-size",
        )
    return Plan(bought, steps, wanted, per_epoch, finish, timing)
