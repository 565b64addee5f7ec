"""The images behind the claim: how many, whether training saw them, whether their labels mean what the model means."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from harden.audit.believe import Check, Status
from harden.audit.checks.evidence import Evidence
from harden.audit.checks.words import listed, of, percent
from harden.audit.result import AuditResult, Integers

_NARROW = 0.031
"""Half an interval of 95 % that 1,000 images leave at worst."""
_HALVES = 2
_RENAMED = 0.6
"""At chance, a renaming must make this much right to be the reason."""


def seen_in_training(evidence: Evidence) -> Check:
    """Audited images whose pixels are among the training images: the claim can be too high by at most their share.

    Fails above 2 %, warns above 0.2 %.
    """
    said = partial(Check, "audited images in training")
    if evidence.copies is None:
        return said(
            Status.SKIP,
            "The training images are not known, so nobody looked for audited images among them.",
            "Audit a run folder, or make sure that the model never saw these images.",
        )
    count, total = len({file for _, file in evidence.copies}), len(evidence.result)
    if count == 0:
        return said(Status.PASS, f"None of the {total:,} audited images is pixel for pixel among the training images.")
    trained, audited = evidence.copies[0]
    finding = (
        f"{of(count, total, 'audited images')} are pixel for pixel among the training images "
        f"(first: {audited} = {trained})."
    )
    status = Status.FAIL if count > 0.02 * total else Status.WARN if count > 0.002 * total else Status.PASS
    remedy = "Leave them out, and audit on images that training did not see."
    return said(status, finding, "" if status is Status.PASS else remedy)


def order_of_classes(evidence: Evidence) -> Check:
    """Whether the labels mean what the model means: chance, classes that are swapped, classes never predicted.

    The best renaming of the predictions (a linear assignment on the confusion matrix) is found on one half of the
    images and counted on the other, so that a weak model on many classes does not look renamed by luck. Fails near
    chance, or where renaming wins 5 points beyond noise; warns where it wins 1, or where a class with images is never
    predicted.
    """
    said = partial(Check, "labels and order of the classes")
    result = evidence.result
    clean, total = result.clean_accuracy(), len(result)
    commonest = np.bincount(result.labels).max() / total
    gained, pairs = _renaming(result)
    renamed = clean.value + gained / total
    chance = clean.low <= commonest
    if pairs and gained > 0.01 * total and gained > 3 * np.sqrt(gained) and not (chance and renamed < _RENAMED):
        finding = (
            f"Clean accuracy is {percent(clean.value)}, and it would be {100 * gained / total:.1f} points higher "
            f"if the predicted classes were renamed ({listed(pairs)})."
        )
        status = Status.FAIL if gained > 0.05 * total else Status.WARN
        return said(status, finding, "The classes are in another order: give --class-map, and check the labels.")
    if chance:
        return said(
            Status.FAIL,
            f"Clean accuracy is {percent(clean.value)}, and naming the commonest class gives {percent(commonest)}: "
            "no better than chance.",
            "Check labels (--class-map), normalisation (--mean, --std) and image size (--image-size).",
        )
    never = _never_predicted(result, clean.value)
    if never:
        return said(
            Status.WARN,
            f"Never predicted on clean images, though they are there: {listed(never)}.",
            "Check these classes' labels and the order of the classes (--class-map).",
        )
    return said(Status.PASS, f"Clean accuracy is {percent(clean.value)}; no renaming of the classes does better.")


def number_of_images(evidence: Evidence) -> Check:
    """Whether there are enough images: half the interval of the worst case, and classes without any.

    Warns where half the interval is wider than 3.1 points, or where a class has no image.
    """
    said = partial(Check, "number of images")
    result = evidence.result
    total, found = len(result), result.worst_case()
    half = (found.high - found.low) / 2
    what = "robust" if result.measured else "clean"
    finding = f"{total:,} images leave the {what} accuracy uncertain by {100 * half:.1f} points either way (95 %)."
    if half > _NARROW:
        remedy = "Audit more images (--samples; --audit-samples of harden fit), or quote the interval."
        return said(Status.WARN, finding, remedy)
    if absent := result.absent():
        return said(
            Status.WARN,
            f"{finding} No image of {listed(absent)}.",
            "The claim is about the classes that are there: add images of the others.",
        )
    return said(Status.PASS, finding)


def _renaming(result: AuditResult) -> tuple[int, list[str]]:
    """Return how many more images a renaming gets right, found and counted on different halves, and what it renames."""
    from scipy.optimize import linear_sum_assignment

    labels, guesses, classes = result.labels, result.clean_predictions, len(result.classes)

    def best(table: NDArray[np.int64]) -> Integers:
        # A hair more for the own name, so that ties rename nothing.
        renamed: Integers = linear_sum_assignment(table + 0.5 / classes * np.eye(classes), maximize=True)[1]
        return renamed

    half = np.zeros(len(labels), dtype=np.int64)
    half[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % _HALVES
    gained = 0
    for nth in range(_HALVES):
        learnt, counted = half != nth, half == nth
        names = best(_confusion(guesses[learnt], labels[learnt], classes))
        gained += int((names[guesses[counted]] == labels[counted]).sum() - (guesses == labels)[counted].sum())
    table = _confusion(guesses, labels, classes)
    names = best(table)
    moved = [(int(table[k, names[k]]), k) for k in range(classes) if names[k] != k and table[k, names[k]]]
    return gained, [f"{result.classes[k]} means {result.classes[names[k]]}" for _, k in sorted(moved, reverse=True)]


def _confusion(guesses: Integers, labels: Integers, classes: int) -> NDArray[np.int64]:
    return np.bincount(guesses * classes + labels, minlength=classes * classes).reshape(classes, classes)


def _never_predicted(result: AuditResult, accuracy: float) -> list[str]:
    """Return classes that are never predicted though that would hardly happen by chance at this accuracy."""
    classes = len(result.classes)
    there = np.bincount(result.labels, minlength=classes)
    predicted = np.bincount(result.clean_predictions, minlength=classes)
    odds = (1 - accuracy) ** there
    return [result.classes[k] for k in range(classes) if predicted[k] == 0 and there[k] and odds[k] < 1e-3 / classes]
