"""Attacks and crafters: one file each, and the plain tables that the command line and recipes name them by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harden.attacks.fgsm import FGSM
from harden.attacks.mim import MIM
from harden.attacks.nfgsm import NFGSM
from harden.attacks.pgd import PGD
from harden.attacks.protocol import GradientAttack, Objective
from harden.attacks.rfgsm import RFGSM, RandomStep
from harden.attacks.run import Examples, Passes, check_images, craft, frozen, judge, run_attack
from harden.registry import lookup

ATTACKS: dict[str, Callable[[float], GradientAttack]] = {
    "fgsm": lambda eps: FGSM(eps=eps),
    "rfgsm": lambda eps: RFGSM(eps=eps),
    "rfgsm-tramer": lambda eps: RFGSM(eps=eps, variant=RandomStep.TRAMER),
    "pgd-10": lambda eps: PGD(eps=eps, iterations=10, relative_step=0.2),
    "pgd-20": lambda eps: PGD(eps=eps, iterations=20),
    "pgd-40": lambda eps: PGD(eps=eps, iterations=40),
    "mim": lambda eps: MIM(eps=eps),
    "pgd-50-margin": lambda eps: PGD(eps=eps, iterations=50, random_start=True, tries=3, raises=Objective.MARGIN),
}
"""Attacks of the audit, by name; each takes eps on the [0, 1] scale."""

CRAFTERS: dict[str, Callable[[float], GradientAttack]] = {
    "fgsm": ATTACKS["fgsm"],
    "rfgsm": ATTACKS["rfgsm"],
    "nfgsm": lambda eps: NFGSM(eps=eps),
    "pgd": ATTACKS["pgd-20"],
    "mim": ATTACKS["mim"],
}
"""Source attacks of training, by name; each takes eps on the [0, 1] scale."""

PRESETS: dict[str, tuple[str, ...]] = {
    "fast": ("fgsm", "pgd-20"),
    "paper": ("fgsm", "rfgsm", "pgd-20", "pgd-40", "mim"),
    "full": ("fgsm", "rfgsm", "pgd-20", "pgd-40", "mim", "pgd-50-margin"),
}
"""Sets of attacks, by name."""


def attack_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the attacks that names of presets and of attacks come to, each once, in order.

    Raises:
        UsageError: an unknown name.
    """
    found = dict.fromkeys(attack for name in names for attack in PRESETS.get(name, (name,)))
    for attack in found:
        lookup({**PRESETS, **ATTACKS}, attack, kind="attack")
    return tuple(found)


__all__ = [
    "ATTACKS",
    "CRAFTERS",
    "FGSM",
    "MIM",
    "NFGSM",
    "PGD",
    "PRESETS",
    "RFGSM",
    "Examples",
    "GradientAttack",
    "Objective",
    "Passes",
    "RandomStep",
    "attack_names",
    "check_images",
    "craft",
    "frozen",
    "judge",
    "run_attack",
]
