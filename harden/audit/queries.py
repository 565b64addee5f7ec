"""What a budget of queries buys a score-based attack: how many images still stand after so many questions each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harden.access import Access
from harden.audit.metrics import Proportion, wilson
from harden.audit.result import AttackOutcome, AuditResult


@dataclass(frozen=True)
class QueryCurve:
    """Images that still stand when each may be asked about so many times, as steps.

    Attributes:
        queries: where the number falls, rising; the first is 0, the last the most that any image took.
        standing: how many images stand from there on.
        total: images audited, those included that are wrong when clean or that an earlier attack had fooled.
    """

    queries: tuple[int, ...]
    standing: tuple[int, ...]
    total: int

    def at(self, queries: int) -> Proportion:
        """Return the share of all audited images that stand when each may be asked about `queries` times."""
        place = int(np.searchsorted(self.queries, queries, side="right")) - 1
        return wilson(self.standing[max(0, place)], self.total)

    def median(self) -> int | None:
        """Return how many queries half of the images that fell had fallen after; None if none fell."""
        fell = self.standing[0] - self.standing[-1]
        if fell == 0:
            return None
        half = self.standing[0] - (fell + 1) // 2
        return next(q for q, left in zip(self.queries, self.standing, strict=True) if left <= half)


def query_curve(result: AuditResult, outcome: AttackOutcome) -> QueryCurve | None:
    """Return the curve of one attack, or None for an attack that asks for more than scores or attacked no image.

    Args:
        result: the audit.
        outcome: one of its attacks.
    """
    if outcome.access is not Access.SCORES or not outcome.attacked.any():
        return None
    fooled = outcome.attacked & (outcome.predictions != result.labels)
    falls, counts = np.unique(outcome.queries[fooled], return_counts=True)
    start, most = int(outcome.attacked.sum()), int(outcome.queries.max())
    queries = [0, *falls.tolist()]
    standing = [start, *(start - np.cumsum(counts)).tolist()]
    if queries[-1] != most:
        queries.append(most)
        standing.append(standing[-1])
    return QueryCurve(tuple(queries), tuple(standing), len(result))
