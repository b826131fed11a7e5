"""Hours of the week as an owner writes them: `08:00-18:00 mon-fri`, `22:00-06:00`, `00:00-24:00 sat,sun`. Pure.

They are hours of a wall clock. One that ends before it begins goes over midnight and belongs to the day on which it
begins. In the night in which clocks go back an hour that is named counts both times; one that clocks skip is not there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES: Final = 24 * 60
_FORM: Final = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})(?:\s+(\S+))?")


class HoursError(ValueError):
    """The text says no hours; `str` says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Hours:
    """From `begin_minute` of each of `days` (0 is Monday) until `end_minute`, of the next day where that is not later."""

    begin_minute: int
    end_minute: int
    days: frozenset[int] = frozenset(range(7))

    def cover(self, weekday: int, minute: int) -> bool:
        """Whether this minute of the day is in them."""
        if self.begin_minute < self.end_minute:
            return weekday in self.days and self.begin_minute <= minute < self.end_minute
        began_today = weekday in self.days and minute >= self.begin_minute
        return began_today or ((weekday - 1) % 7 in self.days and minute < self.end_minute)

    def __str__(self) -> str:
        times = f"{_clock(self.begin_minute)}-{_clock(self.end_minute)}"
        return times if len(self.days) == len(DAYS) else f"{times} {_named(sorted(self.days))}"


def parse_hours(text: str) -> Hours:
    """The hours that the text says. Raises HoursError."""
    found = _FORM.fullmatch(text.strip().lower())
    if found is None:
        raise HoursError(f"{text!r} says no hours; write them like 08:00-18:00 or '22:00-06:00 mon-fri'")
    begin, end = (_minute(text, found[one], found[one + 1]) for one in (1, 3))
    if begin == DAY_MINUTES:
        raise HoursError(f"{text!r} begins at 24:00; that is 00:00 of the next day")
    return Hours(begin, end, _days(text, found[5]))


def _minute(text: str, hours: str, minutes: str) -> int:
    minute = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or minute > DAY_MINUTES:
        raise HoursError(f"{text!r}: there is no {hours}:{minutes} in a day")
    return minute


def _days(text: str, named: str | None) -> frozenset[int]:
    if named is None:
        return frozenset(range(7))
    days: set[int] = set()
    for part in named.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if first not in DAYS or last not in DAYS:
            raise HoursError(f"{text!r}: {part!r} are no days; name them like mon, mon-fri or sat,sun")
        begin, end = DAYS.index(first), DAYS.index(last)
        days |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return frozenset(days)


def _named(days: list[int]) -> str:
    runs: list[list[int]] = []
    for day in days:
        if runs and day == runs[-1][-1] + 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ",".join(DAYS[run[0]] if len(run) == 1 else f"{DAYS[run[0]]}-{DAYS[run[-1]]}" for run in runs)


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
