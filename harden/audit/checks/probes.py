"""Attacks of the checks' own on the sample: more steps, a large eps, random noise (Carlini et al., 2019, section 4)."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from harden.attacks import APGD, Norm, Objective, Square, judge, run_attack
from harden.attacks.norms import sign_noise_like
from harden.audit.believe import Check, Status
from harden.audit.checks.ascents import STEPS
from harden.audit.checks.evidence import Evidence
from harden.audit.checks.words import MASKED, NO_GRADIENTS, NO_RADIUS, percent
from harden.audit.metrics import paired_difference, wilson

DRAWS = 30
LARGE = 0.5
"""l_inf radius at which every image can be made uniformly gray."""
LARGE_STEPS = 20
LARGE_QUERIES = 100


def more_steps(evidence: Evidence) -> Check:
    """Whether accuracy falls (or stays) and the margin falls as an ascent takes more and finer steps.

    Only a later ascent that does worse than an earlier one counts. Fails where 5 points more of the probed images stand
    beyond noise; warns at 2 points beyond noise, or where the mean margin rises by a tenth of what it fell (and by
    three standard errors).
    """
    said = partial(Check, "strength with more steps")
    if not evidence.differentiable or evidence.attacked is None:
        return said(Status.SKIP, NO_RADIUS if evidence.differentiable else NO_GRADIENTS)
    found = evidence.ascents
    right, margins = found.right.numpy(), found.margins.double()
    shares = [percent(float(row.mean())) for row in right]
    finding = f"With {', '.join(map(str, STEPS))} steps {', '.join(shares)} of the probed images stand"
    worst = (0.0, 0.0)
    slips = 0.0
    fall = float((evidence.margins.cpu().double() - margins.amin(dim=0)).mean())
    for early in range(len(STEPS)):
        for late in range(early + 1, len(STEPS)):
            gap = paired_difference(right[late], right[early])
            worst = max(worst, (gap.low, gap.value))
            rise = margins[late] - margins[early]
            error = float(rise.std() / len(rise) ** 0.5) if len(rise) > 1 else 0.0
            if float(rise.mean()) > 3 * error:
                slips = max(slips, float(rise.mean()))
    low, value = worst
    if low > 0 and value >= 0.02:
        return said(Status.FAIL if value >= 0.05 else Status.WARN, f"{finding}: more steps do less harm.", MASKED)
    if slips > 0.1 * fall > 0:
        return said(Status.WARN, f"{finding}, and the margin rises by {slips:.3g} from fewer to more steps.", MASKED)
    if fall <= 0:
        return said(Status.WARN, f"{finding}, and no number of steps lowers the margin at all.", MASKED)
    return said(Status.PASS, f"{finding}; the mean margin falls with them.")


def second_attack(evidence: Evidence) -> Check:
    """Images that count as robust and fall to the ascents of `more_steps`: the attacks of the audit were too weak.

    Fails where their share among the probed images is above 3 % beyond noise, warns above 1 %.
    """
    said = partial(Check, "a second attack against the worst case")
    if not evidence.differentiable or evidence.attacked is None:
        return said(Status.SKIP, NO_RADIUS if evidence.differentiable else NO_GRADIENTS)
    standing = torch.from_numpy(evidence.result.standing())[evidence.rows]
    fell = standing & evidence.ascents.fooled
    return _refuted(said, evidence, standing, fell, "ascents of up to 50 steps on the margin")


def random_noise(evidence: Evidence) -> Check:
    """Images that count as robust and fall to one of a few random perturbations, which no real attack may lose to.

    Fails and warns as the check above.
    """
    said = partial(Check, "random noise against the worst case")
    if evidence.attacked is None:
        return said(Status.SKIP, NO_RADIUS)
    standing = torch.from_numpy(evidence.result.standing())[evidence.rows]
    rows = torch.nonzero(standing).squeeze(1)
    fell = torch.zeros_like(standing)
    generator = evidence.generator("noise")
    ball = evidence.ball.at(rows.to(evidence.images.device))
    labels = evidence.labels[rows.to(evidence.labels.device)]
    for _ in range(DRAWS if len(rows) else 0):
        points = (
            ball.project(ball.clean + ball.eps * sign_noise_like(ball.clean, generator))
            if ball.norm is Norm.LINF
            else ball.start(generator)
        )
        fell[rows] |= (judge(evidence.averaged(points), labels)[1] < 0).cpu()
    return _refuted(said, evidence, standing, fell, f"{DRAWS} random perturbations at the audited radius")


def large_eps(evidence: Evidence) -> Check:
    """Whether nothing is left at a radius so large that every image can be made gray.

    From the accuracy-versus-eps curve where it goes that far or ends at nothing, else by an attack on the sample: a
    short APGD on the margin, or Square on a black box. Fails above 20 % beyond noise, warns above 5 %.
    """
    said = partial(Check, "accuracy at a large eps")
    curve = evidence.result.curve
    if curve is not None and curve.eps and (curve.standing[-1] == 0 or _reaches(curve.norm, curve.eps[-1], evidence)):
        last = curve.accuracies()[-1]
        finding = f"At {curve.norm} eps {curve.eps[-1]:g}, {percent(last.value)} of {last.total:,} images still stand"
        low = last.low
    elif evidence.attacked is not None and evidence.attacked[0] is not Norm.LINF and not evidence.differentiable:
        return said(Status.SKIP, "A black box is probed in l_inf only.")
    elif evidence.ranking is not None and not evidence.ranking.ranks:
        return said(Status.SKIP, "The scores do not rank the classes, so an attack by scores finds nothing.")
    else:
        norm = evidence.attacked[0] if evidence.attacked is not None else Norm.LINF
        radius = LARGE * _scale(norm, evidence)
        attack = (
            APGD(eps=radius, norm=norm, iterations=LARGE_STEPS, raises=Objective.MARGIN)
            if evidence.differentiable
            else Square(eps=radius, queries=LARGE_QUERIES)
        )
        rows = torch.nonzero(evidence.margins >= 0).squeeze(1)
        standing = 0
        generator = evidence.generator("large eps")
        for chunk in torch.split(rows, evidence.batch):
            examples = run_attack(
                attack, evidence.classifier, evidence.images[chunk], evidence.labels[chunk], generator=generator
            )
            standing += int((examples.margins >= 0).sum())
        share = wilson(standing, max(1, len(rows)))
        where, total = f"{norm.value} eps {radius:.4g}", f"{len(rows):,} probed images"
        finding = f"At {where}, {standing:,} of {total} still stand after {attack.name}"
        low = share.low
    if low > 0.05:
        return said(
            Status.FAIL if low > 0.2 else Status.WARN,
            f"{finding}, where every image can be made uniformly gray.",
            f"Attacks that fail there cannot be believed at a small eps either. {MASKED}",
        )
    return said(Status.PASS, f"{finding}, as it should be.")


def _scale(norm: Norm, evidence: Evidence) -> float:
    """Norm of a change by 1 of every value."""
    values = float(evidence.images[0].numel())
    return {Norm.LINF: 1.0, Norm.L2: math.sqrt(values), Norm.L1: values}[norm]


def _reaches(norm: str, eps: float, evidence: Evidence) -> bool:
    return eps >= LARGE * _scale(Norm(norm), evidence) * (1 - 1e-6)


def _refuted(said: partial[Check], evidence: Evidence, standing: Tensor, fell: Tensor, what: str) -> Check:
    count = int(fell.sum())
    counted = f"{int(standing.sum()):,} of {len(standing):,} probed images count as robust"
    if count == 0:
        return said(Status.PASS, f"{counted}, and none of them falls to {what}.")
    share = wilson(count, len(fell))
    status = Status.FAIL if share.low > 0.03 else Status.WARN if share.low > 0.01 else Status.PASS
    remedy = "The attacks of this audit are too weak for its claim: --attacks standard, or thorough."
    finding = f"{counted}, and {count:,} of them fall to {what}."
    return said(status, finding, "" if status is Status.PASS else remedy)
