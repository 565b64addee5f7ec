"""What kind of answers a model gives: at random, depending on the batch, probabilities instead of logits."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from harden.attacks import frozen
from harden.audit.believe import Check, Status
from harden.audit.runner import batch_of
from harden.data import ImageSet, stratified_sample
from harden.models.black_box import Audited
from harden.models.outputs import are_probabilities
from harden.randomness import stream
from harden.stopping import ask

if TYPE_CHECKING:
    from harden.audit.checks.evidence import Evidence

ASKED = 5
"""Times that the same batch is asked."""
_LOOKED_AT = 64
_SAME = 1e-3
"""Differences below this share of the typical margin are the order of summation on a GPU, not a defence."""
_PRECISION = 0.05
_SURE = 0.5
"""A sigmoid of the right class is above this on most images; small logits may lie in [0, 1] as well."""
_REPEATS = (10, 40)
"""Fewest and most repeats: published expectations over randomness take 10 to 30 (AutoAttack: 20)."""


@dataclass(frozen=True)
class Randomness:
    """How much a model's answers to the same images differ.

    Attributes:
        spread: standard deviation of the margin between the two best classes, over its typical size.
        changed: share of the images whose prediction is not the same each time.
    """

    spread: float
    changed: float

    @property
    def random(self) -> bool:
        """Whether this is more than rounding."""
        return self.spread > _SAME or self.changed > 0

    @property
    def repeats(self) -> int:
        """Forward passes to average: the mean margin is then known to 5 % of its typical size; 1 if not random."""
        if not self.random:
            return 1
        fewest, most = _REPEATS
        return min(most, max(fewest, math.ceil((self.spread / _PRECISION) ** 2)))


def randomness(classifier: Audited, images: ImageSet, *, seed: int = 0) -> Randomness:
    """Ask about a few images several times, in eval mode: 5 passes on at most 64 images.

    Call it before an audit, and attack with as many `repeats` as it suggests.

    Args:
        classifier: restored afterwards; a black box is asked as it is.
        images: what is going to be audited; a stratified sample is taken.
        seed: of the sample.
    """
    rows = stratified_sample(images.labels.cpu(), _LOOKED_AT, generator=stream(seed, "randomness"))
    pixels = images.batch(rows)[0].to(classifier.device)
    with frozen(classifier) if isinstance(classifier, nn.Module) else nullcontext(), torch.no_grad():
        chunks = torch.split(pixels, batch_of(classifier.input_size))
        answers = []
        for _ in range(ASKED):
            ask()
            answers.append(torch.cat([classifier(chunk) for chunk in chunks]))
    return randomness_of(answers)


def randomness_of(answers: list[Tensor]) -> Randomness:
    """Work out the randomness from several answers (n, K) to the same n images."""
    scores = torch.stack([answer.float() for answer in answers])
    if all(torch.equal(answer, answers[0]) for answer in answers[1:]) or scores.shape[2] < 2:
        return Randomness(0.0, 0.0)
    mean = scores.mean(dim=0)
    first, second = mean.topk(2, dim=1).indices.unbind(dim=1)
    rows = torch.arange(scores.shape[1], device=scores.device)
    gaps = scores[:, rows, first] - scores[:, rows, second]
    typical = gaps.abs().mean(dim=0).median().clamp_min(torch.finfo(torch.float32).tiny)
    guesses = scores.argmax(dim=2)
    changed = (guesses != guesses[0]).any(dim=0).float().mean()
    return Randomness(float((gaps.std(dim=0).mean() / typical).nan_to_num(posinf=1.0)), float(changed))


def same_answer_twice(evidence: Evidence) -> Check:
    """Whether the model, in eval mode, answers the same to the same batch.

    Differences below a thousandth of the typical margin are rounding. Otherwise it fails where the audit did not
    average over as many passes as that needs, and warns where it did.
    """
    said = partial(Check, "same answer twice")
    found = evidence.randomness
    if not found.random:
        amount = "to the last bit" if found.spread == 0 else "but for rounding"
        return said(Status.PASS, f"Asked {ASKED} times, the model answers the same {amount}.")
    finding = (
        f"The model answers at random: between {ASKED} passes margins vary by {100 * found.spread:.1f} % of their "
        f"typical size, and {100 * found.changed:.1f} % of the probed images change their class."
    )
    if evidence.repeats >= found.repeats:
        return said(
            Status.WARN,
            f"{finding} Every answer of the audit is the mean of {evidence.repeats} passes.",
            "The robust accuracy is that of the mean; a single answer is easier to fool. State it so.",
        )
    return said(
        Status.FAIL,
        f"{finding} The audit averaged {evidence.repeats}.",
        f"Switch the randomness off (dropout, random resizing), or average {found.repeats} passes for each answer.",
    )


def independence_of_the_batch(evidence: Evidence) -> Check:
    """Whether an image's scores depend on the other images of its batch (a BatchNorm without running statistics).

    Fails where they differ by more than a hundredth of the typical margin.
    """
    said = partial(Check, "answer independent of the batch")
    if len(evidence.images) < 2:
        return said(Status.SKIP, "Too few images to put together in different ways.")
    if evidence.randomness.random:
        return said(Status.SKIP, "The model answers at random, so this cannot be told apart.")
    # Half of the images in batches with fewer others: every second one leaves.
    alone = evidence.answers(evidence.images[::2][: max(1, evidence.batch // 2)])
    together = evidence.clean[::2][: len(alone)]
    typical = evidence.margins.abs().median().clamp_min(torch.finfo(torch.float32).tiny)
    share = float((alone - together).abs().amax() / typical)
    if share > 0.01:
        return said(
            Status.FAIL,
            f"With other images in the batch, scores change by up to {100 * share:.1f} % of the typical margin.",
            "Look for batch statistics in eval mode (BatchNorm without running statistics): attacks and accuracy are "
            "not those of one image.",
        )
    return said(Status.PASS, "The scores of an image do not depend on the others in its batch.")


def logits_not_probabilities(evidence: Evidence) -> Check:
    """Rows of scores that are probabilities: cross-entropy takes a softmax of them again, and its gradient vanishes.

    Logarithms of probabilities are as good as logits. Fails for a model with gradients, warns for a black box.
    """
    said = partial(Check, "logits, not probabilities")
    scores = evidence.clean
    if not bool(scores.isfinite().all()):
        return said(
            Status.FAIL,
            f"Scores are not finite on {evidence.share(~scores.isfinite().all(dim=1))}.",
            "Return finite logits: the logarithm of a probability of 0 is minus infinity.",
        )
    if are_probabilities(scores):
        finding = "Every row of scores lies in [0, 1] and sums to 1: these are probabilities."
        certain = scores.amax(dim=1) == 1
        if bool(certain.any()):
            finding += f" They are rounded to exactly 1 on {evidence.share(certain)}."
        status = Status.FAIL if evidence.differentiable else Status.WARN
        return said(status, finding, "Return what goes into the softmax (or its logarithm), and audit that.")
    if bool(((scores >= 0) & (scores <= 1)).all()) and float(scores.amax(dim=1).median()) > _SURE:
        return said(
            Status.WARN,
            "All scores lie in [0, 1] but do not sum to 1: sigmoids, perhaps, rather than logits.",
            "Return what goes into the sigmoids, and audit that.",
        )
    return said(Status.PASS, f"Scores range from {float(scores.min()):.3g} to {float(scores.max()):.3g}.")
