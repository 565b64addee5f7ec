"""Defences: one file each, and the plain table that the command line and recipes name them by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harden.defences.adv4adv import Adv4Adv
from harden.defences.atda import ATDA
from harden.defences.eat import EAT
from harden.defences.nt import NT
from harden.defences.pat import PAT
from harden.defences.protocol import Craft, Defence, DefenceContext, StepLoss
from harden.defences.sat import SAT


@dataclass(frozen=True)
class DefenceSettings:
    """The knobs that a person can turn; a defence takes the ones it knows.

    Attributes:
        beta, gamma: strength of the reversed gradient in feature and in logit space.
        classwise: class-wise discriminators, or a single one.
        shared_trunk: whether class-wise ones share their first layer; None: where they would outgrow the network.
        grl_warmup: share of training over which beta and gamma rise from 0.
    """

    beta: float = 1.0
    gamma: float = 0.0
    classwise: bool = True
    shared_trunk: bool | None = None
    grl_warmup: float = 0.1


def _adv4adv(context: DefenceContext, settings: DefenceSettings, *, clean_loss: bool) -> Defence:
    return Adv4Adv(
        context,
        beta=settings.beta,
        gamma=settings.gamma,
        classwise=settings.classwise,
        shared_trunk=settings.shared_trunk,
        warmup=settings.grl_warmup,
        clean_loss=clean_loss,
    )


DEFENCES: dict[str, Callable[[DefenceContext, DefenceSettings], Defence]] = {
    "nt": lambda context, settings: NT(),
    "sat": lambda context, settings: SAT(),
    "eat": lambda context, settings: EAT(context.statics),
    "atda": lambda context, settings: ATDA(context.classes),
    "pat": lambda context, settings: PAT(),
    "adv4adv": lambda context, settings: _adv4adv(context, settings, clean_loss=True),
    "adv4adv-star": lambda context, settings: _adv4adv(context, settings, clean_loss=False),
}
"""Defences by name."""

FEATURE_DEFENCES = frozenset({"adv4adv", "adv4adv-star"})
"""Defences that can work on the features at the split."""

STATIC_DEFENCES = frozenset({"eat"})
"""Defences that also craft on static networks."""

UNLABELLED_DEFENCES = frozenset({"atda"})
"""Defences that craft from the model's predictions instead of the labels."""

WHOLE_BATCH_DEFENCES = frozenset({"atda"})
"""Defences whose loss is of the whole batch at once, and no mean over its samples."""

SOURCES = {"nt": (), "pat": ("pgd",)}
"""Source attacks where nobody names any, for the defences that have their own."""

__all__ = [
    "DEFENCES",
    "FEATURE_DEFENCES",
    "SOURCES",
    "STATIC_DEFENCES",
    "UNLABELLED_DEFENCES",
    "WHOLE_BATCH_DEFENCES",
    "Craft",
    "Defence",
    "DefenceContext",
    "DefenceSettings",
    "StepLoss",
]
