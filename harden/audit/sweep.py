"""Measuring robust accuracy against eps, with one attack at rising radii."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from harden.attacks import APGD, Norm, Objective, Passes
from harden.audit.curve import EpsCurve
from harden.audit.runner import attack_images, clean_scores, folding_of
from harden.data.dataset import ImageSet
from harden.distributed import ALONE, Processes
from harden.models.classifier import Classifier

MULTIPLES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
LARGEST = 0.5
"""l_inf radius at which every image can be made uniformly gray, so that nothing should be left of the accuracy."""
STEPS = 20


def sweep(
    classifier: Classifier,
    images: ImageSet,
    eps: float,
    *,
    seed: int = 0,
    repeats: int = 1,
    progress: Callable[[int, int], None] | None = None,
    processes: Processes = ALONE,
) -> EpsCurve:
    """Attack at multiples of eps until nothing stands, or up to an l_inf radius of 0.5.

    Only images that stood at the radius before are attacked, so that the curve never rises.

    Args:
        classifier: in eval mode while attacked; restored.
        images: N images.
        eps: the audited l_inf radius on the [0, 1] scale.
        seed: of the random starts.
        repeats: forward passes that one answer is the mean of.
        progress: called with (radii done, radii in all), after every pass; may raise to stop.
        processes: that share the attacks; see `harden.audit.runner.audit`.
    """
    predictions, margins = clean_scores(classifier, images, processes)
    standing: Tensor = predictions == images.labels.cpu()
    radii = [eps * m for m in MULTIPLES if eps * m < LARGEST] + [LARGEST]
    found = [(0.0, int(standing.sum()))]
    folding = folding_of(classifier, images, repeats)
    for nth, radius in enumerate(radii):
        told = partial(progress, nth, len(radii)) if progress is not None else None
        if told is not None:
            told()
        outcome = attack_images(
            classifier,
            images,
            APGD(eps=radius, iterations=STEPS, raises=Objective.MARGIN),
            attacked=standing,
            predictions=predictions,
            margins=margins,
            seed=seed,
            repeats=repeats,
            passes=Passes(heard=told),
            folding=folding,
            processes=processes,
        )
        standing = standing & torch.from_numpy(outcome.predictions == images.labels.cpu().numpy())
        found.append((radius, int(standing.sum())))
        if not standing.any():
            break
    return EpsCurve(
        definition=f"APGD-{STEPS} on the margin; an image that fell at a smaller radius counts as fallen",
        norm=Norm.LINF.value,
        eps=tuple(radius for radius, _ in found),
        standing=tuple(count for _, count in found),
        total=len(images),
    )
