"""Who waits in a baseline, and who of them is served next: the first in its order for whom there is enough free.

Jobs that take the same machines and need as many units at once stand in one line, each line in the order of the baseline. For
all of a line there is one price: the lowest limit that pays the units that one of them needs, of those that are free. So the
first of a line whose limit is no lower is the one to be served. The price falls only when units come free, and never below
what these ask: only such lines are looked at, and those that somebody has joined.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import NamedTuple

Class = tuple[tuple[str, ...], tuple[str, ...], float]
"""(models, regions, least memory in GiB) of what a job takes; empty: any."""
Places = Callable[[Class], Iterable[int]]
"""Which machines a class takes, by number."""
Price = Callable[[Class, int], float]
"""The lowest limit at which so many units are free for a class now; infinite if they are not."""


class _Stand(NamedTuple):
    """Lower ranks stand before higher ones, and of one rank lower orders."""

    rank: int
    order: int
    limit_nanos: int
    job: str


class _Line:
    """Jobs of one class that need as many units, in their order."""

    __slots__ = ("_highest", "_limits", "_stands", "kind", "most_nanos", "need")

    def __init__(self, kind: Class, need: int) -> None:
        self.kind, self.need = kind, need
        self.most_nanos = -1
        """No limit is above it."""
        self._stands: list[_Stand] = []
        # Those whose limit is above that of everybody before them: whoever is first at any price is one of these.
        self._highest: list[_Stand] | None = []
        self._limits: list[int] = []

    def add(self, stand: _Stand) -> None:
        if self._stands and stand < self._stands[-1]:
            insort(self._stands, stand)
            self._highest = None
        else:
            self._stands.append(stand)
            if self._highest is not None:
                self._note(self._highest, stand)
        self.most_nanos = max(self.most_nanos, stand.limit_nanos)

    def remove(self, stand: _Stand) -> None:
        del self._stands[bisect_left(self._stands, stand)]
        if self._highest is not None and stand in self._highest:
            self._highest = None

    def first(self, price: float) -> _Stand | None:
        """The first whose limit is no lower."""
        if price > self.most_nanos:
            return None
        highest = self._highest
        if highest is None:
            highest, self._limits = [], []
            for stand in self._stands:
                self._note(highest, stand)
            self._highest = highest
            self.most_nanos = self._limits[-1] if self._limits else -1
        at = bisect_left(self._limits, price)
        return highest[at] if at < len(highest) else None

    def _note(self, highest: list[_Stand], stand: _Stand) -> None:
        if not highest or stand.limit_nanos > self._limits[-1]:
            highest.append(stand)
            self._limits.append(stand.limit_nanos)


class Waiting:
    """Jobs that want units, on machines that have numbers."""

    def __init__(self, machines: int, places: Places) -> None:
        self._places = places
        self._stands: dict[str, tuple[_Line, _Stand]] = {}
        self._lines: dict[tuple[Class, int], _Line] = {}
        self._lines_at: list[list[_Line]] = [[] for _ in range(machines)]
        self._joined: dict[_Line, None] = {}
        self._freed: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._stands)

    def add(self, job: str, kind: Class, need: int, limit_nanos: int, rank: int, order: int) -> None:
        """The job wants `need` units at once. `order` is nobody else's."""
        line = self._lines.get((kind, need))
        if line is None:
            line = self._lines[kind, need] = _Line(kind, need)
            for at in self._places(kind):
                self._lines_at[at].append(line)
        stand = _Stand(rank, order, limit_nanos, job)
        self._stands[job] = line, stand
        self._joined[line] = None
        line.add(stand)

    def discard(self, job: str) -> None:
        """The job wants nothing more."""
        known = self._stands.pop(job, None)
        if known is not None:
            line, stand = known
            line.remove(stand)

    def freed(self, machine: int, ask_nanos: int) -> None:
        """Units of this machine have come free."""
        self._freed[machine] = ask_nanos

    def served(self, price: Price) -> Iterator[str]:
        """Who is served, one after another: each has been discarded, and what it takes is free no longer, before the next one."""
        found = [(stand, line.kind, line.need) for line in self._looked_at() if (stand := line.first(price(line.kind, line.need)))]
        heapify(found)
        while found:
            stand, kind, need = heappop(found)
            line = self._lines[kind, need]
            first = line.first(price(kind, need))
            if first is stand:
                yield stand.job
                first = line.first(price(kind, need))
            if first is not None:
                heappush(found, (first, kind, need))

    def _looked_at(self) -> Iterable[_Line]:
        lines, freed = self._joined, self._freed
        self._joined, self._freed = {}, {}
        for machine, ask_nanos in freed.items():
            for line in self._lines_at[machine]:
                if line.most_nanos >= ask_nanos:
                    lines[line] = None
        return lines
