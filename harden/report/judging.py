"""Judging how a run ended, from the audits of the model before and after on the same test images."""

from __future__ import annotations

from harden.audit.metrics import Difference, paired_difference, wilson
from harden.audit.result import AuditResult
from harden.chance import agreement
from harden.report.beliefs import failures
from harden.report.ending import EndCause, Ending, EndStatus
from harden.report.figures import counted, interval, percent, points
from harden.report.side_by_side import attack_keys

CHANCE_ERRORS = 1.96
"""Standard errors above chance from which clean accuracy counts as above it: one chance in forty."""
ENOUGH_STEPS = 2000
"""A run of fewer training steps without any gain may only have been too short."""


def judge(after: AuditResult, before: AuditResult | None, *, claims: bool = True, steps: int | None = None) -> Ending:
    """Return how a run ended.

    "Hardened" needs a gain in the worst case whose paired 95 % interval excludes 0, of a model whose clean accuracy is
    above chance: a constant answer withstands every attack and is not robust.

    Args:
        after: of the model that the run made.
        before: of the model that it started from; None if that was not audited.
        claims: whether the method claims to harden. Natural training does not: it is a baseline, and it can only fail.
        steps: training steps that the run took; None if that is not known.
    """
    chance = agreement(after.labels.tolist(), after.clean_predictions.tolist())
    if at_chance(after):
        return _failed(after, before)
    if not claims:
        reason = "natural training is a baseline, which does not claim to harden the model"
        return Ending(EndStatus.NOT_JUDGED, EndCause.BASELINE, reason)
    if not after.outcomes:
        return _not_comparable("no attack was run on the model", "Audit it with: harden report RUN --against initial")
    if before is None:
        return _not_comparable(
            "the model before hardening was not audited", "Compare them with: harden report RUN --against initial"
        )
    try:
        gain = after.worst_case_gain(before)
    except ValueError:
        return _not_comparable("the model before hardening was audited on other images", "")
    if attack_keys(before).keys() != attack_keys(after).keys():
        return _not_comparable("the models before and after hardening did not meet the same attacks", "")
    if not chance.exceeds_chance(CHANCE_ERRORS):
        return Ending(
            EndStatus.NO_GAIN,
            EndCause.TOO_FEW_IMAGES,
            f"{counted(len(after), 'test image')} cannot tell the clean accuracy of {percent(chance.accuracy)} from "
            f"chance ({percent(chance.expected)})",
            "Audit more test images, of every class.",
        )
    if gain.low > 0:
        return _hardened(after, before, gain)
    return _without_gain(after, before, gain, steps)


def at_chance(result: AuditResult) -> bool:
    """Return whether clean accuracy is at chance: not above it, on images that would show it if it were well above.

    The latter means that the upper end of the accuracy's interval lies nearer to chance than to 100 %, or, for a
    constant answer, that of its accuracy on the images of other classes below one half. Very few images, or images of
    one class, show neither.
    """
    found = agreement(result.labels.tolist(), result.clean_predictions.tolist())
    if found.exceeds_chance(CHANCE_ERRORS):
        return False
    if constant_answer(result) is not None:
        others = found.total - found.right
        return others > 0 and wilson(0, others).high < 0.5
    return result.clean_accuracy().high < (1 + found.expected) / 2


def constant_answer(result: AuditResult) -> str | None:
    """Return the class that the model answers to every clean image, or None if there are several."""
    answers = set(result.clean_predictions.tolist())
    return result.classes[answers.pop()] if len(answers) == 1 else None


def chance_clause(result: AuditResult) -> str:
    """Say in a clause how the clean accuracy of a model at chance compares with chance."""
    found = agreement(result.labels.tolist(), result.clean_predictions.tolist())
    constant = constant_answer(result)
    images = counted(len(result), "image")
    if constant is not None:
        return f"it answers {constant!r} to all of {images}, so {percent(found.accuracy)} of them are right by chance"
    return (
        f"its clean accuracy of {percent(found.accuracy)} on {images} does not exceed chance "
        f"({percent(found.expected)} for the same answers in random order)"
    )


def _failed(after: AuditResult, before: AuditResult | None) -> Ending:
    remedy = "Train with a lower --lr, a smaller --eps or more --epochs, or give more training images."
    if before is not None and at_chance(before):
        remedy = f"The model was at chance before, too: train it on clean images first (--pretrain). {remedy}"
    return Ending(EndStatus.FAILED, EndCause.AT_CHANCE, chance_clause(after), remedy)


def _not_comparable(reason: str, remedy: str) -> Ending:
    return Ending(EndStatus.NOT_JUDGED, EndCause.NOT_COMPARABLE, reason, remedy)


def _hardened(after: AuditResult, before: AuditResult, gain: Difference) -> Ending:
    clean_before, clean_now = (percent(result.clean_accuracy().value) for result in (before, after))
    failed = failures(after)
    doubt = f"; but {counted(len(failed), 'belief check')} failed, so the gain may be less" if failed else ""
    return Ending(
        EndStatus.HARDENED,
        EndCause.GAIN,
        f"the worst case gained {points(gain.value)} {interval(gain)} on the same {counted(len(after), 'image')}, "
        f"and clean accuracy went from {clean_before} to {clean_now}{doubt}",
    )


def _without_gain(after: AuditResult, before: AuditResult, gain: Difference, steps: int | None) -> Ending:
    images = counted(len(after), "image")
    was, now = before.worst_case(), after.worst_case()
    change = f"the worst case is {percent(now.value)}, and was {percent(was.value)} on the same {images}"
    lost = paired_difference(after.clean_correct, before.clean_correct)
    fallen = f"clean accuracy fell from {percent(before.clean_accuracy().value)} to "
    fallen += percent(after.clean_accuracy().value)
    harder = "Choose a smaller --eps, a lower --lr or more --epochs, or limit the loss with --max-clean-drop."
    if gain.high < 0:
        less = f"{change} ({points(gain.value)} {interval(gain)})"
        return Ending(EndStatus.WORSE, EndCause.LESS_ROBUST, less, harder)
    if lost.high < 0:
        return Ending(EndStatus.WORSE, EndCause.CLEAN_LOST, f"{change}, while {fallen}", harder)
    if was.value > before.clean_accuracy().value / 2:
        robust = f"{change}; most of what was right before withstood the attacks already"
        remedy = "Export the model from before, or harden it at a larger --eps."
        return Ending(EndStatus.NO_GAIN, EndCause.ALREADY_ROBUST, robust, remedy)
    if gain.value > 0:
        unsure = f"{change}: a gain of {points(gain.value)} {interval(gain)} may be chance"
        remedy = "Audit more test images (--audit-samples), or train with more --epochs."
        return Ending(EndStatus.NO_GAIN, EndCause.TOO_FEW_IMAGES, unsure, remedy)
    if steps is not None and steps < ENOUGH_STEPS:
        short = f"{change}, after only {counted(steps, 'training step')}"
        remedy = "Train with more --epochs or a smaller --batch-size; if that does not help, with a smaller --eps."
        return Ending(EndStatus.NO_GAIN, EndCause.TOO_FEW_STEPS, short, remedy)
    if now.count == 0:
        remedy = "Choose a smaller --eps, a larger network, or more --epochs."
        large = f"{change}: eps is probably too large for this model"
        return Ending(EndStatus.NO_GAIN, EndCause.EPS_TOO_LARGE, large, remedy)
    return Ending(EndStatus.NO_GAIN, EndCause.TIE, change, "Train with more --epochs, or choose another --method.")
