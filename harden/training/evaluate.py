"""Held-out measurements during training: plain accuracy and accuracy under an attack."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harden.attacks import CRAFTERS, GRADIENT_ATTACKS, GradientAttack, craft, frozen, run_attack
from harden.chance import agreement
from harden.data.dataset import ImageSet
from harden.distributed import ALONE, Processes
from harden.memory import by_parts
from harden.models.classifier import Classifier
from harden.randomness import stream
from harden.training.canary import Vitals

CANARY_ATTACK = "pgd-10"
BATCH = 250
"""Images per batch of a measurement."""


def predictions(classifier: Classifier, images: ImageSet, processes: Processes = ALONE) -> Tensor:
    """Return the predicted classes (N,) int64 on the CPU; eval mode, restored. Each process predicts its part."""
    found = torch.zeros(len(images), dtype=torch.int64)

    def look(_: int, rows: Tensor) -> None:
        found[rows] = classifier(images.batch(rows)[0].to(classifier.device)).argmax(dim=1).cpu()

    with frozen(classifier), torch.no_grad():
        _by_parts(torch.arange(len(images)), look, processes)
    return processes.sum(found)


def standing_after(
    classifier: Classifier,
    images: ImageSet,
    attack: GradientAttack,
    *,
    standing: Tensor,
    seed: int,
    processes: Processes = ALONE,
) -> Tensor:
    """Return (N,) bool: which of the `standing` images the model still classifies correctly under `attack`.

    Args:
        classifier: attacked in eval mode; restored.
        images: N images.
        attack: stays in its ball.
        standing: (N,) bool, correctly classified so far; the others are not attacked.
        seed: of the random starts.
        processes: each attacks its part.
    """
    after = torch.zeros(len(standing), dtype=torch.int32)

    def look(number: int, rows: Tensor) -> None:
        batch, labels = images.batch(rows)
        examples = run_attack(
            attack,
            classifier,
            batch.to(classifier.device),
            labels.to(classifier.device),
            generator=stream(seed, attack.name, number),
        )
        after[rows] = (examples.margins >= 0).int().cpu()

    rows = torch.nonzero(standing).squeeze(1)
    _by_parts(rows, look, processes, draws=not attack.starts_clean)
    return processes.sum(after).bool()


def source_accuracy(
    classifier: Classifier, images: ImageSet, attack: GradientAttack, *, seed: int, processes: Processes = ALONE
) -> float:
    """Accuracy in [0, 1] on the examples that a crafter makes, as training sees them (N-FGSM leaves the ball)."""
    right = torch.zeros(len(images), dtype=torch.int32)

    def look(number: int, rows: Tensor) -> None:
        batch, labels = images.batch(rows)
        batch, labels = batch.to(classifier.device), labels.to(classifier.device)
        examples = craft(attack, classifier, batch, labels, generator=stream(seed, "source", number))
        with frozen(classifier), torch.no_grad():
            right[rows] = (classifier(examples).argmax(dim=1) == labels).int().cpu()

    _by_parts(torch.arange(len(images)), look, processes, draws=not attack.starts_clean)
    return share(processes.sum(right))


def _by_parts(rows: Tensor, work: Callable[[int, Tensor], None], processes: Processes, *, draws: bool = False) -> None:
    """Work on this process's rows in batches.

    Where `work` draws by the number of the batch, processes take turns at the batches that one process would have, so
    that the draws do not depend on how many there are; else each has as many rows as the others.
    """
    if processes.size == 1 or not draws:
        by_parts(rows[processes.part(len(rows))], BATCH, work)
        return
    for number, batch in enumerate(torch.split(rows, BATCH)):
        if number % processes.size == processes.rank:
            by_parts(batch, BATCH, lambda _, part, number=number: work(number, part))  # type: ignore[misc]


def vitals_of(
    classifier: Classifier,
    images: ImageSet,
    *,
    first: str,
    eps: float,
    loss: float,
    seed: int,
    processes: Processes = ALONE,
) -> Vitals:
    """Measure what the canary hears.

    Args:
        classifier: attacked in eval mode; restored.
        images: held out.
        first: the source attack that the run began with, also while another one crafts, so that epochs compare across
            a cure. FGSM stands for one that remembers, which knows nothing of held-out images, and for one that
            leaves the ball.
        eps: l_inf radius on the [0, 1] scale.
        loss: mean training loss of the epoch.
        seed: of the random starts.
        processes: each measures its part.
    """
    answers = predictions(classifier, images, processes)
    clean = answers == images.labels
    source = CRAFTERS[first](eps)
    if source.remembers or not source.stays_in_ball:
        source = CRAFTERS["fgsm"](eps)
    attack = GRADIENT_ATTACKS[CANARY_ATTACK](eps)
    canary = standing_after(classifier, images, attack, standing=clean, seed=seed, processes=processes)
    return Vitals(
        clean=share(clean),
        source=source_accuracy(classifier, images, source, seed=seed, processes=processes),
        canary=share(canary),
        loss=loss,
        chance=agreement(images.labels.tolist(), answers.tolist()).expected,
    )


def share(flags: Tensor) -> float:
    """Return the share of true values in `flags` (N,) bool."""
    return float(flags.float().mean())
