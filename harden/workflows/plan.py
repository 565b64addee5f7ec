"""How long a run takes, measured before it starts, and how many epochs a time budget buys."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from harden.attacks import ATTACKS, run_attack
from harden.data.dataset import ImageSet
from harden.defences import Defence
from harden.durations import duration, larger_budget
from harden.errors import BudgetError
from harden.models.classifier import Classifier
from harden.models.user_code import copied
from harden.randomness import stream
from harden.stopping import ask
from harden.training.evaluate import BATCH
from harden.training.loop import SLOW_START, Trainer
from harden.training.selection import CANDIDATES
from harden.training.settings import TrainingSettings
from harden.workflows.examine import probes_of

FEWEST_TIMED = 2
"""Images that are timed first."""
TIMED_STEPS = 12
TIMED_SECONDS, SOON = 4.0, 0.4
"""Timing stops after this many steps or, from the second on, seconds; the fewer where no budget rests on it."""
HOPEFUL = 0.5
"""A guessed time may be so much too long: a network passes many images at once faster than few."""
DRIFT = 1.15
"""Timings of another run may be so much longer."""
RESERVE = 0.07
"""Share of a budget kept back: timings on shared machines drift."""
AUDIT_SHARE = 0.18
"""Share of a budget that the final audit may take before its sample is made smaller."""
SMALLEST_AUDIT = 100
SELECTION_SHARE = 0.2
"""Time of an epoch's held-out measurements, as a share of its training steps, above which their sample shrinks."""
CONFIRMATION_SHARE = 0.1
SMALLEST_SELECTION = 100
EPOCH_PARTS = (1, 2, 4, 8)
SHORTEST_EPOCH = 20
"""Steps below which a part of a pass is no epoch."""
SURVIVORS = 0.75
"""Share of images that stand through an attack on a hardened model, as the estimates assume."""
FALLING = 8
"""Gradient passes that an attack takes for an image that does not stand through it."""
EPOCH_PASSES, CONFIRMATION_PASSES = 20 + 10 // 2, 50
"""Gradient passes per selection image: PGD-20, and PGD-10 on half of them, every epoch; PGD-50 per candidate."""
MOST_PARTS = 10
"""Parts of the training images that an epoch may be one of, where whole ones do not come to the passes asked for."""
CHECK_GRADIENTS = 135
"""Gradient passes per probed image of the checks; see `harden.audit.diagnostics.believe`."""


@dataclass(frozen=True)
class Timing:
    """Measured seconds.

    Attributes:
        step: of one training step.
        attack_pass: of one forward and backward pass of one image in eval mode.
        passes: of a step for each clean image, forward and backward; 0 where nobody counted.
    """

    step: float
    attack_pass: float
    passes: int = 0


@dataclass(frozen=True)
class Plan:
    """What the run will do and how long each part should take.

    Attributes:
        pretraining: seconds of clean training before.
        epochs: of hardening.
        epoch_parts: parts of a pass over the training images that an epoch is one of.
        steps_per_epoch: training steps.
        batch_size: clean images per step.
        selection_samples: validation images that the canary and selection use.
        audit_samples: images of the final audit.
        epoch_seconds: of one epoch, its measurements included.
        finish_seconds: of confirmation, the audits before and after, and the report.
        timing: what this rests on.
    """

    pretraining: float
    epochs: int
    epoch_parts: int
    steps_per_epoch: int
    batch_size: int
    selection_samples: int
    audit_samples: int
    epoch_seconds: float
    finish_seconds: float
    timing: Timing

    @property
    def seconds(self) -> float:
        """Of everything that is left to do."""
        return self.pretraining + self.epochs * self.epoch_seconds + self.finish_seconds


class _Deaf:
    def step(self, done: int, total: int) -> None: ...

    def epoch(self, record: object, history: object) -> None: ...

    def note(self, text: str) -> None: ...


def time_step(
    classifier: Classifier,
    defence: Defence,
    layer: str | None,
    train: ImageSet,
    settings: TrainingSettings,
    seconds: float = TIMED_SECONDS,
) -> tuple[float, int]:
    """Return seconds and passes of one training step, timed on copies; classifier and defence stay as they are."""
    trainer = Trainer(
        classifier=copied(classifier),
        defence=copy.deepcopy(defence),
        layer=layer,
        train=train,
        val=train.subset(torch.arange(min(len(train), 2))),
        settings=settings,
        checkpoint=None,
        observer=_Deaf(),
    )
    return trainer.time_steps(TIMED_STEPS, seconds)


def time_attack_pass(classifier: Classifier, train: ImageSet, eps: float, limit: float = TIMED_SECONDS / 2) -> float:
    """Return seconds of one forward and backward pass of one image in eval mode."""
    attack = ATTACKS["fgsm"](eps)

    def run(count: int) -> None:
        images, labels = train.batch(torch.arange(count))
        images, labels = images.to(classifier.device), labels.to(classifier.device)
        run_attack(attack, classifier, images, labels, generator=stream(0, "timing"), drop_fooled=False)

    # FGSM is a forward and a backward pass, and a forward to score the example: four thirds of a gradient pass.
    return seconds_per_image(run, min(BATCH, len(train)), limit) * 3 / 4


def seconds_per_image(run: Callable[[int], None], most: int, limit: float) -> float:
    """Return the seconds that `run` takes for an image: on few images of a slow network, on many of a fast one.

    Args:
        run: called with the number of images to work on.
        most: images worked on at once.
        limit: seconds after which timing stops; a count of images that takes `SLOW_START` times as long is the last.
    """
    count = min(FEWEST_TIMED, most)
    while (seconds := _seconds_of(run, count)) < SLOW_START * limit:
        if count == most:
            break
        count = min(4 * count, most)
    else:
        return seconds / count
    measured: list[float] = []  # without the first, which warms up
    while not measured or (len(measured) < TIMED_STEPS and sum(measured) < limit):
        ask()
        measured.append(_seconds_of(run, most))
    return sum(measured) / len(measured) / most


def _seconds_of(run: Callable[[int], None], count: int) -> float:
    began = time.perf_counter()
    run(count)
    return time.perf_counter() - began


def share_withstood(classifier: Classifier, train: ImageSet, eps: float, *, most: int = BATCH) -> float:
    """Return the share of images that are right when clean and after one step of FGSM, in [0, 1].

    At a small eps, or hardened before, a model may withstand much of the audit before it is trained at all.
    """
    images, labels = train.batch(torch.arange(min(max(most, FEWEST_TIMED), BATCH, len(train))))
    images, labels = images.to(classifier.device), labels.to(classifier.device)
    found = run_attack(ATTACKS["fgsm"](eps), classifier, images, labels, generator=stream(0, "timing"))
    return float((found.margins >= 0).float().mean())


def make_plan(
    timing: Timing,
    *,
    train_images: int,
    val_images: int,
    test_images: int,
    settings: TrainingSettings,
    attacks: tuple[tuple[str, bool], ...],
    epochs: int | None,
    budget: float | None,
    audit_samples: int | None,
    epoch_parts: int = 1,
    pretraining: float = 0.0,
    withstood: float = 0.0,
    audit: bool = True,
) -> Plan:
    """Return the plan for a number of epochs, or for the seconds that are left of a budget.

    Args:
        timing: measured on this model.
        train_images, val_images, test_images: counts (val: those used for selection).
        settings: of training.
        attacks: of the final audit, as `attack_names` returns them.
        epochs: wanted, or None to let the budget decide.
        budget: seconds left, or None.
        audit_samples: images wanted for the audit, or None for all test images or as many as the budget allows.
        epoch_parts: parts of a pass that an epoch is one of.
        pretraining: seconds of the budget that clean training will take first.
        withstood: share of images, in [0, 1], that the model before withstands; attacks take as long on those.
        audit: whether there is one at the end.

    Raises:
        BudgetError: the budget does not even hold the pre-training, one epoch and a small audit.
    """
    batch = min(settings.batch_size, train_images)
    steps = max(1, train_images // batch // epoch_parts)
    training = steps * timing.step
    gradient = timing.attack_pass * SURVIVORS
    # Images that a model does not withstand fall in the first steps of each attack.
    gradients = sum(ATTACKS[name](settings.eps).passes for name, _ in attacks) / 2
    before = timing.attack_pass * (withstood * gradients + (1 - withstood) * FALLING * len(attacks))
    per_image = before + gradient * gradients
    selected, audited = val_images, min(audit_samples or test_images, test_images)
    usable = max(0.0, (budget or 0.0) * (1 - RESERVE) - pretraining)
    if budget is not None and settings.source_attacks:
        affordable = min(
            SELECTION_SHARE * training / (gradient * EPOCH_PASSES),
            CONFIRMATION_SHARE * usable / (gradient * CONFIRMATION_PASSES * CANDIDATES),
        )
        selected = min(val_images, max(SMALLEST_SELECTION, int(affordable)))
    if budget is not None and audit_samples is None:
        audited = min(test_images, max(SMALLEST_AUDIT, int(AUDIT_SHARE * usable / per_image)))
    finish = audited * per_image + probes_of(audited) * CHECK_GRADIENTS * timing.attack_pass if audit else 0.0
    per_epoch = training
    if settings.source_attacks:
        per_epoch += gradient * EPOCH_PASSES * selected
        finish += gradient * CONFIRMATION_PASSES * CANDIDATES * selected
    if budget is not None:
        epochs = int((usable - finish) / per_epoch)
        if epochs < 1:
            needed = (pretraining + finish + per_epoch) / (1 - RESERVE)
            what = "the clean pre-training, one epoch" if pretraining else "one epoch"
            raise BudgetError(
                f"the budget does not hold one epoch: {duration(max(0.0, budget))} are left; {what} and the audit need "
                f"{duration(needed)} here"
            )
    if epochs is None:
        raise ValueError("make_plan needs epochs or a budget")
    return Plan(pretraining, epochs, epoch_parts, steps, batch, selected, audited, per_epoch, finish, timing)


def plan_within(plan: Callable[[float], Plan], *, budget: float, spent: float) -> Plan:
    """Return the plan for the seconds that are left of a budget, or say what budget would do.

    Args:
        plan: makes the plan for a number of seconds, or raises `BudgetError`.
        budget: seconds left.
        spent: seconds of the whole budget that are gone, which another run would need again.

    Raises:
        BudgetError: the budget is too small; the hint names the smallest that would do.
    """
    try:
        return plan(budget)
    except BudgetError as refusal:
        enough = spent + DRIFT * smallest_budget(plan, max(budget, 1.0))
        raise BudgetError(refusal.message, hint=larger_budget(enough)) from None


def smallest_budget(plan: Callable[[float], Plan], refused: float) -> float:
    """Return seconds that `plan` does not refuse, at most 2 % more than it must have; it refuses `refused`."""

    def does(seconds: float) -> bool:
        try:
            plan(seconds)
        except BudgetError:
            return False
        return True

    low, high = refused, 2 * refused
    while not does(high):
        low, high = high, 2 * high
    while high > 1.02 * low:
        middle = (low + high) / 2
        low, high = (low, middle) if does(middle) else (middle, high)
    return high


def refuse_early(plan: Callable[[Timing], Plan], guess: Timing) -> None:
    """Refuse a budget that is too small even where a step takes half as long as it is guessed to.

    Raises:
        BudgetError: as `plan` for the guess itself.
    """
    try:
        plan(Timing(HOPEFUL * guess.step, HOPEFUL * guess.attack_pass, guess.passes))
    except BudgetError:
        plan(guess)


def best_parts(plan: Callable[[int], Plan], *, steps: int) -> Plan:
    """Return the plan for a time budget whose epochs are parts of a pass where whole ones would waste it.

    Whole passes may leave nearly one of them unused. Of the plans with at least nine tenths of the most training that
    any has, this is the one with the fewest parts.

    Args:
        plan: makes the plan for a number of parts.
        steps: of a whole pass.

    Raises:
        BudgetError: the budget is too small for any of them.
    """
    plans: list[Plan] = []
    refusal: BudgetError | None = None
    for parts in EPOCH_PARTS:
        if parts == 1 or steps // parts >= SHORTEST_EPOCH:
            try:
                plans.append(plan(parts))
            except BudgetError as error:
                refusal = error
    if refusal is not None and not plans:
        raise refusal
    most = max(plan.epochs / plan.epoch_parts for plan in plans)
    return next(plan for plan in plans if plan.epochs / plan.epoch_parts >= 0.9 * most)


def epochs_within(passes: float, cost: int, parts: int | None = None) -> tuple[int, int]:
    """Return epochs, and the parts of the training images that each is one of, which come to `passes` for an image.

    Whole epochs where they come within a twentieth of it; else the fewest parts that do, or the ones that come nearest.

    Args:
        passes: wanted for each training image.
        cost: passes for an image in a whole epoch.
        parts: the parts that the user asked for; None leaves them free.
    """
    exact = passes / cost
    plans = [(max(1, round(exact * n)), n) for n in ([parts] if parts else range(1, MOST_PARTS + 1))]
    near = [(epochs, n) for epochs, n in plans if abs(epochs / n / exact - 1) <= 0.05]
    return near[0] if near else min(plans, key=lambda plan: abs(plan[0] / plan[1] - exact))
