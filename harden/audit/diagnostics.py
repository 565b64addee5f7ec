"""Can this number be believed? The table of checks, and running them over an audit.

Sources: Athalye, Carlini and Wagner (2018), "Obfuscated Gradients Give a False Sense of Security", section 3; Carlini
et al. (2019), "On Evaluating Adversarial Robustness", sections 4 and 5; the flags that AutoAttack raises (Croce and
Hein, 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harden.audit.believe import Check
from harden.audit.checks.answers import (
    independence_of_the_batch,
    logits_not_probabilities,
    randomness,
    same_answer_twice,
)
from harden.audit.checks.claim import number_of_images, order_of_classes, seen_in_training
from harden.audit.checks.evidence import PROBED, Evidence
from harden.audit.checks.gradients import (
    gradients_against_differences,
    saturated_cross_entropy,
    scores_under_tiny_changes,
    size_of_gradients,
)
from harden.audit.checks.normalisation import normalisation
from harden.audit.checks.probes import large_eps, more_steps, random_noise, second_attack
from harden.audit.checks.ranking import Ranking, measure_ranking, scores_that_rank
from harden.audit.checks.rivals import (
    black_box_against_white_box,
    iterative_against_single_step,
    pgd_against_the_worst_case,
    progress_of_gradient_attacks,
)
from harden.audit.result import AuditResult
from harden.data import ImageSet
from harden.models.black_box import Audited

FIGURE = True
"""Stands in the table beside a check whose failure means that the robust accuracy may be too high."""


@dataclass(frozen=True)
class Declared:
    """A check as the table declares it.

    Attributes:
        measure: looks at the evidence.
        concerns_figure: see `Check`; it is copied into every check that `measure` returns.
    """

    measure: Callable[[Evidence], Check]
    concerns_figure: bool = False

    def __call__(self, evidence: Evidence) -> Check:
        """Return what the check finds."""
        return replace(self.measure(evidence), concerns_figure=self.concerns_figure)


CHECKS: dict[str, Declared] = {
    "scores that rank the classes": Declared(scores_that_rank, FIGURE),
    "black-box against white-box": Declared(black_box_against_white_box, FIGURE),
    "iterative against single-step": Declared(iterative_against_single_step, FIGURE),
    "PGD against the worst case": Declared(pgd_against_the_worst_case, FIGURE),
    "a second attack against the worst case": Declared(second_attack, FIGURE),
    "random noise against the worst case": Declared(random_noise, FIGURE),
    "progress of the gradient attacks": Declared(progress_of_gradient_attacks, FIGURE),
    "strength with more steps": Declared(more_steps, FIGURE),
    "accuracy at a large eps": Declared(large_eps, FIGURE),
    "size of the input gradients": Declared(size_of_gradients, FIGURE),
    "gradients against finite differences": Declared(gradients_against_differences, FIGURE),
    "scores under tiny changes": Declared(scores_under_tiny_changes, FIGURE),
    "cross-entropy where the model is sure": Declared(saturated_cross_entropy, FIGURE),
    "logits, not probabilities": Declared(logits_not_probabilities, FIGURE),
    "same answer twice": Declared(same_answer_twice, FIGURE),
    "answer independent of the batch": Declared(independence_of_the_batch, FIGURE),
    "labels and order of the classes": Declared(order_of_classes, FIGURE),
    "normalisation": Declared(normalisation, FIGURE),
    "audited images in training": Declared(seen_in_training, FIGURE),
    "number of images": Declared(number_of_images),
}
"""Each check by what it looks at, in the order in which they are shown, and whether it concerns the figure."""


def believe(
    result: AuditResult,
    classifier: Audited,
    images: ImageSet,
    *,
    copies: Sequence[tuple[str, str]] | None = None,
    repeats: int = 1,
    probes: int = PROBED,
    seed: int = 0,
    ranking: Ranking | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Check, ...]:
    """Run every check on a finished audit.

    The probes take a sample of the images. On each they spend at most 270 passes (a gradient is two, forward
    and backward): 88 gradients and 6 answers for ascents of several lengths, 30 answers to noise, 20 gradients at a
    large eps (100 answers for a black box; none where the audit has a curve), and a dozen for the rest. With `repeats`
    the 36 answers count that often. A black box is asked 40 times about at most 100 images more (`measure_ranking`).

    Args:
        result: what the attacks found, with the curve if it was measured.
        classifier: the audited model; modes and flags are restored. One that is no module is asked for scores only.
        images: the audited images, in the order of the result.
        copies: what `duplicate_files(train, images)` returned; None where the training images are not known.
        repeats: as the audit had it.
        probes: images in the sample.
        seed: of the sample and of the probes' noise.
        ranking: what `measure_ranking` returned before the audit; None: it is measured where attacks had scores alone.
        progress: called with (checks done, checks in all); may raise to stop.

    Raises:
        ValueError: the audit is not of these images.
    """
    evidence = Evidence.gather(
        result,
        classifier,
        images,
        copies=None if copies is None else tuple(copies),
        repeats=repeats,
        probes=probes,
        seed=seed,
        ranking=ranking,
    )
    found = []
    for nth, check in enumerate(CHECKS.values()):
        if progress is not None:
            progress(nth, len(CHECKS))
        found.append(check(evidence))
    return tuple(found)


__all__ = ["CHECKS", "Evidence", "Ranking", "believe", "measure_ranking", "randomness"]
