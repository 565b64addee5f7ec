"""EAT, ensemble adversarial training (Tramer et al., 2018), as the paper compares with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harden.defences.protocol import Craft, Defence, StepLoss, cross_entropies
from harden.models.tap import Tap


class EAT(Defence):
    """CE(clean) + CE(adversarial), the examples crafted on the model itself and on static, cleanly trained ones.

    All are crafted from the clean image. Each set counts the same, so that the loss has the form of SAT's: of the
    adversarial cross-entropy it is the mean over the sets.

    Args:
        statics: networks from images in [0, 1] to scores of the same classes; they are not trained, and no checkpoint
            holds them.
    """

    def __init__(self, statics: Sequence[nn.Module]) -> None:
        super().__init__()
        self._statics = tuple(statics)

    def step_loss(
        self, tapped: Tap, clean: Tensor, labels: Tensor, craft: Craft, generator: torch.Generator
    ) -> StepLoss:
        """Return CE(clean) + the mean of CE over the sets of adversarial images."""
        networks = (tapped.classifier, *self._statics)
        adversarial = [examples for network in networks for examples in craft(network, clean, labels)]
        _, logits = tapped(torch.cat([clean, *adversarial]))
        ce_clean, ce_adv, scalars = cross_entropies(logits, labels)
        return StepLoss(ce_clean + ce_adv, scalars)
