"""Held-out measurements during training: plain accuracy and accuracy under an attack."""

from __future__ import annotations

import torch
from torch import Tensor

from harden.attacks import GradientAttack, craft, frozen, run_attack
from harden.data.dataset import ImageSet
from harden.models.classifier import Classifier
from harden.randomness import stream

BATCH = 250
"""Images per batch of a measurement."""


def predictions(classifier: Classifier, images: ImageSet) -> Tensor:
    """Return the predicted classes (N,) int64 on the CPU; eval mode, restored."""
    chunks = []
    with frozen(classifier), torch.no_grad():
        for start in range(0, len(images), BATCH):
            batch, _ = images.batch(slice(start, start + BATCH))
            chunks.append(classifier(batch.to(classifier.device)).argmax(dim=1).cpu())
    return torch.cat(chunks)


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
    rows = torch.nonzero(standing).squeeze(1)
    for number, chunk in enumerate(torch.split(rows, BATCH)):
        batch, labels = images.batch(chunk)
        examples = run_attack(
            attack,
            classifier,
            batch.to(classifier.device),
            labels.to(classifier.device),
            generator=stream(seed, attack.name, number),
        )
        after[chunk] = (examples.margins >= 0).cpu()
    return after


def source_accuracy(classifier: Classifier, images: ImageSet, attack: GradientAttack, *, seed: int) -> float:
    """Accuracy in [0, 1] on the examples that a crafter makes, as training sees them (N-FGSM leaves the ball)."""
    right = 0
    for number, start in enumerate(range(0, len(images), BATCH)):
        batch, labels = images.batch(slice(start, start + BATCH))
        batch, labels = batch.to(classifier.device), labels.to(classifier.device)
        examples = craft(attack, classifier, batch, labels, generator=stream(seed, "source", number))
        with frozen(classifier), torch.no_grad():
            right += int((classifier(examples).argmax(dim=1) == labels).sum())
    return right / len(images)


def share(flags: Tensor) -> float:
    """Return the share of true values in `flags` (N,) bool."""
    return float(flags.float().mean())
