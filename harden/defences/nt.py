"""NT, normal training: cross-entropy on clean images. The baseline, and what pre-training does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.defences.protocol import Craft, Defence, StepLoss
from harden.models.tap import Tap


class NT(Defence):
    """CE(clean)."""

    def step_loss(
        self, tapped: Tap, clean: Tensor, labels: Tensor, craft: Craft, generator: torch.Generator
    ) -> StepLoss:
        """Return CE(clean)."""
        _, logits = tapped(clean)
        loss = F.cross_entropy(logits, labels)
        with torch.no_grad():
            right = (logits.argmax(dim=1) == labels).float().mean()
        return StepLoss(loss, {"ce_clean": loss.detach(), "train_accuracy_clean": right})
