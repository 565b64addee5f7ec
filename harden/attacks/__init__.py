"""Attacks and crafters: one file each, and the plain tables that the command line and recipes name them by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harden.attacks.apgd import APGD
from harden.attacks.fab import FAB
from harden.attacks.fgsm import FGSM
from harden.attacks.fgsm_ep import FGSMEP
from harden.attacks.mim import MIM
from harden.attacks.nfgsm import NFGSM
from harden.attacks.norms import Ball, Norm
from harden.attacks.objectives import Objective
from harden.attacks.oracle import Passes, input_gradient, judge
from harden.attacks.pgd import PGD
from harden.attacks.protocol import Attack, GradientAttack
from harden.attacks.rfgsm import RFGSM, RandomStep
from harden.attacks.run import (
    Examples,
    check_images,
    craft,
    finish,
    frozen,
    quick_input_gradients,
    run_attack,
    sees_one_gradient,
)
from harden.attacks.square import Square
from harden.attacks.transfer import Transfer
from harden.registry import lookup

CRAFTERS: dict[str, Callable[[float], GradientAttack]] = {
    "fgsm": lambda eps: FGSM(eps=eps),
    "fgsm-ep": lambda eps: FGSMEP(eps=eps),
    "rfgsm": lambda eps: RFGSM(eps=eps),
    "nfgsm": lambda eps: NFGSM(eps=eps),
    "pgd": lambda eps: PGD(eps=eps, iterations=20),
    "mim": lambda eps: MIM(eps=eps),
}
"""Source attacks of training, by name; each takes eps on the [0, 1] scale."""

GRADIENT_ATTACKS: dict[str, Callable[[float], GradientAttack]] = {
    "fgsm": CRAFTERS["fgsm"],
    "rfgsm": CRAFTERS["rfgsm"],
    "rfgsm-tramer": lambda eps: RFGSM(eps=eps, variant=RandomStep.TRAMER),
    "pgd-10": lambda eps: PGD(eps=eps, iterations=10, relative_step=0.2),
    "pgd-20": CRAFTERS["pgd"],
    "pgd-40": lambda eps: PGD(eps=eps, iterations=40),
    "mim": CRAFTERS["mim"],
    "pgd-50-margin": lambda eps: PGD(eps=eps, iterations=50, random_start=True, tries=3, raises=Objective.MARGIN),
}
"""Attacks of a fixed number of gradient steps, which training and selection use too."""

ATTACKS: dict[str, Callable[[float], Attack]] = {
    **GRADIENT_ATTACKS,
    "apgd-ce": lambda eps: APGD(eps=eps),
    "apgd-margin": lambda eps: APGD(eps=eps, raises=Objective.MARGIN),
    "apgd-dlr": lambda eps: APGD(eps=eps, raises=Objective.DLR),
    "apgd-t": lambda eps: APGD(eps=eps, raises=Objective.MARGIN, targets=9, finalists=3, screening=15),
    "apgd-dlr-t": lambda eps: APGD(eps=eps, raises=Objective.DLR, targets=9, finalists=9),
    "fab": lambda eps: FAB(eps=eps, iterations=50, finalists=3),
    "fab-t": lambda eps: FAB(eps=eps),
    "square": lambda eps: Square(eps=eps, hope=3.0),
    "square-5000": lambda eps: Square(eps=eps),
}
"""l_inf attacks of the audit, by name; each takes eps on the [0, 1] scale."""


@dataclass(frozen=True)
class Preset:
    """A set of attacks.

    Attributes:
        every: attack every image that is right when clean, so that each has a column of its own.
        ensemble: then attack, one after the other, only the images that still stand.
        words: what it is, in a few words.
        shifts: also attacks in other norms and common corruptions, which are reported beside the worst case.
    """

    every: tuple[str, ...]
    ensemble: tuple[str, ...]
    words: str
    shifts: bool = False


PRESETS: dict[str, Preset] = {
    "fast": Preset(("fgsm", "pgd-20"), ("apgd-t",), "a first look"),
    "paper": Preset(("fgsm", "rfgsm", "pgd-20", "pgd-40", "mim"), (), "the columns of the paper's Table 1"),
    "full": Preset(
        ("fgsm", "rfgsm", "pgd-20", "pgd-40", "mim", "pgd-50-margin"), (), "the paper's, and PGD on the margin"
    ),
    "standard": Preset(
        ("fgsm", "pgd-20"), ("apgd-ce", "apgd-t", "fab", "square"), "as strong as AutoAttack: the number to quote"
    ),
    "thorough": Preset(
        ("fgsm", "rfgsm", "pgd-20", "pgd-40", "mim"),
        ("apgd-ce", "apgd-t", "apgd-dlr-t", "pgd-50-margin", "fab-t", "square-5000"),
        "AutoAttack's published budgets and more",
    ),
    "unseen": Preset(
        ("fgsm", "rfgsm", "pgd-20", "mim"), ("apgd-t",), "other norms and common corruptions too", shifts=True
    ),
}
"""Sets of attacks, by name."""


ON_LABELS: tuple[str, ...] = ()
"""Attacks by decisions, by name: they take the place of attacks by scores on a model that shows labels only."""


@dataclass(frozen=True)
class Planned:
    """An attack of an audit; a member of an ensemble attacks only images that still stand."""

    attack: Attack
    member: bool = False


def attack_names(names: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    """Return (attack, whether it is a member of an ensemble) for names of presets and of attacks, each attack once.

    Attacks on every image come first, in the order named, then the members of ensembles. An attack that is named
    itself is no member.

    Raises:
        UsageError: an unknown name.
    """
    every: dict[str, None] = {}
    ensemble: dict[str, None] = {}
    for name in names:
        lookup({**PRESETS, **ATTACKS}, name, kind="attack")
        preset = PRESETS.get(name)
        every.update(dict.fromkeys(preset.every if preset else (name,)))
        ensemble.update(dict.fromkeys(preset.ensemble if preset else ()))
    members = tuple((name, True) for name in ensemble if name not in every)
    return (*((name, False) for name in every), *members)


__all__ = [
    "APGD",
    "ATTACKS",
    "CRAFTERS",
    "FAB",
    "FGSM",
    "FGSMEP",
    "GRADIENT_ATTACKS",
    "MIM",
    "NFGSM",
    "ON_LABELS",
    "PGD",
    "PRESETS",
    "RFGSM",
    "Attack",
    "Ball",
    "Examples",
    "GradientAttack",
    "Norm",
    "Objective",
    "Passes",
    "Planned",
    "Preset",
    "RandomStep",
    "Square",
    "Transfer",
    "attack_names",
    "check_images",
    "craft",
    "finish",
    "frozen",
    "input_gradient",
    "judge",
    "quick_input_gradients",
    "run_attack",
    "sees_one_gradient",
]
