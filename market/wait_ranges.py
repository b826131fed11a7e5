"""How long a job would wait, by how it went lately: of those who got machines, of those who wait now, and of those who gave up.

Who gave up, and who still waits, has waited at least so long: leaving them out would say that everybody is served, and soon. So
the share that still waits after a time is the product-limit estimate (Kaplan and Meier, 1958) of what was seen in a stretch of
time: each wait counts from when it entered the stretch (delayed entry) until its end, which is a start or is not. One imagined
start that has not come (d of n + 1) keeps few from meaning certainty. Beyond what was seen the rate of all that was seen
goes on. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from storage.units import MS_PER_DAY

SAID: Final = (2, 50, 90)
"""So many of a hundred have begun by the low end, the middle and the high end of a range. The low end is early, since those who
bid more than most are served out of turn."""
MOST_SAID_MS: Final = 365 * MS_PER_DAY


@dataclass(frozen=True, slots=True)
class Wait:
    """One job's wait as far as it was seen: from `from_ms` after its begin to `to_ms` after it; whether it got machines then."""

    from_ms: int
    to_ms: int
    served: bool


def wait_range(waits: Iterable[Wait], percents: Sequence[int] = SAID) -> list[int] | None:
    """By when so many of a hundred who wait have begun, in milliseconds from the begin of a wait; None where nobody has."""
    seen = [one for one in waits if one.from_ms < one.to_ms]
    served = sum(one.served for one in seen)
    if not served:
        return None
    curve = _still_waiting(seen)
    per_ms = served / sum(one.to_ms - one.from_ms for one in seen)
    last_ms, left = curve[-1]
    found: list[int] = []
    for percent in percents:
        share = 1 - percent / 100
        at_ms = next((at for at, still in curve if still <= share), None)
        found.append(min(MOST_SAID_MS, round(last_ms + math.log(left / share) / per_ms) if at_ms is None else at_ms))
    return found


def _still_waiting(seen: Sequence[Wait]) -> list[tuple[int, float]]:
    """(time, share that still waits after it), at each time at which somebody got machines."""
    ended: dict[int, int] = {}
    change: dict[int, int] = {}
    for one in seen:
        change[one.from_ms] = change.get(one.from_ms, 0) + 1
        change[one.to_ms] = change.get(one.to_ms, 0) - 1
        if one.served:
            ended[one.to_ms] = ended.get(one.to_ms, 0) + 1
    found: list[tuple[int, float]] = []
    waiting, left = 0, 1.0
    for at_ms in sorted(change):
        if at_ms in ended:  # those who enter at this time were not there before it
            left *= 1 - ended[at_ms] / (waiting + 1)
            found.append((at_ms, left))
        waiting += change[at_ms]
    return found
