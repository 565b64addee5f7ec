"""What a defence is: the loss of one training step, and the modules and schedules that loss needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harden.attacks import quick_input_gradients
from harden.models.tap import Tap
from harden.models.user_code import backward_pass

Make = Callable[[nn.Module, Tensor, Tensor | None], tuple[Tensor, ...]]
"""Makes adversarial images, (N, C, H, W) for each source attack, from a network, clean images in [0, 1] and labels.

Without labels (N,) they are the network's own predictions.
"""

Gather = Callable[[Tensor], Tensor]
"""From values (n, ...) of the clean images that this process has, those (N, ...) of the whole batch, in its order.

Gradients flow back to every process's own.
"""


@dataclass(frozen=True, eq=False)
class Craft:
    """The source attacks, on the batch of a step.

    Attributes:
        make: crafts.
        finish: makes the same examples of the network in training from the gradient (N, C, H, W) of the cross-entropy
            at the clean images, which the pass that trains on them can give as well. None where it cannot: the attack
            begins elsewhere or takes more steps, or the network is another function in training than in eval mode.
        share: of the step's images that are in this batch, by which the caller weighs the loss. Gradients that a
            defence takes earlier it weighs itself.
    """

    make: Make
    finish: Callable[[Tensor, Tensor], tuple[Tensor, ...]] | None = None
    share: float = 1.0

    def __call__(self, model: nn.Module, clean: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        """Craft, with passes of its own."""
        return self.make(model, clean, labels)


@dataclass(frozen=True)
class DefenceContext:
    """What a defence is built for.

    Attributes:
        classes: K.
        feature_width: of the flattened representation at the split; 0 where nothing is tapped.
        generator: of initial weights.
        network: parameters of the network, which separate discriminators should not outgrow.
        sources: number of source attacks, each of which makes an adversarial domain.
        statics: other networks to craft on, from images in [0, 1] to scores of the same classes.
    """

    classes: int
    feature_width: int
    generator: torch.Generator
    network: int = 0
    sources: int = 1
    statics: tuple[nn.Module, ...] = ()


@dataclass(frozen=True, eq=False)
class StepLoss:
    """What became of one batch.

    Attributes:
        loss: to minimise (scalar with a graph); gradients of a part of it may be in `.grad` already.
        scalars: detached scalar tensors to log.
        backwards: backward passes, in images, besides the ones through all that the tap has seen.
    """

    loss: Tensor
    scalars: Mapping[str, Tensor]
    backwards: int = 0


def _as_they_are(values: Tensor) -> Tensor:
    return values


class Defence(nn.Module, ABC):
    """One way to train: owns its discriminators and centres as modules and buffers, so that checkpoints keep them."""

    uses_features: bool = False
    """Whether `step_loss` needs the features at the split."""

    gather: Gather = staticmethod(_as_they_are)
    """Brings the samples of all processes that share the batch together. A loss that is a mean over samples needs it
    not: the loop weighs it by the share of the batch."""

    def set_progress(self, progress: float, strength: float = 1.0) -> None:
        """Tell the defence's own schedules how far training is.

        Args:
            progress: share of training that is done, in [0, 1].
            strength: what the loop multiplies everything by that can push training into collapse, in (0, 1]; it is
                halved after a collapse.
        """

    @abstractmethod
    def step_loss(
        self, tapped: Tap, clean: Tensor, labels: Tensor, craft: Craft, generator: torch.Generator
    ) -> StepLoss:
        """Return the loss of one batch; the caller zeroes the gradients before, and calls backward after.

        Args:
            tapped: one training-mode forward of images gives (features, logits); `tapped.classifier` is the bare model.
            clean: (N, C, H, W) float in [0, 1].
            labels: (N,) int64.
            craft: the source attacks.
            generator: for randomness of the defence itself.
        """


@dataclass(frozen=True, eq=False)
class Passed:
    """What clean and adversarial images gave, clean first.

    Attributes:
        features: (N + MN, ...) at the tap.
        logits: (N + MN, K).
        sources: M.
        trains_features: whether anything before the tap is trained.
        backwards: backward passes, in images, that crafting took out of the clean pass.
    """

    features: Tensor
    logits: Tensor
    sources: int
    trains_features: bool
    backwards: int = 0


def clean_and_adversarial(tapped: Tap, clean: Tensor, labels: Tensor | None, craft: Craft) -> Passed:
    """Craft, and pass clean and adversarial images through the network: 3F+1b and later 2B, or 2F+1b where shared.

    They take one pass together, which keeps BatchNorm's statistics those of the mixture that the network is trained on.
    Where the crafting sees the same function (`Craft.finish`) there are no such statistics, and the examples come from
    the clean images' own pass.

    Args:
        tapped: the network.
        clean: (N, C, H, W).
        labels: (N,) to craft with; None: the network's predictions.
        craft: the source attacks.
    """
    if craft.finish is None:
        adversarial = craft(tapped.classifier, clean, labels)
        features, logits = tapped(torch.cat([clean, *adversarial]))
        return Passed(features, logits, len(adversarial), features.requires_grad)
    images = clean.detach().requires_grad_(True)
    with quick_input_gradients(tapped.classifier):
        features, logits = tapped(images)
    truth = logits.detach().argmax(dim=1) if labels is None else labels
    total = F.cross_entropy(logits, truth, reduction="sum")  # a mean's gradient might underflow
    with backward_pass():
        (gradient,) = torch.autograd.grad(total, images, retain_graph=True)
    adversarial = craft.finish(clean, gradient)
    more, of_more = tapped(torch.cat(adversarial))
    return Passed(
        torch.cat([features, more]), torch.cat([logits, of_more]), len(adversarial), more.requires_grad, len(clean)
    )


def cross_entropies(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return CE(clean), the mean CE over M adversarial batches, and what to log of them.

    Args:
        logits: (N + MN, K), clean first.
        labels: (N,) of the clean images, and of each adversarial batch.
    """
    clean, adversarial = logits[: len(labels)], logits[len(labels) :]
    others = labels.repeat(len(adversarial) // len(labels))
    ce_clean, ce_adv = F.cross_entropy(clean, labels), F.cross_entropy(adversarial, others)
    with torch.no_grad():
        scalars = {
            "ce_clean": ce_clean.detach(),
            "ce_adv": ce_adv.detach(),
            "train_accuracy_clean": (clean.argmax(dim=1) == labels).float().mean(),
            "train_accuracy_adv": (adversarial.argmax(dim=1) == others).float().mean(),
        }
    return ce_clean, ce_adv, scalars
