"""Who waits in a baseline, and who of them is served next: the first in its order for whom there is enough free.

Jobs that take the same machines and need as many units at once stand in one line, each line in the order of the baseline. For
all of a line there is one price: the lowest limit that pays the units that one of them needs, of those that are free. So the
first of a line whose limit is no lower is the one to be served. The price falls only when units come free, and never below
what these ask: only such lines are looked at, and those that somebody has joined.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import NamedTuple

Class = tuple[tuple[str, ...], tuple[str, ...], float]
"""(models, regions, least memory in GiB) of what a job takes; empty: any."""
Places = Callable[[Class], frozenset[int]]
"""Which machines a class takes, by number."""
Price = Callable[[frozenset[int], int, int, bool], float]
"""The lowest limit at which so many units are free now on these machines; infinite if they are not, or not for so much (the third).
If the last is true nothing need be found of what was free at the last clearing already: nobody took it."""


class _Stand(NamedTuple):
    """Lower ranks stand before higher ones, and of one rank lower orders."""

    rank: int
    order: int
    limit_nanos: int
    job: str


class _Line:
    """Jobs of one class that need as many units, in their order."""

    __slots__ = ("_highest", "_limits", "_stands", "most_nanos", "need", "takes")

    def __init__(self, takes: frozenset[int], need: int) -> None:
        self.takes, self.need = takes, need
        self.most_nanos = -1
        """The highest limit; -1 of nobody."""
        self._stands: list[_Stand] = []
        # Those whose limit is above that of everybody before them: whoever is first at any price is one of these.
        self._highest: list[_Stand] = []
        self._limits: list[int] = []

    def add(self, stand: _Stand) -> None:
        if self._stands and stand < self._stands[-1]:
            insort(self._stands, stand)
            place = bisect_left(self._highest, stand)
        else:
            self._stands.append(stand)
            place = len(self._highest)
        if not place or stand.limit_nanos > self._limits[place - 1]:
            passed = bisect_right(self._limits, stand.limit_nanos)
            self._highest[place:passed], self._limits[place:passed] = [stand], [stand.limit_nanos]
            self.most_nanos = self._limits[-1]

    def remove(self, stand: _Stand) -> None:
        at = bisect_left(self._stands, stand)
        del self._stands[at]
        place = bisect_left(self._limits, stand.limit_nanos)
        if self._highest[place] is not stand:
            return
        # Its place is taken by whoever is up to the next one and above all before.
        end = len(self._stands) if place + 1 == len(self._highest) else bisect_left(self._stands, self._highest[place + 1], at)
        most, heirs = self._limits[place - 1] if place else -1, list[_Stand]()
        for one in self._stands[at:end]:
            if one.limit_nanos > most:
                most = one.limit_nanos
                heirs.append(one)
        self._highest[place : place + 1], self._limits[place : place + 1] = heirs, [one.limit_nanos for one in heirs]
        self.most_nanos = self._limits[-1] if self._limits else -1

    def first(self, price: float) -> _Stand | None:
        """The first whose limit is no lower."""
        at = bisect_left(self._limits, price)
        return self._highest[at] if at < len(self._highest) else None


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
            line = self._lines[kind, need] = _Line(self._places(kind), need)
            for at in line.takes:
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

    def served(self, price: Price, room: int) -> Iterator[str]:
        """Who is served, one after another: each has been discarded, and what it takes is free no longer, before the next one.

        Of those who were left at the last clearing nobody gets more than `room` units.
        """
        joined, self._joined = self._joined, {}

        def first(line: _Line) -> _Stand | None:
            return line.first(price(line.takes, line.need, line.most_nanos, line not in joined))

        found = [(stand, line) for line in self._looked_at(joined, room) if (stand := first(line)) is not None]
        heapify(found)
        while found:
            stand, line = heappop(found)
            now = first(line)
            if now is stand:
                yield stand.job
                now = first(line)
            if now is not None:
                heappush(found, (now, line))

    def _looked_at(self, joined: Iterable[_Line], room: int) -> Iterable[_Line]:
        freed, self._freed = self._freed, {}
        lines = dict.fromkeys(joined)
        for machine, ask_nanos in freed.items():
            for line in self._lines_at[machine]:
                if line.most_nanos >= ask_nanos and line.need <= room:
                    lines[line] = None
        return lines
