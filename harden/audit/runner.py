"""Running attacks on a classifier and writing down, per image, what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from harden.attacks import GradientAttack, Passes, frozen, judge, run_attack
from harden.audit.machine import describe_machine
from harden.audit.result import AttackOutcome, AuditResult, Exposure
from harden.data.dataset import ImageSet
from harden.models.classifier import Classifier
from harden.randomness import stream
from harden.tensors import linf_norms

AuditProgress = Callable[[str, int, int], None]
"""Called with (attack, images done, images in all)."""

BATCH = 250


def audit(
    classifier: Classifier,
    images: ImageSet,
    attacks: Sequence[GradientAttack],
    *,
    model: str,
    dataset: str,
    exposures: Mapping[str, Exposure],
    seed: int = 0,
    progress: AuditProgress | None = None,
) -> AuditResult:
    """Attack every correctly classified image with every attack.

    Inside one attack an image is done as soon as it is fooled, at whichever step. Random starts depend on the seed, the
    attack and the place of an image among those that are attacked, so that the same audit twice gives the same result.

    Args:
        classifier: in eval mode while attacked; its modes and parameters' flags are restored.
        images: N images.
        attacks: in the order in which they are reported.
        model, dataset: names for the report.
        exposures: per attack name what training or selection had to do with it; others are unseen.
        seed: of the random starts.
        progress: hears how far each attack is.
    """
    began = time.perf_counter()
    predictions, clean_margins = _score(classifier, images)
    labels = images.labels.cpu()
    outcomes = tuple(
        _outcome(
            classifier,
            images,
            attack,
            predictions=predictions,
            clean_margins=clean_margins,
            exposure=exposures.get(attack.name, Exposure.UNSEEN),
            seed=seed,
            progress=progress,
        )
        for attack in attacks
    )
    return AuditResult(
        model=model,
        dataset=dataset,
        classes=classifier.classes,
        labels=labels.numpy(),
        files=images.files,
        clean_predictions=predictions.numpy(),
        clean_margins=clean_margins.numpy(),
        outcomes=outcomes,
        seed=seed,
        machine=describe_machine(classifier.device),
        seconds=time.perf_counter() - began,
    )


def _score(classifier: Classifier, images: ImageSet) -> tuple[Tensor, Tensor]:
    predictions, kept = [], []
    with frozen(classifier), torch.no_grad():
        for start in range(0, len(images), BATCH):
            batch, labels = images.batch(slice(start, start + BATCH))
            guess, margin = judge(classifier(batch.to(classifier.device)).cpu(), labels.cpu())
            predictions.append(guess)
            kept.append(margin)
    return torch.cat(predictions), torch.cat(kept)


def _outcome(
    classifier: Classifier,
    images: ImageSet,
    attack: GradientAttack,
    *,
    predictions: Tensor,
    clean_margins: Tensor,
    exposure: Exposure,
    seed: int,
    progress: AuditProgress | None,
) -> AttackOutcome:
    began = time.perf_counter()
    passes = Passes()
    attacked = predictions == images.labels.cpu()
    guesses, kept, distances = predictions.clone(), clean_margins.clone(), torch.zeros(len(images))
    rows = torch.nonzero(attacked).squeeze(1)
    done = 0
    for number, chunk in enumerate(torch.split(rows, BATCH)):
        batch, labels = images.batch(chunk)
        batch = batch.to(classifier.device)
        examples = run_attack(
            attack,
            classifier,
            batch,
            labels.to(classifier.device),
            generator=stream(seed, attack.name, number),
            passes=passes,
        )
        guesses[chunk] = examples.predictions.cpu()
        kept[chunk] = examples.margins.float().cpu()
        distances[chunk] = linf_norms(examples.images - batch).cpu()
        done += len(chunk)
        if progress is not None:
            progress(attack.name, done, len(rows))
    return AttackOutcome(
        name=attack.name,
        definition=attack.definition,
        norm=attack.norm,
        eps=attack.eps,
        exposure=exposure,
        predictions=guesses.numpy(),
        margins=kept.numpy(),
        distances=distances.numpy(),
        attacked=attacked.numpy().astype(np.bool_),
        seconds=time.perf_counter() - began,
        forwards=passes.forwards,
        backwards=passes.backwards,
    )


def exposures_of(*, training: Sequence[str], selection: Sequence[str]) -> dict[str, Exposure]:
    """Return what the audit should say of each attack, from the names of those that training and selection used."""
    seen = dict.fromkeys(selection, Exposure.SELECTION)
    seen.update(dict.fromkeys(training, Exposure.TRAINING))
    return seen
