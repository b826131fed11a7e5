"""Days and months of the market's clock, UTC: which one a moment is in, and when the next begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Period:
    """`number_of(at_ms)` counts such periods, `begin_ms(number)` is when one begins."""

    name: str
    number_of: Callable[[int], int]
    begin_ms: Callable[[int], int]

    def next_ms(self, now_ms: int) -> int:
        """When the next one begins."""
        return self.begin_ms(self.number_of(now_ms) + 1)


@lru_cache(maxsize=64)
def _month_of(day: int) -> int:
    moment = _EPOCH + timedelta(days=day)
    return moment.year * 12 + moment.month - 1


def _month_begins(number: int) -> int:
    return (datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


DAY: Final = Period("day", lambda at_ms: at_ms // _DAY_MS, lambda number: number * _DAY_MS)
MONTH: Final = Period("month", lambda at_ms: _month_of(at_ms // _DAY_MS), _month_begins)
PERIODS: Final = (DAY, MONTH)
