"""Agreement beyond chance: 0 for a constant answer, whatever the classes' shares."""

from __future__ import annotations

import numpy as np
import pytest

from harden.chance import agreement


@pytest.mark.parametrize("labels", [[0, 1] * 30, [0] * 57 + [1] * 3, [0, 1, 2, 3, 3, 3], [2]])
@pytest.mark.parametrize("answer", [0, 2])
def test_a_constant_answer_never_exceeds_chance(labels: list[int], answer: int) -> None:
    found = agreement(labels, [answer] * len(labels))
    assert found.accuracy == pytest.approx(found.expected)
    assert not found.exceeds_chance(0)


def test_expectation_and_error_are_those_of_answers_in_random_order() -> None:
    generator = np.random.default_rng(0)
    labels, answers = generator.integers(0, 4, 80), generator.choice(4, 80, p=(0.6, 0.2, 0.1, 0.1))
    found = agreement(labels.tolist(), answers.tolist())
    shuffled = [(generator.permutation(answers) == labels).mean() for _ in range(4000)]
    assert found.expected == pytest.approx(np.mean(shuffled), abs=0.003)
    assert found.error == pytest.approx(np.std(shuffled), rel=0.1)
    assert found.right == (labels == answers).sum()


def test_rare_classes_do_not_hide_what_a_model_knows() -> None:
    labels = [0] * 95 + [1] * 5
    answers = [0] * 90 + [1] * 10  # right on 95 of 100, as many as always answering 0
    assert agreement(labels, answers).exceeds_chance(3)
    assert not agreement(labels, [0] * 100).exceeds_chance(0)


def test_nothing_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        agreement([], [])
    with pytest.raises(ValueError, match="equally long"):
        agreement([0, 1], [0])
