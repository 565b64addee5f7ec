"""The runner: eval mode, gradients, projection, early drop, restarts and the count of passes, for every attack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harden.attacks.protocol import Ball, GradientAttack, Memory
from harden.errors import DataError
from harden.tensors import margins

COMPACT_BELOW = 0.75
"""Fooled images leave the batch once less than this share of it stands: fewer distinct batch shapes, less memory."""


@dataclass
class Passes:
    """Counts images passed through the model; an image passed twice counts twice."""

    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True, eq=False)
class Examples:
    """What an attack kept for each image.

    Attributes:
        images: (N, C, H, W) the example that fooled, or else the one with the smallest margin that was scored.
        predictions: (N,) int64 class predicted on it.
        margins: (N,) logit of the true class minus the best other.
    """

    images: Tensor
    predictions: Tensor
    margins: Tensor


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Put every submodule into eval mode and switch off parameter gradients; restore each one's own state after.

    Restoring per module keeps what the user froze frozen, which a blanket `.train()` would not.
    """
    training = [m for m in module.modules() if m.training]
    trainable = [p for p in module.parameters() if p.requires_grad]
    for m in training:
        m.training = False
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for m in training:
            m.training = True
        for p in trainable:
            p.requires_grad_(True)


def check_images(images: Tensor) -> None:
    """Refuse images that are not float in [0, 1]: eps would mean nothing on another scale.

    Raises:
        DataError: wrong dtype or range.
    """
    if not images.is_floating_point() or images.ndim != 4:
        raise DataError(f"attacks need images (N, C, H, W) float in [0, 1], got {images.dtype} {tuple(images.shape)}")
    # Written so that an image with a value that is not a number is refused too.
    if images.numel() and not (images.amin() >= 0 and images.amax() <= 1):
        raise DataError(
            f"attacks need images in [0, 1], got values in [{images.amin():.4g}, {images.amax():.4g}]",
            hint="normalisation belongs inside the model: --mean and --std",
        )


def judge(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return predictions (N,) int64 and margins (N,) float32; a margin is negative just where the prediction is wrong.

    A prediction that ties with the true class is decided by argmax, as in the accuracy that is reported. A row that
    holds a value that is not a number is no answer and counts as wrong.

    Args:
        scores: (N, K) of any float type.
        labels: (N,) int64.
    """
    scores = scores.float()
    margin, prediction = margins(scores, labels), scores.argmax(dim=1)
    prediction = torch.where(scores.isnan().any(dim=1), (labels == 0).long(), prediction)
    just_wrong = -torch.finfo(margin.dtype).tiny
    wrong = margin.nan_to_num(nan=just_wrong).clamp(max=just_wrong)
    return prediction, torch.where(prediction != labels, wrong, margin)


def craft(
    attack: GradientAttack, model: nn.Module, images: Tensor, labels: Tensor, *, generator: torch.Generator
) -> Tensor:
    """Return training examples (N, C, H, W) float in [0, 1], detached: the last point of the attack for every image.

    The model is in eval mode while crafting and every module's mode is restored; its parameters get no gradients.

    Args:
        attack: what crafts; an N-FGSM example may lie outside the eps-ball.
        model: images in [0, 1] to scores (N, K).
        images: (N, C, H, W) float in [0, 1].
        labels: (N,) int64.
        generator: of the attack's noise.
    """
    with frozen(model):
        clean = images.detach()
        ball = _bounds(attack, clean)
        points, memory = _start(attack, clean, ball, generator)
        for _ in range(attack.steps):
            _, gradient = _gradient(attack, model, points, labels)
            points = ball.project(attack.step(clean, points, gradient, memory))
    return points.detach()


def run_attack(
    attack: GradientAttack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    passes: Passes | None = None,
    drop_fooled: bool = True,
) -> Examples:
    """Attack one batch and keep, for every image, the example that fooled the model or came nearest to it.

    Every scored point counts, the random start included. With `drop_fooled` an image leaves as soon as it is fooled;
    without it every restart runs to its end and the example with the smallest margin is kept.

    Args:
        attack: an attack that stays in its ball.
        model: images in [0, 1] to scores (N, K); put into eval mode and restored.
        images: (N, C, H, W) float in [0, 1]; misclassified ones should be left out by the caller.
        labels: (N,) int64.
        generator: of the random starts.
        passes: counter to add to.
        drop_fooled: whether a fooled image is done.

    Raises:
        DataError: images outside [0, 1].
        ValueError: the attack is a crafter that leaves its ball.
    """
    if not attack.stays_in_ball:
        raise ValueError(f"{attack.name} leaves the eps-ball: it crafts training examples and is no attack")
    check_images(images)
    passes = passes if passes is not None else Passes()
    clean = images.detach()
    kept = clean.clone()
    best = torch.full((len(clean),), float("inf"), device=clean.device)
    predicted = labels.clone()
    remaining = torch.arange(len(clean), device=clean.device)
    with frozen(model):
        for _ in range(attack.restarts):
            if len(remaining) == 0:
                break
            _ascend(attack, model, clean, labels, remaining, generator, passes, drop_fooled, kept, best, predicted)
            if drop_fooled:
                remaining = remaining[best[remaining] >= 0]
    return Examples(kept, predicted, best)


def _ascend(
    attack: GradientAttack,
    model: nn.Module,
    clean: Tensor,
    labels: Tensor,
    rows: Tensor,
    generator: torch.Generator,
    passes: Passes,
    drop_fooled: bool,
    kept: Tensor,
    best: Tensor,
    predicted: Tensor,
) -> None:
    """One try on `rows`; writes the best example of each row into `kept`, `best` and `predicted`."""
    x, y = clean[rows], labels[rows]
    ball = _bounds(attack, x)
    points, memory = _start(attack, x, ball, generator)

    def record(points: Tensor, scores: Tensor) -> Tensor:
        prediction, margin = judge(scores, y)
        better = margin < best[rows]
        won = rows[better]
        kept[won], best[won], predicted[won] = points[better], margin[better], prediction[better]
        return prediction != y

    for _ in range(attack.steps):
        scores, gradient = _gradient(attack, model, points, y)
        passes.forwards += len(points)
        passes.backwards += len(points)
        fooled = record(points, scores)
        if drop_fooled and bool((~fooled).sum() < COMPACT_BELOW * len(fooled)):
            stand = ~fooled
            rows, x, y, points, gradient = rows[stand], x[stand], y[stand], points[stand], gradient[stand]
            ball = ball.at(stand)
            memory = {name: value[stand] for name, value in memory.items()}
            if len(rows) == 0:
                return
        points = ball.project(attack.step(x, points, gradient, memory))
    with torch.no_grad():
        scores = model(points)
    passes.forwards += len(points)
    record(points, scores)


def _bounds(attack: GradientAttack, clean: Tensor) -> Ball:
    return Ball.around(clean, attack.eps if attack.stays_in_ball else 1.0)


def _start(attack: GradientAttack, clean: Tensor, ball: Ball, generator: torch.Generator) -> tuple[Tensor, Memory]:
    points, memory = attack.begin(clean, generator)
    return (points if points is clean else ball.project(points)), memory


def _gradient(attack: GradientAttack, model: nn.Module, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and the input gradient of the summed objective: a mean would underflow in half precision.

    A gradient that is not a number (the slope of a root at 0, say) moves its pixel nowhere. Left in, it would spoil
    what an attack accumulates or averages over the image (MIM), which would then look as if it withstood.
    """
    points = points.detach().requires_grad_(True)
    with torch.enable_grad():
        scores = model(points)
        (gradient,) = torch.autograd.grad(attack.objective.of(scores.float(), labels).sum(), points)
    return scores.detach(), torch.nan_to_num(gradient)
