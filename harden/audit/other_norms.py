"""Attacks in the norms that an l_inf defence was not made for, at radii that its own can be compared with."""

from __future__ import annotations

import math

import torch
from torch import nn

from harden.attacks import APGD, FAB, Attack, Norm, Objective, Planned, Square
from harden.audit.keeping import Keeping
from harden.audit.meter import Meter
from harden.audit.result import AttackOutcome, AuditResult
from harden.audit.runner import AuditProgress, attack_images
from harden.data.dataset import ImageSet
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
    gets stuck. Without gradients there is Square in l_2 and nothing in l_1.

    Args:
        eps: l_inf radius of the audit, on the [0, 1] scale.
        input_size: (C, H, W) of one image.
        gradients: whether the model gives any.
    """
    l2, l1 = (comparable_radius(norm, eps, input_size) for norm in (Norm.L2, Norm.L1))
    square = Square(eps=l2, norm=Norm.L2, hope=3.0)
    if not gradients:
        return {Norm.L2: (square,)}
    return {
        Norm.L2: (*_white_box(Norm.L2, l2), square),
        Norm.L1: _white_box(Norm.L1, l1),
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
) -> tuple[AttackOutcome, ...]:
    """Attack the correctly classified images in the other norms; in each, what follows attacks only what still stands.

    Args:
        classifier: what `result` is an audit of.
        images: those of `result`.
        result: says which images are right when clean.
        eps: l_inf radius of the audit, on the [0, 1] scale.
        seed, repeats, progress, keeping: see `harden.audit.runner.audit`.
    """
    by_norm = other_norm_attacks(eps, classifier.input_size, gradients=isinstance(classifier, nn.Module))
    right = torch.from_numpy(result.clean_correct)
    plan = [Planned(attack, member=nth > 0) for attacks in by_norm.values() for nth, attack in enumerate(attacks)]
    meter = Meter(
        [(f"{entry.attack.norm.written} {entry.attack.name}", entry.attack.passes * repeats) for entry in plan],
        int(right.sum()),
        progress,
    )
    labels = images.labels.cpu()
    standing = right
    outcomes = []
    for entry in plan:
        attacked = standing if entry.member else right
        outcome = keeping.find(entry.attack, attacked, repeats) if keeping is not None else None
        if outcome is None:
            meter.begin(int(attacked.sum()))
            outcome = attack_images(
                classifier,
                images,
                entry.attack,
                attacked=attacked,
                predictions=torch.from_numpy(result.clean_predictions),
                margins=torch.from_numpy(result.clean_margins),
                seed=seed,
                repeats=repeats,
                passes=meter.passes(),
            )
            if keeping is not None:
                keeping.keep(entry.attack, attacked, repeats, outcome)
        standing = attacked & (torch.from_numpy(outcome.predictions) == labels)
        outcomes.append(outcome)
        meter.end(int(standing.sum()))
    return tuple(outcomes)
