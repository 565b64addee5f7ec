"""SAT, standard adversarial training: CE(clean) + CE(adversarial)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.attacks import quick_input_gradients
from harden.defences.protocol import Craft, Defence, StepLoss, clean_and_adversarial, cross_entropies
from harden.models.tap import Tap
from harden.models.user_code import backward_pass


class SAT(Defence):
    """CE(clean) + CE(adversarial), as in the paper's section 4.1."""

    def step_loss(
        self, tapped: Tap, clean: Tensor, labels: Tensor, craft: Craft, generator: torch.Generator
    ) -> StepLoss:
        """Return CE(clean) + CE(adversarial).

        Where the examples can come from the clean images' own pass, its one backward pass gives both their gradients
        and those of CE(clean), which then are in `.grad` already: 2F+2B in all.
        """
        if craft.finish is None:
            logits = clean_and_adversarial(tapped, clean, labels, craft).logits
        else:
            images = clean.detach().requires_grad_(True)
            with quick_input_gradients(tapped.classifier):
                _, of_clean = tapped(images)
            with backward_pass():
                (craft.share * F.cross_entropy(of_clean, labels)).backward()  # type: ignore[no-untyped-call]
            assert images.grad is not None
            _, of_adversarial = tapped(torch.cat(craft.finish(clean, images.grad)))
            logits = torch.cat([of_clean.detach(), of_adversarial])
        ce_clean, ce_adv, scalars = cross_entropies(logits, labels)
        return StepLoss(ce_clean + ce_adv, scalars)
