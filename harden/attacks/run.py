"""Running attacks: eval mode, the batch's oracle, and what became of every image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harden.attacks.norms import Ball
from harden.attacks.objectives import Objective
from harden.attacks.oracle import Oracle, Passes, input_gradient
from harden.attacks.protocol import Attack, GradientAttack, Memory
from harden.errors import DataError
from harden.models.first_convolution import by_columns, by_library
from harden.models.layout import laid_out

EVERYTHING = slice(None)


@dataclass(frozen=True, eq=False)
class Examples:
    """What an attack kept for each image.

    Attributes:
        images: (N, C, H, W) the example that fooled, or else the one with the smallest margin that was scored.
        predictions: (N,) int64 class predicted on it.
        margins: (N,) logit of the true class minus the best other.
        queries: (N,) int64 points at which the model was asked, until the image was fooled.
        closest: (N,) norm of the smallest perturbation that fooled, within eps or not; infinite without one.
    """

    images: Tensor
    predictions: Tensor
    margins: Tensor
    queries: Tensor
    closest: Tensor


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Put every submodule into eval mode and switch off parameter gradients; restore each one's own state after.

    Restoring per module keeps what the user froze frozen, which a blanket `.train()` would not. Gradients to the images
    are faster meanwhile (`by_columns`).
    """
    training = [m for m in module.modules() if m.training]
    trainable = [p for p in module.parameters() if p.requires_grad]
    for m in training:
        m.training = False
    for p in trainable:
        p.requires_grad_(False)
    try:
        with quick_input_gradients(module):
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


def craft(
    attack: GradientAttack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    *,
    generator: torch.Generator,
    last: Tensor | None = None,
    part: slice = EVERYTHING,
    size: int = 0,
) -> Tensor:
    """Return training examples (N, C, H, W) float in [0, 1], detached: the last point of the attack for every image.

    The model is in eval mode while crafting and every module's mode is restored; its parameters get no gradients.

    Args:
        attack: what crafts; an N-FGSM example may lie outside the eps-ball.
        model: images in [0, 1] to scores (N, K).
        images: (N, C, H, W) float in [0, 1].
        labels: (N,) int64; None: what the model predicts on the clean images, so that no label leaks. Where the attack
            starts elsewhere that is one more forward pass.
        generator: of the attack's noise.
        last: (N, C, H, W) perturbations to begin from instead of where the attack begins.
        part: of a batch of `size` images these are this part, and the noise is drawn for the whole of it, so that no
            example depends on how a batch is cut.
        size: see `part`; 0 where these images are a whole batch.
    """
    with frozen(model):
        clean = laid_out(images.detach(), model)
        ball = Ball.around(clean, attack.eps if attack.stays_in_ball else 1.0, attack.norm)
        points, memory = _begin_within(attack, clean, generator, part, size)
        points = laid_out(points, model)
        points = points if last is None else clean + last
        points = points if points is clean else ball.project(points)
        if labels is None and not attack.starts_clean:
            with torch.no_grad():
                labels = model(clean).argmax(dim=1)
        for _ in range(attack.steps):
            answer = input_gradient(model, points, labels, attack.objective)
            labels = answer.scores.argmax(dim=1) if labels is None else labels
            points = ball.project(attack.step(clean, points, answer.gradient, memory))
    return points.detach()


def sees_one_gradient(attack: GradientAttack) -> bool:
    """Return whether all that an attack asks a model for is the gradient of the cross-entropy at the clean images."""
    single = attack.starts_clean and not attack.remembers and attack.steps == 1
    return single and attack.objective is Objective.CROSS_ENTROPY


def finish(attack: GradientAttack, images: Tensor, gradient: Tensor) -> Tensor:
    """Return the examples (N, C, H, W) that `craft` makes, where the gradient is known already.

    Args:
        attack: one that `sees_one_gradient`.
        images: (N, C, H, W) float in [0, 1].
        gradient: (N, C, H, W) of the cross-entropy at the images; its length must not matter to the attack.
    """
    clean = images.detach()
    _, memory = attack.begin(clean, torch.Generator(device=clean.device))
    ball = Ball.around(clean, attack.eps if attack.stays_in_ball else 1.0, attack.norm)
    return ball.project(attack.step(clean, clean, torch.nan_to_num(gradient), memory)).detach()


@contextmanager
def quick_input_gradients(module: nn.Module) -> Iterator[None]:
    """Let gradients to the images of passes begun meanwhile be computed the quick way (`by_columns`)."""
    changed = by_columns(module)
    try:
        yield
    finally:
        by_library(changed)


def _begin_within(
    attack: GradientAttack, clean: Tensor, generator: torch.Generator, part: slice, size: int
) -> tuple[Tensor, Memory]:
    """Begin an attack on images that are a part of a batch as it would begin on them in the whole batch."""
    if size <= len(clean) or attack.starts_clean:
        return attack.begin(clean, generator)
    whole = clean.new_zeros((size, *clean.shape[1:]))
    whole[part] = clean
    points, memory = attack.begin(whole, generator)
    return points[part], {name: values[part] for name, values in memory.items()}


def run_attack(
    attack: Attack,
    model: nn.Module | Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    passes: Passes | None = None,
    drop_fooled: bool = True,
    repeats: int = 1,
) -> Examples:
    """Attack one batch and keep, for every image, the example that fooled the model or came nearest to it.

    Every scored point counts, the random start included. With `drop_fooled` an image leaves as soon as it is fooled;
    without it the attack runs to its end and the example with the smallest margin is kept.

    Args:
        attack: an attack of the audit.
        model: images in [0, 1] to scores (N, K); a module is put into eval mode and restored.
        images: (N, C, H, W) float in [0, 1]; misclassified ones should be left out by the caller.
        labels: (N,) int64.
        generator: of everything random.
        passes: counter to add to.
        drop_fooled: whether a fooled image is done.
        repeats: forward passes that one answer is the mean of, for a model that answers at random.

    Raises:
        DataError: images outside [0, 1].
        ValueError: the attack is a crafter that leaves its ball.
    """
    if isinstance(attack, GradientAttack) and not attack.stays_in_ball:
        raise ValueError(f"{attack.name} leaves the eps-ball: it crafts training examples and is no attack")
    check_images(images)
    oracle = Oracle(
        model,
        labels,
        Ball.around(laid_out(images.detach(), model), attack.eps, attack.norm),
        passes=passes if passes is not None else Passes(),
        drop_fooled=drop_fooled,
        repeats=repeats,
    )
    with frozen(model) if isinstance(model, nn.Module) else nullcontext():
        attack.pursue(oracle, generator)
    oracle.finish()
    return Examples(oracle.kept, oracle.predicted, oracle.best, oracle.queries, oracle.closest)
