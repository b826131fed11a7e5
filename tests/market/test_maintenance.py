"""Maintenance windows as text: what they mean on which clock, and which one is next."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from market.maintenance import WindowError, next_window, parse_window, wrong_windows
from storage.units import MS_PER_HOUR

BERLIN = "Europe/Berlin"
MINUTE_MS = 60_000


def at(text: str, zone: str = "UTC", fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()) * 1000


NOW_MS = at("2026-11-27T12:00")  # a Friday


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("02:00-06:00 sun", at("2026-11-29T02:00"), at("2026-11-29T06:00")),
        ("02:00-06:00 sun Europe/Berlin", at("2026-11-29T02:00", BERLIN), at("2026-11-29T06:00", BERLIN)),
        ("22:00-02:00 thu,fri", at("2026-11-27T22:00"), at("2026-11-28T02:00")),
        ("11:00-13:00", at("2026-11-27T11:00"), at("2026-11-27T13:00")),
        ("2026-12-24T18:00/2026-12-26T08:00", at("2026-12-24T18:00"), at("2026-12-26T08:00")),
        ("2026-12-24T18:00/4h", at("2026-12-24T18:00"), at("2026-12-24T22:00")),
        ("2026-12-24T18:00/90m Europe/Berlin", at("2026-12-24T18:00", BERLIN), at("2026-12-24T19:30", BERLIN)),
        ("2026-12-24T18:00+02:00/4h Europe/Berlin", at("2026-12-24T16:00"), at("2026-12-24T20:00")),
    ],
)
def test_a_window_is_that_of_its_clock(text: str, begin: int, end: int) -> None:
    assert next_window([text], NOW_MS) == (begin, end)
    assert str(parse_window(str(parse_window(text)))) == str(parse_window(text))


def test_windows_that_touch_are_one_and_those_that_are_over_are_none() -> None:
    dated = "2026-11-28T06:00/2h"
    assert next_window(["02:00-06:00 sat", dated], NOW_MS) == (at("2026-11-28T02:00"), at("2026-11-28T08:00"))
    assert next_window([dated], at("2026-11-28T08:00")) is None
    assert next_window([], NOW_MS) is None


def test_an_hour_that_clocks_name_twice_counts_both_times_and_one_that_they_skip_is_not_there() -> None:
    assert next_window(["02:00-03:00 sun Europe/Berlin"], at("2026-10-24T12:00")) == (
        at("2026-10-25T02:00", BERLIN), at("2026-10-25T03:00", BERLIN),
    )  # fmt: skip
    assert next_window(["01:30-02:30 sun Europe/Berlin"], at("2026-10-24T12:00")) == (
        at("2026-10-25T01:30", BERLIN), at("2026-10-25T02:30", BERLIN, fold=1),
    )  # fmt: skip
    skipped = next_window(["02:00-03:00 sun Europe/Berlin"], at("2026-03-28T12:00"))
    assert skipped == (at("2026-04-05T02:00", BERLIN), at("2026-04-05T03:00", BERLIN))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "says no window"),
        ("sunday", "says no hours"),
        ("02:00-06:00 sun Mars/Base", "a zone that is known here may stand behind"),
        ("2026-12-24T18:00/4h Mars/Base", "'Mars/Base' is no zone"),
        ("2026-12-24/4h", "says no time of the day"),
        ("2026-12-24T18:00/2026-12-24T17:00", "ends before it begins"),
        ("0001-01-01T00:00/9999-12-31T00:00 Asia/Tokyo", "before 1970"),
        ("9999-12-31T00:00/2d", "after the year 9999"),
        ("2026-12-24T18:00/soon", "'soon' is no date and time"),
    ],
)
def test_what_is_no_window_says_why(text: str, told: str) -> None:
    with pytest.raises(WindowError, match=told):
        parse_window(text)
    assert told in (wrong_windows([text]) or "")


def test_a_machine_must_be_for_rent_some_time() -> None:
    assert "no time between them" in (wrong_windows(["00:00-12:00", "12:00-24:00"]) or "")
    assert wrong_windows(["00:00-12:00", "12:00-23:59"]) is None
    assert "at most 32" in (wrong_windows(["02:00-06:00 sun"] * 33) or "")


HOURS = st.tuples(st.integers(0, 23), st.integers(1, 23), st.sampled_from(["", " sat,sun", " wed"]))
ONCE = st.tuples(st.integers(0, 200), st.integers(1, 100))


CHANGES = ["2026-10-23", "2026-03-27", "2026-10-02", "2026-04-03"]
"""Clocks change in the days after: in Berlin back and forward, on Lord Howe Island forward and back, by half an hour."""


@given(
    st.lists(HOURS, max_size=3), st.lists(ONCE, max_size=2), st.sampled_from(["UTC", BERLIN, "Australia/Lord_Howe"]), st.integers(0, 96),
    st.sampled_from(CHANGES),
)  # fmt: skip
@example([(3, 23, "")], [], BERLIN, 24, CHANGES[0])
@example([(22, 4, "")], [], BERLIN, 24, CHANGES[1])
@settings(max_examples=50, deadline=None)
def test_the_next_window_is_the_first_stretch_that_any_of_them_covers(
    hours: list[tuple[int, int, str]], dated: list[tuple[int, int]], zone: str, ahead: int, day: str
) -> None:
    texts = [f"{begin:02d}:00-{(begin + length) % 24:02d}:00{days} {zone}" for begin, length, days in hours]
    first_ms = at(f"{day}T00:00")
    shown = [(datetime.fromtimestamp(first_ms / 1000 + one * 3600, ZoneInfo("UTC")).strftime("%Y-%m-%dT%H:%M"), h) for one, h in dated]
    texts += [f"{moment}/{h}h" for moment, h in shown]
    now_ms = first_ms + ahead * MS_PER_HOUR
    parsed = [parse_window(text) for text in texts]

    def covered(ms: int) -> bool:
        local = datetime.fromtimestamp(ms / 1000, ZoneInfo(zone))
        weekly = any(one.hours is not None and one.hours.cover(local.weekday(), local.hour * 60 + local.minute) for one in parsed)
        return weekly or any(one.once is not None and one.once[0] <= ms < one.once[1] for one in parsed)

    found = next_window(texts, now_ms)
    looked = range(now_ms, now_ms + 48 * MS_PER_HOUR, 30 * MINUTE_MS)
    if found is None:
        assert not any(map(covered, looked))
        return
    begin_ms, end_ms = found
    assert end_ms > now_ms
    assert not any(covered(ms) for ms in looked if ms < begin_ms)
    assert all(covered(ms) for ms in looked if begin_ms <= ms < end_ms)
    assert not covered(end_ms) or end_ms - begin_ms > 14 * 24 * MS_PER_HOUR
