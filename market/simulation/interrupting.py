"""Interruptible jobs of a simulated market: which of them a clearing could serve, who looks for leases to outbid, who must leave.

Outbidding is decided by the live exchange (market/outbidding.py). It is shown fewer bids than a live one, as the firm
clearing is (market/simulation/queue.py): interruptible ones that find room among the free units, the highest limits first, and
of those without their gang who has just come, or has not looked for an hour.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Final

from market.commands import Flexible
from market.simulation.queue import Queue, Wanted
from market.simulation.supply import Machine
from market.simulation.trace import TraceJob
from market.simulation.waiting import Class
from market.spot import MOST_OUTBIDDING
from storage.units import MS_PER_HOUR

LOOKS_MS: Final = MS_PER_HOUR
"""A bid without its gang looks for leases that it could take when it comes, and then so often."""


class Flexibles:
    """`waiting` are interruptible jobs that want workers; `promised` by job the offers that it gets when others have left them."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self.waiting = Queue(machines)
        self.promised: dict[str, tuple[str, ...]] = {}
        self._looks: list[tuple[int, int, str]] = []
        self._planned: dict[str, int] = {}
        self._number = 0
        self._held: dict[int, int] = {}
        self._kept_for: str | None = None

    def want(self, job: TraceJob, kind: Class, need: int, *, settles: bool) -> None:
        """An interruptible job wants `need` workers or more; they go by limit alone, however long it takes."""
        self.waiting.add(Wanted(job.id, kind, need, job.limit_nanos, MS_PER_HOUR, 0, False, False, settles))

    def look(self, job: str, at_ms: int) -> None:
        """The job has no gang: from then on it may look for leases to outbid."""
        if job not in self._planned:
            self._plan(job, at_ms)

    def forget(self, job: str) -> None:
        """It is over, or has its gang."""
        self._planned.pop(job, None)

    def held(self, limit_nanos: int, leases: int) -> None:
        """So many more (or fewer) leases are held by that limit."""
        self._held[limit_nanos] = self._held.get(limit_nanos, 0) + leases
        if not self._held[limit_nanos]:
            del self._held[limit_nanos]

    def asked(self, job_of: Callable[[str], TraceJob], kept_for: str | None, now_ms: int) -> Flexible | None:
        """Whom the interruptible part of a clearing looks at now; None: nobody could get anything."""
        if kept_for != self._kept_for:
            self._kept_for = kept_for
            self.waiting.unsettle()
        self.waiting.begin()
        shown = self.waiting.unsettled(self.waiting.shown(now_ms), now_ms)
        looking = self._looking(job_of, now_ms)
        if not shown and not looking:
            return None
        bids = dict.fromkeys((*shown, *(job for job in looking if job_of(job).interruptible)))
        return Flexible(tuple(bids), tuple(job for job in looking if not job_of(job).interruptible), bool(looking))

    def served(self, asked: Flexible, now_ms: int) -> None:
        """They were looked at: who still waits could take nothing of what is free."""
        self.waiting.note((job for job in asked.bids if job in self.waiting), None, now_ms)

    def _looking(self, job_of: Callable[[str], TraceJob], now_ms: int) -> list[str]:
        """Those whose time to look has come and whose limits are above the lowest held, the highest first, at most as many as
        a live clearing lets look."""
        due: list[str] = []
        while self._looks and self._looks[0][0] <= now_ms:
            _, number, job = heapq.heappop(self._looks)
            if self._planned.get(job) == number:
                due.append(job)
        lowest = min(self._held, default=None)
        able = [job for job in due if lowest is not None and job_of(job).limit_nanos > lowest]
        able.sort(key=lambda job: (-job_of(job).limit_nanos, job_of(job).submitted_ms, job))
        for place, job in enumerate(able):
            self._plan(job, now_ms + 1 if place >= MOST_OUTBIDDING else now_ms + LOOKS_MS)
        for job in set(due).difference(able):
            self._plan(job, now_ms + LOOKS_MS)
        return able[:MOST_OUTBIDDING]

    def _plan(self, job: str, at_ms: int) -> None:
        self._number += 1
        self._planned[job] = self._number
        heapq.heappush(self._looks, (at_ms, self._number, job))
