"""Prices that follow the hours of the provider's zone. Pure, given the time zone rules of the machine that asks.

The exchange asks once at each tick and journals what changes, so a replay needs neither clock nor zone.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from market.hours import Hours, HoursError, parse_hours

Prices = tuple[tuple[str, int], ...]
"""(hours, nano-dollars per GPU-hour); of two that cover a moment the first counts."""

MOST_WINDOWS: Final = 32
_WEEK: Final = timedelta(days=8)
_HALF_HOUR: Final = timedelta(minutes=30)


@lru_cache(maxsize=4096)
def _hours(text: str) -> Hours:
    return parse_hours(text)


def wrong_hours(text: str) -> str | None:
    """Why these are no hours; None for hours."""
    try:
        _hours(text)
    except HoursError as error:
        return str(error)
    return None


def is_zone(name: str) -> bool:
    """Whether the rules of a zone of this name are known here."""
    try:
        ZoneInfo(name)
    except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError; a folder of zones is no zone
        return False
    except KeyError:
        return False
    return True


def price_at(prices: Prices, zone: str, base_nanos: int, at_ms: int) -> int:
    """What is asked at that moment: the price of the hours that it is in, else `base_nanos`."""
    return _price(prices, base_nanos, datetime.fromtimestamp(at_ms // 1000, ZoneInfo(zone)))


def _price(prices: Prices, base_nanos: int, local: datetime) -> int:
    weekday, minute = local.weekday(), local.hour * 60 + local.minute
    return next((nanos for text, nanos in prices if _hours(text).cover(weekday, minute)), base_nanos)


def next_change(prices: Prices, zone: str, base_nanos: int, now_ms: int) -> tuple[int, int] | None:
    """(when, in milliseconds since the epoch, and the price from then on) of the next change; None if none ever comes."""
    return _next_change(prices, zone, base_nanos, now_ms // 60_000) if prices else None


@lru_cache(maxsize=4096)
def _next_change(prices: Prices, zone: str, base_nanos: int, now_minute: int) -> tuple[int, int] | None:
    rules, begin = ZoneInfo(zone), datetime.fromtimestamp(now_minute * 60, UTC)
    now_nanos = _price(prices, base_nanos, begin.astimezone(rules))
    for moment in sorted(set(_candidates(prices, rules, begin))):
        if moment > begin and (nanos := _price(prices, base_nanos, moment.astimezone(rules))) != now_nanos:
            return int(moment.timestamp()) * 1000, nanos
    return None


def _candidates(prices: Prices, rules: ZoneInfo, begin: datetime) -> Iterator[datetime]:
    """Every moment of a week at which a price may change: hours begin or end, or clocks are put forward or back."""
    today = begin.astimezone(rules).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    for text, _ in prices:
        hours = _hours(text)
        for day in range(-1, _WEEK.days + 1):
            for minute in (hours.begin_minute, hours.end_minute):
                shown = today + timedelta(days=day, minutes=minute)
                for fold in (0, 1):
                    yield shown.replace(tzinfo=rules, fold=fold).astimezone(UTC)
    moment = begin.replace(minute=0)
    while moment < begin + _WEEK:
        if moment.astimezone(rules).utcoffset() != (moment - _HALF_HOUR).astimezone(rules).utcoffset():
            yield moment
        moment += _HALF_HOUR
