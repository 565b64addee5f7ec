"""SAT, standard adversarial training: CE(clean) + CE(adversarial)."""

from __future__ import annotations

import torch
from torch import Tensor

from harden.defences.protocol import Craft, Defence, StepLoss, clean_and_adversarial, cross_entropies
from harden.models.tap import Tap


class SAT(Defence):
    """CE(clean) + CE(adversarial), as in the paper's section 4.1."""

    def step_loss(
        self, tapped: Tap, clean: Tensor, labels: Tensor, craft: Craft, generator: torch.Generator
    ) -> StepLoss:
        """Return CE(clean) + CE(adversarial)."""
        _, logits = clean_and_adversarial(tapped, clean, craft(tapped.classifier, clean, labels))
        ce_clean, ce_adv, scalars = cross_entropies(logits, labels)
        return StepLoss(ce_clean + ce_adv, scalars)
