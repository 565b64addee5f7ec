"""Can this number be believed? The table of checks, and running them over an audit.

Sources: Athalye, Carlini and Wagner (2018), "Obfuscated Gradients Give a False Sense of Security", section 3; Carlini
et al. (2019), "On Evaluating Adversarial Robustness", sections 4 and 5; the flags that AutoAttack raises (Croce and
Hein, 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from harden.audit.checks.rivals import (
    black_box_against_white_box,
    iterative_against_single_step,
    pgd_against_the_worst_case,
    progress_of_gradient_attacks,
)
from harden.audit.result import AuditResult
from harden.data import ImageSet
from harden.models.black_box import Audited

CHECKS: dict[str, Callable[[Evidence], Check]] = {
    "black-box against white-box": black_box_against_white_box,
    "iterative against single-step": iterative_against_single_step,
    "PGD against the worst case": pgd_against_the_worst_case,
    "a second attack against the worst case": second_attack,
    "random noise against the worst case": random_noise,
    "progress of the gradient attacks": progress_of_gradient_attacks,
    "strength with more steps": more_steps,
    "accuracy at a large eps": large_eps,
    "size of the input gradients": size_of_gradients,
    "gradients against finite differences": gradients_against_differences,
    "scores under tiny changes": scores_under_tiny_changes,
    "cross-entropy where the model is sure": saturated_cross_entropy,
    "logits, not probabilities": logits_not_probabilities,
    "same answer twice": same_answer_twice,
    "answer independent of the batch": independence_of_the_batch,
    "labels and order of the classes": order_of_classes,
    "normalisation": normalisation,
    "audited images in training": seen_in_training,
    "number of images": number_of_images,
}
"""Each check by what it looks at, in the order in which they are shown."""


def believe(
    result: AuditResult,
    classifier: Audited,
    images: ImageSet,
    *,
    copies: Sequence[tuple[str, str]] | None = None,
    repeats: int = 1,
    probes: int = PROBED,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Check, ...]:
    """Run every check on a finished audit.

    The probes take a sample of the images. On each they spend at most 270 passes (a gradient is two, forward
    and backward): 88 gradients and 6 answers for ascents of several lengths, 30 answers to noise, 20 gradients at a
    large eps (100 answers for a black box; none where the audit has a curve), and a dozen for the rest. With `repeats`
    the 36 answers count that often.

    Args:
        result: what the attacks found, with the curve if it was measured.
        classifier: the audited model; modes and flags are restored. One that is no module is asked for scores only.
        images: the audited images, in the order of the result.
        copies: what `duplicate_files(train, images)` returned; None where the training images are not known.
        repeats: as the audit had it.
        probes: images in the sample.
        seed: of the sample and of the probes' noise.
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
    )
    found = []
    for nth, check in enumerate(CHECKS.values()):
        if progress is not None:
            progress(nth, len(CHECKS))
        found.append(check(evidence))
    return tuple(found)


__all__ = ["CHECKS", "Evidence", "believe", "randomness"]
