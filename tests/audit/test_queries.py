"""The query curve, against counting by hand and against the attack itself with smaller budgets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from harden.attacks import FGSM, Planned, Square
from harden.audit.queries import query_curve
from harden.audit.runner import audit
from harden.data.dataset import ImageSet
from tests.attacks.nets import as_classifier, digits, trained_cnn
from tests.report.builders import build_result


@pytest.fixture(scope="module")
def images() -> ImageSet:
    pixels, labels = digits()
    return ImageSet((pixels[1500:1600] * 255).round().to(torch.uint8), labels[1500:1600], tuple(map(str, range(100))))


def run(images: ImageSet, *attacks: Planned):
    return audit(as_classifier(trained_cnn()), images, attacks, model="m", dataset="d", exposures={})


def test_counted_by_hand() -> None:
    result = build_result(images=6)
    square = result.outcomes[-1]
    labels = result.labels
    wrong = (labels + 1) % 10
    outcome = dataclasses.replace(
        square,
        attacked=np.array([True, True, True, True, False, True]),
        predictions=np.array([wrong[0], wrong[1], labels[2], wrong[3], wrong[4], labels[5]]),
        queries=np.array([3, 40, 500, 3, 0, 120]),
    )
    curve = query_curve(result, outcome)
    assert curve is not None
    assert curve.queries == (0, 3, 40, 500)
    assert curve.standing == (5, 3, 2, 2)
    assert [curve.at(q).count for q in (0, 2, 3, 39, 40, 10**6)] == [5, 5, 3, 3, 2, 2]
    assert curve.at(3).total == 6
    assert curve.median() == 3
    untouched = dataclasses.replace(outcome, predictions=labels)
    assert query_curve(result, untouched).median() is None  # type: ignore[union-attr]
    assert query_curve(result, dataclasses.replace(outcome, attacked=np.zeros(6, dtype=bool))) is None
    assert query_curve(result, result.outcomes[0]) is None


def test_the_curve_of_a_real_attack_ends_at_its_robust_accuracy_and_begins_where_one_query_would(
    images: ImageSet,
) -> None:
    """The size of the squares depends on the budget, so only the very first query is the same search."""
    result = run(images, Planned(Square(eps=0.15, queries=120)))
    curve = query_curve(result, result.outcomes[0])
    assert curve is not None
    assert curve.standing[0] == int(result.clean_correct.sum())
    assert curve.standing[-1] == int(result.standing().sum())
    assert curve.queries[-1] == 120
    assert len(curve.queries) > 5
    assert list(curve.standing) == sorted(curve.standing, reverse=True)
    first = run(images, Planned(Square(eps=0.15, queries=1)))
    at_one = int(sum((result.outcomes[0].queries == 1) & (result.outcomes[0].predictions != result.labels)))
    assert curve.at(1).count == curve.standing[0] - at_one
    assert query_curve(first, first.outcomes[0]).queries[-1] == 1  # type: ignore[union-attr]


def test_a_member_of_an_ensemble_begins_with_what_it_met(images: ImageSet) -> None:
    result = run(images, Planned(FGSM(eps=0.15)), Planned(Square(eps=0.15, queries=30), member=True))
    curve = query_curve(result, result.outcomes[1])
    assert curve is not None
    assert curve.standing[0] == int(result.survived(result.outcomes[0]).sum())
    assert curve.standing[-1] == int(result.standing().sum())
