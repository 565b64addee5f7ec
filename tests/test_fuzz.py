"""A part of the fuzz harness that takes seconds; all of it: python -m tests.fuzz."""

from __future__ import annotations

import pytest

from tests.fuzz import TARGETS, fuzz

INPUTS = 150


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_and_hostile_files_are_read_or_refused(name):
    inputs = INPUTS // TARGETS[name].cost
    outcome = fuzz(name, inputs)
    assert outcome.failures == []
    assert outcome.inputs == inputs
    assert outcome.refused > 0


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_can_be_made_again_from_its_number(name):
    target = TARGETS[name]
    valid = target.valid()
    assert [target.input(valid, number) for number in range(30)] == [
        target.input(valid, number) for number in range(30)
    ]
    assert len({target.input(valid, number) for number in range(30)}) > 20
