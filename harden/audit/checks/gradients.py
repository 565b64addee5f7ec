"""Whether the input gradients say anything about the function (Athalye et al., 2018; Carlini et al., 2019)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from harden.attacks import Norm, Objective, judge
from harden.audit.believe import Check, Status
from harden.audit.checks.evidence import Evidence
from harden.audit.checks.words import NO_GRADIENTS, listed

_FEW = 0.01
"""Share of the probed images that may be odd."""
_MANY = 0.1
_SPREAD = 1e6
"""Largest over median gradient that is called exploding."""
_TINY_STEP = 1e-4
"""Far below half a step of 8 bits (0.002), and far above what float32 loses."""
_AGREES = (0.5, 2.0)
"""A gradient agrees where the margin changes by between these multiples of what it promises."""


def size_of_gradients(evidence: Evidence) -> Check:
    """Gradients of the margin that are exactly zero, not finite, or huge on some images.

    Fails where more than 10 % of the probed images have no gradient or any has one that is not finite; warns above 1 %,
    or where the largest is a million times the median.
    """
    said = partial(Check, "size of the input gradients")
    if not evidence.differentiable:
        return said(Status.SKIP, NO_GRADIENTS)
    slopes = evidence.margin_slopes.flatten(1)
    finite = slopes.isfinite().all(dim=1)
    if not bool(finite.all()):
        return said(
            Status.FAIL,
            f"The gradient of the margin is not finite on {evidence.share(~finite)}.",
            "Look for roots, logarithms and divisions that overflow, and for float16: attacks cannot follow NaN.",
        )
    zero = slopes.abs().amax(dim=1) == 0
    share = float(zero.float().mean())
    if share > _FEW:
        return said(
            Status.FAIL if share > _MANY else Status.WARN,
            f"The gradient of the margin is exactly zero on {evidence.share(zero)}: nothing there to follow.",
            "Look for rounding, thresholds and saturated layers, and attack a smooth stand-in of them; until then "
            "trust black-box attacks only (--attacks square-5000, --surrogate auto).",
        )
    # By the largest entry: a sum of squares of tiny gradients would underflow.
    sizes = slopes.abs().amax(dim=1)[~zero]
    ratio = float(sizes.amax() / sizes.median()) if len(sizes) else 1.0
    if ratio > _SPREAD:
        return said(
            Status.WARN,
            f"The largest gradient is {ratio:.1g} times the median one: exploding or vanishing gradients.",
            "Look for saturated layers and huge factors between them; compare with --attacks square-5000.",
        )
    return said(
        Status.PASS,
        f"{len(zero) - int(zero.sum()):,} of {len(zero):,} probed images have a finite gradient other than zero; "
        f"the largest is {ratio:.1f} times the median.",
    )


def saturated_cross_entropy(evidence: Evidence) -> Check:
    """Images on which the model is so sure that the cross-entropy has no gradient in float32, though the margin has.

    Attacks on the cross-entropy (FGSM, PGD, MIM) see nothing there; attacks on the margin or the ratio of logits do.
    Passes where one of the latter was run; else fails above 10 % of the probed images and warns above 1 %.
    """
    said = partial(Check, "cross-entropy where the model is sure")
    if not evidence.differentiable:
        return said(Status.SKIP, NO_GRADIENTS)
    slopes = evidence.slopes(evidence.images, Objective.CROSS_ENTROPY).flatten(1)
    blind = (slopes.nan_to_num().abs().amax(dim=1) == 0) & (evidence.margin_slopes.flatten(1).abs().amax(dim=1) > 0)
    if not bool(blind.any()):
        return said(Status.PASS, "The cross-entropy has a gradient wherever the margin has one.")
    finding = f"The cross-entropy has no gradient on {evidence.share(blind)}, though the margin has one."
    sighted = [o.name for o in evidence.gradient_attacks if o.objective != Objective.CROSS_ENTROPY]
    if sighted:
        return said(Status.PASS, f"{finding} {listed(sighted)} do without the cross-entropy.")
    share = float(blind.float().mean())
    status = Status.FAIL if share > _MANY else Status.WARN if share > _FEW else Status.PASS
    remedy = "Attacks on the cross-entropy are blind there: run attacks on the margin (--attacks standard)."
    return said(status, finding, "" if status is Status.PASS else remedy)


def gradients_against_differences(evidence: Evidence) -> Check:
    """Whether the margin changes along the gradient as the gradient promises, over a tenth or a hundredth of eps.

    Catches stand-in gradients (straight-through rounding), shattered and half-cut ones. Each image may agree at either
    length: a curved function needs the short one, a finely rounded one the long one. Fails where more than half of the
    images disagree, warns above 20 %.
    """
    said = partial(Check, "gradients against finite differences")
    if not evidence.differentiable:
        return said(Status.SKIP, NO_GRADIENTS)
    if evidence.randomness.random:
        return said(Status.SKIP, "The model answers at random, so differences are noise.")
    slopes = evidence.margin_slopes.nan_to_num()
    norm, eps = evidence.attacked or (Norm.LINF, 0.03)
    # l_2 and l_1 radii are spread over the pixels: what counts is the change of one.
    pixels = slopes[0].numel()
    reach = min(eps / {Norm.LINF: 1.0, Norm.L2: pixels**0.5, Norm.L1: pixels}[norm], 1.0)
    agrees = torch.zeros(len(slopes), dtype=torch.bool, device=slopes.device)
    ratios = []
    for length in (reach / 10, reach / 100):
        moved = (evidence.images + length * slopes.sign()).clamp(0, 1) - evidence.images
        promised = (moved * slopes).flatten(1).sum(dim=1)
        margins = judge(evidence.answers(evidence.images + moved), evidence.labels)[1]
        ratio = (evidence.margins - margins) / promised.clamp_min(torch.finfo(promised.dtype).tiny)
        ratios.append(ratio)
        agrees |= (ratio > _AGREES[0]) & (ratio < _AGREES[1]) & (promised > 0)
    kept = [float(r.nan_to_num().median()) for r in ratios]
    finding = (
        f"The margin changes as its gradient promises (within a factor of 2) on {evidence.share(agrees)}; the median "
        f"change is {kept[0]:.2f} of the promised one over eps/10, and {kept[1]:.2f} over eps/100."
    )
    share = 1 - float(agrees.float().mean())
    if share > 0.2:
        return said(
            Status.FAIL if share > 0.5 else Status.WARN,
            finding,
            "The gradient is not that of the function (a straight-through stand-in, or shattered): trust black-box "
            "attacks only (--attacks square-5000, --surrogate auto), or attack a smooth stand-in of your own.",
        )
    return said(Status.PASS, finding)


def scores_under_tiny_changes(evidence: Evidence) -> Check:
    """Images whose scores stay the same to the last bit under noise of 0.0001: the model is constant there.

    That is what rounding inside a model does, and its gradients are zero or stand-ins; whether these can be
    followed all the same is for the checks of gradients. Warns above 5 % of the probed images.
    """
    said = partial(Check, "scores under tiny changes")
    if evidence.randomness.random:
        return said(Status.SKIP, "The model answers at random, so its scores always change.")
    noise = torch.rand(evidence.images.shape, generator=evidence.generator("tiny"), dtype=evidence.images.dtype)
    inward = torch.where(evidence.images > 0.5, -1.0, 1.0)
    moved = evidence.images + inward * _TINY_STEP * noise.to(evidence.images.device)
    same = _equal_rows(evidence.answers(moved), evidence.clean)
    share = float(same.float().mean())
    noise_of = f"Under noise of {_TINY_STEP:g} on every pixel the scores"
    if share > 0.05:
        return said(
            Status.WARN,
            f"{noise_of} of {evidence.share(same)} do not change at all.",
            "The model rounds its input, features or scores: audit it without the rounding"
            + (", or trust black-box attacks only (--attacks square-5000)." if evidence.differentiable else "."),
        )
    return said(Status.PASS, f"{noise_of} change on {evidence.share(~same)}.")


def _equal_rows(one: Tensor, other: Tensor) -> Tensor:
    return (one == other).all(dim=1)
