"""The optimiser of a training: Adam for the network, and for the discriminators with a shorter memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

DISCRIMINATOR_BETAS = (0.5, 0.999)
"""Adam's for the discriminators. With the usual 0.9 their momentum answers an extractor that is no longer there, the
two circle each other, and robustness is lower and may fall by many points within an epoch (recipes/README.md)."""


def build_optimizer(network: nn.Module, defence: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.Adam:
    """Return Adam over what is to be trained of the network and, if it has any, of the defence.

    Args:
        network: its parameters that need gradients.
        defence: all of its parameters, without weight decay.
        lr: learning rate; the loop changes it from step to step.
        weight_decay: L2 penalty.
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trainable, "weight_decay": weight_decay}]
    discriminators = list(defence.parameters())
    if discriminators:
        groups.append({"params": discriminators, "weight_decay": 0.0, "betas": DISCRIMINATOR_BETAS})
    # Fused: one pass over the discriminators' many weights instead of a dozen.
    return torch.optim.Adam(groups, lr=lr, fused=True)
