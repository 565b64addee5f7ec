"""Whether a classifier's answers have anything to do with the labels: agreement beyond chance (Cohen, 1960).

A classifier that always gives the same answer withstands every attack, and on two classes it is right on half of the
images. Its accuracy alone does not show that; its agreement beyond chance is exactly 0, whatever the classes' shares.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """How often answers equal labels, beside what the same answers would reach in random order.

    Attributes:
        right: answers that equal their label.
        total: images.
        expected: accuracy of the same answers in random order, in [0, 1].
        error: standard error of that accuracy (Fleiss, Cohen and Everitt, 1969); 0 for a constant answer.
    """

    right: int
    total: int
    expected: float
    error: float

    @property
    def accuracy(self) -> float:
        """Share of right answers, in [0, 1]."""
        return self.right / self.total

    def exceeds_chance(self, errors: float) -> bool:
        """Return whether the accuracy lies more than `errors` standard errors above that of a random order."""
        # A constant answer has no error, and rounding must not lift it above its own expectation.
        return self.accuracy - self.expected > max(errors * self.error, 1e-9)


def agreement(labels: Sequence[int], answers: Sequence[int]) -> Agreement:
    """Return how well `answers` agree with `labels`, both of N classes as integers.

    Raises:
        ValueError: they are empty, or of different lengths.
    """
    total = len(labels)
    if total == 0 or len(answers) != total:
        raise ValueError(f"expected two equally long, non-empty lists, got {total} and {len(answers)}")
    true, said = Counter(labels), Counter(answers)
    shares = [(true[k] / total, said[k] / total) for k in true]
    expected = math.fsum(p * q for p, q in shares)
    variance = expected + expected**2 - math.fsum(p * q * (p + q) for p, q in shares)
    right = sum(label == answer for label, answer in zip(labels, answers, strict=True))
    return Agreement(right, total, expected, math.sqrt(max(0.0, variance) / total))
