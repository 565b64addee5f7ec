"""Held-out measurements during training: plain accuracy and accuracy under an attack."""

from __future__ import annotations

import torch
from torch import Tensor

from harden.attacks import CRAFTERS, GRADIENT_ATTACKS, GradientAttack, craft, frozen, run_attack
from harden.data.dataset import ImageSet
from harden.memory import by_parts
from harden.models.classifier import Classifier
from harden.randomness import stream
from harden.training.canary import Vitals

CANARY_ATTACK = "pgd-10"
BATCH = 250
"""Images per batch of a measurement."""


def predictions(classifier: Classifier, images: ImageSet) -> Tensor:
    """Return the predicted classes (N,) int64 on the CPU; eval mode, restored."""
    found = torch.zeros(len(images), dtype=torch.int64)

    def look(_: int, rows: Tensor) -> None:
        found[rows] = classifier(images.batch(rows)[0].to(classifier.device)).argmax(dim=1).cpu()

    with frozen(classifier), torch.no_grad():
        by_parts(torch.arange(len(images)), BATCH, look)
    return found


def standing_after(
    classifier: Classifier, images: ImageSet, attack: GradientAttack, *, standing: Tensor, seed: int
) -> Tensor:
    """Return (N,) bool: which of the `standing` images the model still classifies correctly under `attack`.

    Args:
        classifier: attacked in eval mode; restored.
        images: N images.
        attack: stays in its ball.
        standing: (N,) bool, correctly classified so far; the others are not attacked.
        seed: of the random starts.
    """
    after = standing.clone()

    def look(number: int, rows: Tensor) -> None:
        batch, labels = images.batch(rows)
        examples = run_attack(
            attack,
            classifier,
            batch.to(classifier.device),
            labels.to(classifier.device),
            generator=stream(seed, attack.name, number),
        )
        after[rows] = (examples.margins >= 0).cpu()

    by_parts(torch.nonzero(standing).squeeze(1), BATCH, look)
    return after


def source_accuracy(classifier: Classifier, images: ImageSet, attack: GradientAttack, *, seed: int) -> float:
    """Accuracy in [0, 1] on the examples that a crafter makes, as training sees them (N-FGSM leaves the ball)."""
    right = torch.zeros(len(images), dtype=torch.bool)

    def look(number: int, rows: Tensor) -> None:
        batch, labels = images.batch(rows)
        batch, labels = batch.to(classifier.device), labels.to(classifier.device)
        examples = craft(attack, classifier, batch, labels, generator=stream(seed, "source", number))
        with frozen(classifier), torch.no_grad():
            right[rows] = (classifier(examples).argmax(dim=1) == labels).cpu()

    by_parts(torch.arange(len(images)), BATCH, look)
    return share(right)


def vitals_of(classifier: Classifier, images: ImageSet, *, first: str, eps: float, loss: float, seed: int) -> Vitals:
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
    """
    clean = predictions(classifier, images) == images.labels
    source = CRAFTERS[first](eps)
    if source.remembers or not source.stays_in_ball:
        source = CRAFTERS["fgsm"](eps)
    canary = standing_after(classifier, images, GRADIENT_ATTACKS[CANARY_ATTACK](eps), standing=clean, seed=seed)
    return Vitals(
        clean=share(clean),
        source=source_accuracy(classifier, images, source, seed=seed),
        canary=share(canary),
        loss=loss,
    )


def share(flags: Tensor) -> float:
    """Return the share of true values in `flags` (N,) bool."""
    return float(flags.float().mean())
