"""What a defence is: the loss of one training step, and the modules and schedules that loss needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harden.models.tap import MAX_FEATURES, Tap

Craft = Callable[[nn.Module, Tensor, Tensor | None], tuple[Tensor, ...]]
"""Makes adversarial images, (N, C, H, W) for each source attack, from a network, clean images in [0, 1] and labels.

Without labels (N,) they are the network's own predictions.
"""

Gather = Callable[[Tensor], Tensor]
"""From values (n, ...) of the clean images that this process has, those (N, ...) of the whole batch, in its order.

Gradients flow back to every process's own.
"""


@dataclass(frozen=True)
class DefenceContext:
    """What a defence is built for.

    Attributes:
        classes: K.
        feature_width: of the flattened representation at the split; 0 where nothing is tapped.
        generator: of initial weights.
        feature_limit: widest representation, above which features are pooled; `feature_width` keeps to it.
        sources: number of source attacks, each of which makes an adversarial domain.
        statics: other networks to craft on, from images in [0, 1] to scores of the same classes.
    """

    classes: int
    feature_width: int
    generator: torch.Generator
    feature_limit: int = MAX_FEATURES
    sources: int = 1
    statics: tuple[nn.Module, ...] = ()


@dataclass(frozen=True, eq=False)
class StepLoss:
    """The loss to minimise (scalar with a graph), and detached scalar tensors to log."""

    loss: Tensor
    scalars: Mapping[str, Tensor]


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
        """Return the loss of one batch.

        Args:
            tapped: one training-mode forward of images gives (features, logits); `tapped.classifier` is the bare model.
            clean: (N, C, H, W) float in [0, 1].
            labels: (N,) int64.
            craft: the source attacks.
            generator: for randomness of the defence itself.
        """


def clean_and_adversarial(tapped: Tap, clean: Tensor, adversarial: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return features (N + MN, ...) and logits (N + MN, K) of all images, clean first, from one forward pass.

    One pass keeps BatchNorm's statistics those of the mixture that the network is trained on.

    Args:
        tapped: the network.
        clean: (N, C, H, W).
        adversarial: M batches of as many.
    """
    return tapped(torch.cat([clean, *adversarial]))


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
