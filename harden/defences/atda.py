"""ATDA, adversarial training with domain adaptation (Song et al., 2019), as the paper compares with it."""

from __future__ import annotations

import torch
from torch import Tensor

from harden.adaptation import ClassCentres, coral, mmd
from harden.defences.protocol import Craft, Defence, StepLoss, clean_and_adversarial, cross_entropies
from harden.models.tap import Tap

WEIGHT = 1 / 3
"""Of the alignment terms together (lambda in ATDA)."""


class ATDA(Defence):
    """CE(clean) + CE(adversarial) + (CORAL + MMD + margin) / 3, all three on the logits.

    As in its public code the examples are crafted from the model's own predictions, not from the labels, so that none
    of them leak. With several source attacks CORAL and MMD are means over them.

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.centres = ClassCentres(classes=classes, width=classes)

    def step_loss(
        self, tapped: Tap, clean: Tensor, labels: Tensor, craft: Craft, generator: torch.Generator
    ) -> StepLoss:
        """Return the loss; in training mode the class centres then follow the logits."""
        passed = clean_and_adversarial(tapped, clean, None, craft)
        logits = passed.logits
        ce_clean, ce_adv, scalars = cross_entropies(logits, labels)
        # Moments of the whole batch, whatever this process has of it.
        of_clean, *of_adversarial = self.gather(torch.stack(logits.chunk(1 + passed.sources), dim=1)).unbind(dim=1)
        terms = {
            "coral": torch.stack([coral(of_clean, values) for values in of_adversarial]).mean(),
            "mmd": torch.stack([mmd(of_clean, values) for values in of_adversarial]).mean(),
        }
        everyone = labels.repeat(1 + passed.sources)
        terms["margin"] = self.centres.loss(logits, everyone)
        if self.training:
            self.centres.follow(torch.cat([of_clean, *of_adversarial]), self.gather(labels).repeat(1 + passed.sources))
        loss = ce_clean + ce_adv + WEIGHT * (terms["coral"] + terms["mmd"] + terms["margin"])
        return StepLoss(loss, {**scalars, **{name: value.detach() for name, value in terms.items()}}, passed.backwards)
