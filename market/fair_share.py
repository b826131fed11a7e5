"""Who goes first when there is less than is wanted: what each team has used lately, for its weight. Pure integers.

Usage is unit-milliseconds (units leased × time). At each full hour of the market's clock it is multiplied by 2^(−1/168), so
that it halves in seven days; between two full hours it only grows. A bid's turn comes by

    (usage + an hour for each unit that the team has now) ÷ weight, lowest first; within a team by worth (market/clearing.py).

The hour counts in advance, so that what is free is shared out although nobody has used it yet, and a team that gets something
steps back at once. Everything follows from the times of grants and ends in the journal and from `now`, in integers, so a
replay gives the same bits; how often somebody looks changes nothing. After Slurm's multifactor fair share (half-life) and
Kueue's admission fair sharing (the hour in advance is its entry penalty).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from market.orders import Bid, Standing

HALF_LIFE_MS: Final = 7 * 86_400_000
STEP_MS: Final = 3_600_000
AHEAD_MS: Final = 3_600_000
KEEP: Final = 18_370_791_886_079_017_691
"""The integer part of 2^64 · 2^(−1/168)."""
_SCALE: Final = 1 << 20
NO_TEAM: Final = ""
"""Members without a team stand together like one team of weight 1, without a quota."""


@dataclass(frozen=True, slots=True)
class Usage:
    """`units` in use since `at_ms`, and the decayed `unit_ms` up to then."""

    units: int = 0
    unit_ms: int = 0
    at_ms: int = 0

    def at(self, now_ms: int) -> Usage:
        """The same usage later: `u.at(a).at(b)` is `u.at(b)`. A clock that goes back changes nothing."""
        at_ms, unit_ms = self.at_ms, self.unit_ms
        while at_ms < now_ms and (unit_ms or self.units):
            full_hour_ms = (at_ms // STEP_MS + 1) * STEP_MS
            until_ms = min(full_hour_ms, now_ms)
            unit_ms += self.units * (until_ms - at_ms)
            if until_ms == full_hour_ms:
                unit_ms = unit_ms * KEEP >> 64
            at_ms = until_ms
        return Usage(self.units, unit_ms, max(self.at_ms, now_ms))

    def changed(self, units: int, now_ms: int) -> Usage:
        """`units` more, or fewer, are in use from now on."""
        now = self.at(now_ms)
        assert now.units + units >= 0
        return replace(now, units=now.units + units)


def counted_unit_ms(standing: Standing, more_units: int = 0) -> int:
    """Usage and the hour in advance."""
    return standing.used_unit_ms + (standing.units + more_units) * AHEAD_MS


def rank_of(standing: Standing, more_units: int = 0) -> int:
    """What decides whose turn it is: the lower, the sooner."""
    return counted_unit_ms(standing, more_units) * _SCALE // standing.weight


class Turns:
    """Bids in their turn, within a team by `key`; say what is granted before asking for the next one."""

    __slots__ = ("_granted", "_standings", "_waiting")

    def __init__(self, bids: Iterable[Bid], standings: Iterable[Standing], key: Callable[[Bid], Any]) -> None:
        self._standings: Mapping[str, Standing] = {one.team: one for one in standings}
        self._granted = dict.fromkeys(self._standings, 0)
        self._waiting: dict[str, list[Bid]] = {}
        for bid in sorted(bids, key=key, reverse=True):
            self._waiting.setdefault(bid.team, []).append(bid)

    def __iter__(self) -> Iterator[Bid]:
        queue = [self._place(team) for team in self._waiting]
        heapq.heapify(queue)
        while queue:
            team = heapq.heappop(queue)[-1]
            own = self._waiting[team]
            yield own.pop()
            if own:
                heapq.heappush(queue, self._place(team))

    def granted(self, bid: Bid, units: int) -> None:
        """The bid got so many units."""
        self._granted[bid.team] += units

    def _place(self, team: str) -> tuple[int, int, str, str]:
        first = self._waiting[team][-1]
        return (rank_of(self._standings[team], self._granted[team]), first.submitted_ms, first.job, team)


def within_quota(standing: Standing, bid: Bid, granted_units: int = 0) -> Bid | None:
    """The bid, for no more workers than its team's quota leaves; None if that is less than its smallest gang."""
    if standing.quota_units is None:
        return bid
    room = max(0, standing.quota_units - standing.units - granted_units) // bid.requires.gpus
    if room < max(1, bid.workers_min):
        return None
    return bid if room >= bid.workers_max else replace(bid, workers_max=room)


def quota_sentence(standing: Standing, granted_units: int = 0) -> str:
    """What a quota says to those who wait for it."""
    return f"team quota: {standing.units + granted_units} of {standing.quota_units} units in use"
