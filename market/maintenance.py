"""Maintenance windows as an owner writes them, and when the next one is. Pure, given the time zone rules of the machine.

    02:00-06:00 sun                        every Sunday, UTC
    22:00-02:00 mon-fri Europe/Berlin      by another clock; a window that ends before it begins goes over midnight
    2026-12-24T18:00/2026-12-26T08:00      once, UTC; with a zone behind it by that clock
    2026-12-24T18:00/4h                    the same by how long it lasts

Windows that overlap or touch are one. The exchange asks once when a window is over and journals the next one, so a replay needs
neither clock nor zone. In the night in which clocks go back an hour that is named counts both times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from market.hours import Hours, HoursError, parse_hours
from market.schedules import MOST_WINDOWS, is_zone
from storage.units import MAX_INSTANT_MS, MS_PER_DAY, MS_PER_MINUTE, TimeError, parse_duration_ms

UTC_NAME: Final = "UTC"
LOOKED_AHEAD_MS: Final = 15 * MS_PER_DAY
LONGEST_WEEKLY_MS: Final = 7 * MS_PER_DAY
Times = tuple[int, int]
"""(begin, end) in milliseconds since the epoch."""


class WindowError(ValueError):
    """The text says no window; `str` says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of the week, or one time; by the clock of `zone`."""

    zone: str
    hours: Hours | None = None
    once: Times | None = None
    written: str = ""

    def __str__(self) -> str:
        what = self.written if self.hours is None else str(self.hours)
        return what if self.zone == UTC_NAME else f"{what} {self.zone}"


@lru_cache(maxsize=4096)
def parse_window(text: str) -> Window:
    """The window that the text says. Raises WindowError."""
    words = text.split()
    if not words:
        raise WindowError(f"{text!r} says no window; write it like '02:00-06:00 sun' or 2026-12-24T18:00/4h")
    zone = UTC_NAME
    if len(words) > 1 and is_zone(words[-1]):
        zone = words.pop()
    if "/" in words[0]:
        if len(words) > 1:
            raise WindowError(f"{text!r}: {words[1]!r} is no zone that is known here, such as Europe/Berlin or UTC")
        return Window(zone, once=_once(text, words[0], zone), written=words[0])
    try:
        return Window(zone, parse_hours(" ".join(words)))
    except HoursError as error:
        told = str(error).replace(repr(" ".join(words)), repr(text), 1)
        raise WindowError(f"{told}; a zone that is known here may stand behind them") from None


def _once(text: str, written: str, zone: str) -> Times:
    first, _, last = written.partition("/")
    begin = _moment(text, first, zone)
    try:
        end_ms = begin + parse_duration_ms(last)
    except TimeError:
        end_ms = _moment(text, last, zone)
    if end_ms <= begin:
        raise WindowError(f"{text!r} ends before it begins")
    if begin < 0 or end_ms > MAX_INSTANT_MS:
        raise WindowError(f"{text!r} begins before 1970 or ends after the year 9999, both UTC")
    return begin, end_ms


def _moment(text: str, shown: str, zone: str) -> int:
    try:
        moment = datetime.fromisoformat(shown)
    except ValueError:
        raise WindowError(f"{text!r}: {shown!r} is no date and time, such as 2026-12-24T18:00") from None
    if "T" not in shown:
        raise WindowError(f"{text!r}: {shown!r} says no time of the day, such as 2026-12-24T18:00")
    return _ms(moment if moment.tzinfo is not None else moment.replace(tzinfo=ZoneInfo(zone)))


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


def wrong_windows(texts: Sequence[str]) -> str | None:
    """Why an offer cannot have these windows; None where it can."""
    if len(texts) > MOST_WINDOWS:
        return f"these are {len(texts)} windows; at most {MOST_WINDOWS}"
    try:
        found = [parse_window(text) for text in texts]
    except WindowError as error:
        return str(error)
    weekly = [str(one) for one in found if one.hours is not None]
    whole = next_window(weekly, 0)
    if whole is not None and whole[1] - whole[0] >= LONGEST_WEEKLY_MS:
        return "these windows leave no time between them: a machine that is never for rent is withdrawn"
    return None


def over_window(texts: Iterable[str], now_ms: int) -> str | None:
    """The first of them that is over and does not come again; None where there is none."""
    return next((text for text in texts if (once := parse_window(text).once) is not None and once[1] <= now_ms), None)


def next_window(texts: Sequence[str], now_ms: int) -> Times | None:
    """The window that it is in, else the next one; those that touch are one. None where there is none to come."""
    times = sorted(time for text in texts for time in _times(parse_window(text), now_ms) if time[1] > now_ms)
    if not times:
        return None
    begin_ms, end_ms = times[0]
    for begin, end in times[1:]:
        if begin > end_ms:
            break
        end_ms = max(end_ms, end)
    return begin_ms, end_ms


def _times(window: Window, now_ms: int) -> Iterator[Times]:
    if window.once is not None:
        yield window.once
        return
    assert window.hours is not None
    zone = ZoneInfo(window.zone)
    first = datetime.fromtimestamp(now_ms // 1000, UTC).astimezone(zone).date() - timedelta(days=2)
    for number in range(2 + LOOKED_AHEAD_MS // MS_PER_DAY):
        day = first + timedelta(days=number)
        if day.weekday() in window.hours.days:
            begin_ms, end_ms = _of_day(window.hours, day, zone)
            if begin_ms < end_ms:  # clocks that go forward may skip all of it
                yield begin_ms, end_ms


def _of_day(hours: Hours, day: date, zone: ZoneInfo) -> Times:
    midnight = datetime(day.year, day.month, day.day)
    over = 0 if hours.begin_minute < hours.end_minute else 1
    begin = midnight + timedelta(minutes=hours.begin_minute)
    end = midnight + timedelta(days=over, minutes=hours.end_minute)
    # Its last minute decides: where clocks go back or forward at the very end, that hour is not in it.
    last = end - timedelta(minutes=1)
    return _ms(begin.replace(tzinfo=zone, fold=0)), _ms(last.replace(tzinfo=zone, fold=1)) + MS_PER_MINUTE
