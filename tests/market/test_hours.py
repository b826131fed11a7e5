"""Hours of the week: read, written, and whether a minute is in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.hours import DAY_MINUTES, Hours, HoursError, parse_hours

MON, FRI, SAT, SUN = 0, 4, 5, 6
HOURS = st.builds(
    Hours, st.integers(0, DAY_MINUTES - 1), st.integers(0, DAY_MINUTES),
    st.frozensets(st.integers(0, 6), min_size=1),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "weekday", "clock", "inside"),
    [
        ("08:00-18:00", MON, "08:00", True),
        ("08:00-18:00", MON, "18:00", False),
        ("08:00-18:00 mon-fri", SAT, "12:00", False),
        ("22:00-06:00 fri", FRI, "23:00", True),
        ("22:00-06:00 fri", SAT, "05:59", True),
        ("22:00-06:00 fri", SAT, "06:00", False),
        ("22:00-06:00 fri", SAT, "22:00", False),
        ("22:00-06:00 sun", MON, "01:00", True),
        ("00:00-24:00 sat,sun", SUN, "23:59", True),
        ("00:00-24:00 sat,sun", MON, "00:00", False),
        ("07:00-07:00 sat", SUN, "06:59", True),
        ("10:00-11:00 fri-mon", SUN, "10:30", True),
        ("10:00-11:00 fri-mon", 1, "10:30", False),
    ],
)
def test_a_minute_is_in_them_or_not(text: str, weekday: int, clock: str, inside: bool) -> None:
    hours, minutes = clock.split(":")
    assert parse_hours(text).cover(weekday, 60 * int(hours) + int(minutes)) is inside


@given(HOURS)
def test_they_are_read_as_they_are_written(hours: Hours) -> None:
    assert parse_hours(str(hours)) == hours


@given(HOURS)
def test_they_last_as_long_as_they_say_each_day(hours: Hours) -> None:
    minutes = sum(hours.cover(day, minute) for day in range(7) for minute in range(DAY_MINUTES))
    lasting = hours.end_minute - hours.begin_minute
    lasting += 0 if lasting > 0 else DAY_MINUTES
    assert minutes == lasting * len(hours.days)


@pytest.mark.parametrize(
    "text",
    ["", "8-18", "08:00", "25:00-26:00", "08:60-09:00", "24:00-01:00", "08:00-09:00 xyz", "08:00-09:00 mon-"],
)
def test_what_says_no_hours_is_refused(text: str) -> None:
    with pytest.raises(HoursError) as refused:
        parse_hours(text)
    assert repr(text) in str(refused.value)
