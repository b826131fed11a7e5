"""Who is told when something has become durable: long-polls by topic, and the events of one job in order.

Topics: `job:{id}`, `offer:{id}`, `runs`. Everything here runs on the event loop; nothing is told before the record of it
is on disk, because the desk calls `publish` only then.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

RUN_EVENTS = frozenset({"job_state", "job_wanted", "job_budget", "lease_granted", "lease_started", "lease_ended"})


@dataclass(frozen=True, slots=True)
class Happening:
    """One event of one job: journal record `number`, place `index` in it."""

    number: int
    index: int
    at_ms: int
    job: str
    event: dict[str, Any]

    def document(self) -> dict[str, Any]:
        return {"number": self.number, "index": self.index, "at_ms": self.at_ms, "event": self.event}


class Feed:
    """Remembers the newest `kept` events, and which lease belongs to which job and offer."""

    def __init__(self, *, kept: int = 20_000) -> None:
        self.closed = False
        self.first_record: dict[str, int] = {}
        self._recent: deque[Happening] = deque(maxlen=kept)
        self._forgotten_to = 0
        self._leases: dict[str, tuple[str, str]] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    def recall(self, number: int, first_record: dict[str, int], leases: dict[str, tuple[str, str]]) -> None:
        """Stand behind record `number` of a journal whose records up to there are not shown: `leases` as (job, offer)."""
        self.first_record, self._leases, self._forgotten_to = dict(first_record), dict(leases), number

    def remember(self, number: int, at_ms: int, events: Iterable[dict[str, Any]]) -> set[str]:
        """Note a durable record; the topics that it touches."""
        topics: set[str] = set()
        for index, event in enumerate(events):
            if event["type"] == "transfer" and event["job"] is None and event["lease"] is None:  # the commonest; nobody waits for it
                continue
            if event["type"] == "lease_granted":
                self._leases[event["lease"]] = (event["job"], event["offer"])
            job, offer = self._belongs_to(event)
            if job is not None:
                topics.add(f"job:{job}")
                self.first_record.setdefault(job, number)
                if len(self._recent) == self._recent.maxlen:
                    self._forgotten_to = self._recent[0].number
                self._recent.append(Happening(number, index, at_ms, job, event))
            if offer is not None:
                topics.add(f"offer:{offer}")
            if event["type"] in RUN_EVENTS:
                topics.add("runs")
        return topics

    def publish(self, number: int, at_ms: int, events: Iterable[dict[str, Any]]) -> None:
        """Note a record that has just become durable and wake whoever waits for its topics."""
        for topic in self.remember(number, at_ms, events):
            self.touch(topic)

    def touch(self, topic: str) -> None:
        """Wake whoever waits for `topic`."""
        for waiter in self._waiting.pop(topic, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def touched(self, topic: str, timeout_s: float) -> None:
        """Return when `topic` is touched after this call, at the latest after `timeout_s`."""
        if self.closed or timeout_s <= 0:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(topic, set()).add(waiter)
        try:
            await asyncio.wait((waiter,), timeout=timeout_s)
        finally:
            waiters = self._waiting.get(topic)
            if waiters is not None:
                waiters.discard(waiter)
                if not waiters:
                    del self._waiting[topic]

    def recent(self, job: str, after: int) -> list[Happening] | None:
        """Events of a job in records after `after`; None when older ones must be read from the journal."""
        if after < self._forgotten_to and self.first_record.get(job, after + 1) <= self._forgotten_to:
            return None
        return list(self._newer(job, after))

    def close(self) -> None:
        """Answer every long-poll now; later ones do not wait."""
        self.closed = True
        for topic in tuple(self._waiting):
            self.touch(topic)

    def job_of(self, event: dict[str, Any]) -> str | None:
        """The job that an event belongs to, through its lease if need be."""
        return self._belongs_to(event)[0]

    def _newer(self, job: str, after: int) -> Iterator[Happening]:
        found: list[Happening] = []
        for happening in reversed(self._recent):
            if happening.number <= after:
                break
            if happening.job == job:
                found.append(happening)
        return reversed(found)

    def _belongs_to(self, event: dict[str, Any]) -> tuple[str | None, str | None]:
        job, offer, lease = event.get("job"), event.get("offer"), event.get("lease")
        if lease is None:
            return job, offer
        through = self._leases.get(lease, (None, None))
        return job or through[0], offer or through[1]
