"""Times as they are typed and as they are printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harden.durations import as_typed, duration, parse_duration
from harden.errors import UsageError


@pytest.mark.parametrize("number", ["15", "2.5", " 90 "])
def test_a_number_alone_is_asked_for_its_unit(number: str) -> None:
    bare = number.strip()
    with pytest.raises(UsageError, match=f"needs a unit: {bare}s, {bare}m or {bare}h"):
        parse_duration(number)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.31, "0.3 s"), (59.9, "59.9 s"), (59.97, "1 min 0 s"), (354, "5 min 54 s"), (7530, "2 h 5 min")],
)
def test_a_duration_is_written_in_the_units_people_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0.1, 1e7))
def test_what_one_would_type_is_enough_and_hardly_more(seconds: float) -> None:
    typed = parse_duration(as_typed(seconds))
    assert seconds <= typed <= seconds + max(10.0, 60.0 if seconds > 90 else 0.0, 300.0 if seconds > 5400 else 0.0)


@pytest.mark.parametrize(("seconds", "text"), [(41, "50s"), (500, "9m"), (5401, "1h35m"), (7200, "2h")])
def test_durations_as_one_would_type_them(seconds: float, text: str) -> None:
    assert as_typed(seconds) == text
