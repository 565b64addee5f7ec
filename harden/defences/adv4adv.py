"""Adv-4-Adv and Adv-4-Adv*: adversarial domain adaptation against adversarial examples (the paper's eq. 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from harden.adaptation import (
    ClasswiseDiscriminators,
    default_hidden,
    domain_accuracy,
    domain_loss,
    outgrows,
    reverse_gradient,
)
from harden.defences.protocol import (
    Craft,
    Defence,
    DefenceContext,
    StepLoss,
    clean_and_adversarial,
    cross_entropies,
)
from harden.errors import ModelError
from harden.models.tap import Tap, as_representation


class Adv4Adv(Defence):
    """CE(clean) + CE(adversarial) + BCE_feature(GRL_beta) + BCE_logit(GRL_gamma), each BCE class-wise.

    Deviation from eq. 7: the domain terms are means over samples, not sums over classes, so that beta and gamma mean
    the same for any number of classes; and the discriminators themselves always train at full strength, since beta and
    gamma act only where the gradient is reversed.

    Args:
        context: K, the feature width, the size of the network, the number of source attacks and the generator of the
            discriminators' weights.
        beta: strength of the reversed gradient of the feature discriminators; 0 leaves them out.
        gamma: the same for the logit discriminators.
        classwise: one discriminator per class, or a single one for all (the paper's ablation).
        shared_trunk: whether the discriminators of all classes have the first layer in common; None: where separate
            ones would outgrow the network (`outgrows`), a deviation from the paper that has at most a hundred classes.
        warmup: share of training over which beta and gamma rise linearly from 0.
        clean_loss: whether CE(clean) is part of the loss; Adv-4-Adv* leaves it out.
    """

    def __init__(
        self,
        context: DefenceContext,
        *,
        beta: float,
        gamma: float,
        classwise: bool,
        shared_trunk: bool | None,
        warmup: float,
        clean_loss: bool,
    ) -> None:
        super().__init__()
        self.beta = beta
        self.gamma = gamma
        self.warmup = warmup
        self.clean_loss = clean_loss
        self.uses_features = beta > 0
        self._progress = 1.0
        self._strength = 1.0
        groups = context.classes if classwise else 1

        def discriminators(width: int) -> ClasswiseDiscriminators:
            shared = outgrows(width, groups, context.network) if shared_trunk is None else shared_trunk
            return ClasswiseDiscriminators(
                classes=groups,
                in_features=width,
                hidden=default_hidden(width),
                domains=1 + context.sources,
                shared_trunk=shared,
                generator=context.generator,
            )

        self.on_features = discriminators(context.feature_width) if beta > 0 else None
        self.on_logits = discriminators(context.classes) if gamma > 0 else None

    def set_progress(self, progress: float, strength: float = 1.0) -> None:
        """Warm the gradient reversal up over the first `warmup` of training."""
        self._progress, self._strength = progress, strength

    @property
    def reversal(self) -> float:
        """What beta and gamma are multiplied by now: warm-up times strength, in [0, 1]."""
        warm = min(1.0, self._progress / self.warmup) if self.warmup > 0 else 1.0
        return warm * self._strength

    def step_loss(
        self, tapped: Tap, clean: Tensor, labels: Tensor, craft: Craft, generator: torch.Generator
    ) -> StepLoss:
        """Return eq. 7 with the domain terms' gradients reversed on their way into the network.

        Raises:
            ModelError: nothing before the split can be trained.
        """
        passed = clean_and_adversarial(tapped, clean, labels, craft)
        features, logits, sources = passed.features, passed.logits, passed.sources
        if self.on_features is not None and logits.requires_grad and not passed.trains_features:
            raise ModelError(
                f"everything up to layer {tapped.layer!r} is frozen, so the feature discriminators could train nothing",
                hint="choose a later --split, freeze less, or set --beta 0",
            )
        ce_clean, ce_adv, scalars = cross_entropies(logits, labels)
        loss = ce_clean + ce_adv if self.clean_loss else ce_adv
        everyone = labels.repeat(1 + sources)
        # The clean domain is the last one: 1 where there are two, as in the paper.
        domains = torch.arange(1 + sources, device=labels.device).roll(1).repeat_interleave(len(labels))
        spaces = (
            ("feature", self.on_features, self.beta, features),
            ("logit", self.on_logits, self.gamma, logits),
        )
        for space, discriminators, strength, values in spaces:
            if discriminators is None:
                continue
            reversed_values = reverse_gradient(as_representation(values), strength * self.reversal)
            guesses = discriminators(reversed_values, everyone)
            bce = domain_loss(guesses, domains)
            loss = loss + bce
            scalars[f"bce_{space}"] = bce.detach()
            scalars[f"domain_accuracy_{space}"] = domain_accuracy(guesses.detach(), domains)
        return StepLoss(loss, scalars, passed.backwards)
