"""Attacks in the norms that an l_inf defence was not made for, at radii that its own can be compared with."""

from __future__ import annotations

import math

import torch
from torch import nn

from harden.attacks import APGD, FAB, Attack, Norm, Objective, Planned, Square
from harden.audit.keeping import Keeping
from harden.audit.meter import Meter
from harden.audit.result import AttackOutcome, AuditResult
from harden.audit.runner import AuditProgress, attack_in_turn
from harden.data.dataset import ImageSet
from harden.distributed import ALONE, Processes
from harden.models.black_box import Audited


def comparable_radius(norm: Norm, eps: float, input_size: tuple[int, int, int]) -> float:
    """Return the l_2 or l_1 radius that stands beside an l_inf radius, to two significant digits.

    Noise that is uniform in the l_inf ball has an l_2 norm of about eps sqrt(d/3) and an l_1 norm of about eps d/2. The
    radii are half of the one and a quarter of the other. For 32x32 RGB at 8/255 that gives 0.50 and 12, as in the
    literature (Maini et al., 2020; Croce and Hein, 2021). For 224x224 RGB at 4/255 it gives 1.8 and 300 where 2 and 255
    are usual, and for 28x28 gray at 0.3 it gives 2.4 and 29 where 2 and 10 are: there, 0.3 is by far the largest change
    of the three.

    Args:
        norm: of the radius to return.
        eps: l_inf radius on the [0, 1] scale.
        input_size: (C, H, W); d is their product.
    """
    values = math.prod(input_size)
    radius = {Norm.LINF: eps, Norm.L2: eps * math.sqrt(values / 12), Norm.L1: eps * values / 8}[norm]
    return float(f"{radius:.2g}")


def other_norm_attacks(
    eps: float, input_size: tuple[int, int, int], *, gradients: bool = True
) -> dict[Norm, tuple[Attack, ...]]:
    """Return the attacks in each of the other norms, in the order in which they are worth running.

    APGD passes through wider balls first, as AutoAttack's does for l_1: on networks hardened in l_inf it otherwise
    gets stuck. Without gradients there is Square alone.

    Args:
        eps: l_inf radius of the audit, on the [0, 1] scale.
        input_size: (C, H, W) of one image.
        gradients: whether the model gives any.
    """
    radii = {norm: comparable_radius(norm, eps, input_size) for norm in (Norm.L2, Norm.L1)}
    return {
        norm: (*(_white_box(norm, radius) if gradients else ()), Square(eps=radius, norm=norm, hope=3.0))
        for norm, radius in radii.items()
    }


def _white_box(norm: Norm, radius: float) -> tuple[Attack, ...]:
    return (
        APGD(eps=radius, norm=norm, wide=True),
        FAB(eps=radius, norm=norm, iterations=50, finalists=3),
        APGD(eps=radius, norm=norm, raises=Objective.MARGIN, targets=9, finalists=3, screening=15, wide=True),
    )


def audit_other_norms(
    classifier: Audited,
    images: ImageSet,
    result: AuditResult,
    *,
    eps: float,
    seed: int = 0,
    repeats: int = 1,
    progress: AuditProgress | None = None,
    keeping: Keeping | None = None,
    processes: Processes = ALONE,
) -> tuple[AttackOutcome, ...]:
    """Attack the correctly classified images in the other norms; in each, what follows attacks only what still stands.

    Args:
        classifier: what `result` is an audit of.
        images: those of `result`.
        result: says which images are right when clean.
        eps: l_inf radius of the audit, on the [0, 1] scale.
        seed, repeats, progress, keeping, processes: see `harden.audit.runner.audit`.
    """
    by_norm = other_norm_attacks(eps, classifier.input_size, gradients=isinstance(classifier, nn.Module))
    plan = [
        (f"{attack.norm.written} {attack.name}", attack.passes * repeats, attack.pass_cost)
        for attacks in by_norm.values()
        for attack in attacks
    ]
    meter = Meter(plan, int(result.clean_correct.sum()), progress)
    found = [
        attack_in_turn(
            classifier,
            images,
            [Planned(attack, member=nth > 0) for nth, attack in enumerate(attacks)],
            predictions=torch.from_numpy(result.clean_predictions),
            margins=torch.from_numpy(result.clean_margins),
            exposures={},
            seed=seed,
            repeats=repeats,
            meter=meter,
            keeping=keeping,
            processes=processes,
        )
        for attacks in by_norm.values()
    ]
    return tuple(outcome for outcomes in found for outcome in outcomes)
