"""Attacks against each other: which of them should win, and did it (Athalye et al., 2018; Carlini et al., 2019)."""

from __future__ import annotations

from functools import partial

import numpy as np

from harden.attacks import Objective
from harden.audit.believe import Check, Status
from harden.audit.checks.evidence import Evidence
from harden.audit.checks.words import MASKED, NO_GRADIENTS, listed, of, percent
from harden.audit.metrics import paired_difference, wilson
from harden.audit.result import AttackOutcome, AuditResult

_FEW = 0.02
"""Where a single-step attack leaves fewer than this share, there is nothing that a stronger one could show."""
_STUCK = 0.01
"""An attack that lowers a margin by less than this share of it, and of what the gradient promises, got nowhere."""
_ROUNDING = 1e-5
"""A margin that changes by less than this share of it did not change."""
_AS_FAR = 0.95
"""In a nearly linear ball one step goes as far as many: these gain nothing, and lose less than the rest of this."""


def black_box_against_white_box(evidence: Evidence) -> Check:
    """Images that withstand every gradient attack and fall to one that needs no gradient.

    An image that fell to a black-box attack before some white-box one could try is not counted, but a warning where
    there are many. Fails where the lower end of the interval of their share lies above 2 %, warns above 0.5 %.
    """
    said = partial(Check, "black-box against white-box")
    result = evidence.result
    if not result.differentiable:
        return said(Status.SKIP, NO_GRADIENTS)
    iterative = [o for o in evidence.gradient_attacks if evidence.iterative(o)]
    blind = [o for o in result.outcomes if o.access.black_box]
    if not iterative or not blind:
        lacking = "black-box attack" if iterative else "iterative gradient attack"
        return said(Status.SKIP, f"No {lacking} was run.", "Run --attacks standard, which has both.")
    met = np.logical_and.reduce([o.attacked for o in evidence.gradient_attacks])
    left = evidence.withstood_gradients & met
    beaten, by = np.zeros(len(result), dtype=bool), []
    for outcome in blind:
        fell = left & ~beaten & (outcome.predictions != result.labels)
        beaten |= fell
        by += [f"{outcome.name} {int(fell.sum()):,}"] if fell.any() else []
    share = wilson(int(beaten.sum()), len(result))
    untried = wilson(int((evidence.withstood_gradients & ~met).sum()), len(result))
    note = f" {untried.count:,} more fell to one before every gradient attack had them." if untried.count else ""
    status = _judged(share.low, warn=0.005, fail=0.02)
    if status is not Status.FAIL and untried.low > 0.02:
        finding = f"{of(untried.count, untried.total)} fell without gradients before every gradient attack had them."
        return said(Status.WARN, finding, "Let black-box attacks come last, as in --attacks standard.")
    if not beaten.any():
        names = listed([o.name for o in blind])
        return said(Status.PASS, f"No image that withstood the gradient attacks fell to {names}.{note}")
    finding = (
        f"{of(share.count, share.total)} withstood every gradient attack but fell without gradients "
        f"({', '.join(by)}).{note}"
    )
    return said(status, finding, "" if status is Status.PASS else MASKED)


def iterative_against_single_step(evidence: Evidence) -> Check:
    """Whether many small steps do more harm than one large step, as they must where gradients can be followed.

    Where the best single step leaves less than 2 %, there is nothing to compare. Fails where an iterative attack is
    worse by a point or more and beyond noise; warns where one is worse by half a point, or where none fools more and
    the best of them lowers the margins less than the single step did. As low as that step is far enough: in a ball in
    which the network is nearly linear, one step does all there is to do.
    """
    said = partial(Check, "iterative against single-step")
    result = evidence.result
    if not result.differentiable:
        return said(Status.SKIP, NO_GRADIENTS)
    complete = [o for o in evidence.gradient_attacks if o.complete]
    single = [o for o in complete if not evidence.iterative(o)]
    iterative = [o for o in complete if evidence.iterative(o)]
    if not single or not iterative:
        lacking = "iterative" if single else "single-step"
        return said(
            Status.SKIP,
            f"No {lacking} gradient attack was run on every image.",
            "Run --attacks fgsm,pgd-20 or a preset, which have both.",
        )
    step = min(single, key=lambda o: result.robust_accuracy(o).count)
    left = result.robust_accuracy(step)
    if left.value < _FEW:
        return said(Status.PASS, f"{step.name} alone leaves {percent(left.value)}: nothing to compare.")
    gaps = {o.name: paired_difference(result.survived(o), result.survived(step)) for o in iterative}
    weakest = max(iterative, key=lambda o: gaps[o.name].value)
    best = min(iterative, key=lambda o: gaps[o.name].value)
    gap, images = gaps[weakest.name], gaps[weakest.name].value * len(result)
    figures = f"{step.name} leaves {percent(left.value)} and {{}} {{}}"
    worse = figures.format(weakest.name, percent(result.robust_accuracy(weakest).value)) + ": many steps do less harm."
    if gap.low > 0 and gap.value >= 0.01:
        return said(Status.FAIL, worse, MASKED)
    if gap.value > 0.005 and images >= 3:
        return said(Status.WARN, worse, MASKED)
    finding = figures.format(best.name, percent(result.robust_accuracy(best).value)) + "."
    taken = result.clean_accuracy().value - left.value
    falls = _mean_falls(result, step, best)
    if gaps[best.name].value >= 0 and taken > 0.05 and falls[1] < _AS_FAR * falls[0]:
        share = percent(falls[1] / falls[0])
        lower = f"on the images that stand, many steps lower the margin by {share} of what one step does."
        return said(Status.WARN, f"{finding[:-1]}; {lower}", MASKED)
    return said(Status.PASS, finding)


def _mean_falls(result: AuditResult, *outcomes: AttackOutcome) -> tuple[float, ...]:
    """Return the mean fall of the margin under each attack, on the images that all of them leave standing."""
    standing = result.clean_correct
    for outcome in outcomes:
        standing = standing & result.survived(outcome)
    if not standing.any():
        return (0.0,) * len(outcomes)
    return tuple(float((result.clean_margins - outcome.margins)[standing].mean()) for outcome in outcomes)


def pgd_against_the_worst_case(evidence: Evidence) -> Check:
    """Points between plain PGD and the worst case over stronger attacks: 4 to 6 are usual, 13 and more broken.

    Fails at 13 points where the lower end of the interval is above 8, warns where it is above 6.
    """
    said = partial(Check, "PGD against the worst case")
    result = evidence.result
    plain = [o for o in evidence.gradient_attacks if o.complete and o.method == "PGD" and _on_cross_entropy(o)]
    stronger = [o for o in result.outcomes if not _on_cross_entropy(o)]
    if not plain or not stronger:
        lacking = "attack stronger than those on the cross-entropy" if plain else "plain PGD"
        return said(Status.SKIP, f"No {lacking} was run.", "Run --attacks standard, which has both.")
    pgd = min(plain, key=lambda o: result.robust_accuracy(o).count)
    gap = wilson(int((result.survived(pgd) & ~result.standing()).sum()), len(result))
    finding = (
        f"{pgd.name} leaves {percent(result.robust_accuracy(pgd).value)}, all attacks together "
        f"{percent(result.worst_case().value)}: {100 * gap.value:.1f} points apart; up to 6 is usual."
    )
    if gap.value >= 0.13 and gap.low > 0.08:
        return said(Status.FAIL, finding, MASKED)
    if gap.low > 0.06:
        return said(Status.WARN, finding, "Quote the worst case only, and confirm it with --attacks thorough.")
    return said(Status.PASS, finding)


def progress_of_gradient_attacks(evidence: Evidence) -> Check:
    """Probed images that stand and whose margin no iterative gradient attack lowered: it did not move at all.

    An attack moved where it lowered the margin by 1 % of it, or of what its gradient promises where that is less: in
    a small ball it cannot do more. Fails where the share among the images that stand is above 10 % beyond noise, warns
    above 1 %.
    """
    said = partial(Check, "progress of the gradient attacks")
    result = evidence.result
    if not result.differentiable:
        return said(Status.SKIP, NO_GRADIENTS)
    iterative = [o for o in evidence.gradient_attacks if evidence.iterative(o)]
    if not iterative:
        return said(Status.SKIP, "No iterative gradient attack was run.", "Run --attacks standard.")
    rows = evidence.rows.numpy()
    standing = (evidence.withstood_gradients & np.logical_or.reduce([o.attacked for o in iterative]))[rows]
    count = int(standing.sum())
    if count == 0:
        return said(Status.PASS, "No image stands, so every attack got somewhere.")
    clean = result.clean_margins[rows]
    reached = np.minimum.reduce([np.where(o.attacked, o.margins, np.inf) for o in iterative])[rows]
    least = np.maximum(_STUCK * np.minimum(clean, evidence.promised), _ROUNDING * clean)
    stuck = standing & (reached >= clean - least)
    share = wilson(int(stuck.sum()), count)
    if share.count == 0:
        drop = float(np.median(1 - reached[standing] / clean[standing].clip(min=np.finfo(np.float32).tiny)))
        where = f"on the {count:,} probed images that stand"
        return said(Status.PASS, f"Every margin falls; {where} the median loses {percent(min(drop, 1.0))} of it.")
    finding = (
        f"On {of(share.count, count, 'probed images that stand')} no iterative attack lowered the margin by "
        "even 1 % of it, or of what its gradient promises."
    )
    status = _judged(share.low, warn=0.01, fail=0.1)
    return said(status, finding, "" if status is Status.PASS else f"These images were hardly attacked. {MASKED}")


def _judged(low: float, *, warn: float, fail: float) -> Status:
    return Status.FAIL if low > fail else Status.WARN if low > warn else Status.PASS


def _on_cross_entropy(outcome: AttackOutcome) -> bool:
    return not outcome.access.black_box and outcome.objective == Objective.CROSS_ENTROPY
