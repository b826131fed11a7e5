"""Who waits in a baseline, kept so that only those are tried that could get something: what has come free decides whom to ask.

Jobs of equal requirements are a class; in a class they stand by (GPUs needed at once, limit within 5 %), each in order of
arrival. A job that failed and for whom nothing has come free since would fail again, and is not shown.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import merge
from itertools import accumulate, islice
from typing import Final

Class = tuple[tuple[str, ...], tuple[str, ...], float]
"""(models, regions, least memory in GiB) of what a job takes; empty: any."""
Place = tuple[str, str]
Free = Callable[[Class], Sequence[tuple[int, int]]]
"""(ask, free units) of the machines that a class takes and that have units free, in any order."""
UnitsOf = Callable[[str], tuple[int, int, float]]
"""(ask, free units, memory in GiB) of a machine; no units if it is gone."""
_STEP: Final = math.log(1.05)


@dataclass(frozen=True, slots=True)
class _Stand:
    place: tuple[Class, int, int]
    order: tuple[int, int]
    job: str


class Places:
    """Which (model, region) there are, and with how much memory at most; which of them a class takes."""

    def __init__(self, machines: Iterable[tuple[str, str, float]]) -> None:
        self._memory: dict[Place, float] = {}
        for model, region, vram_gib in machines:
            self._memory[model, region] = max(vram_gib, self._memory.get((model, region), 0.0))
        self._of: dict[Class, tuple[Place, ...]] = {}

    def of(self, kind: Class) -> tuple[Place, ...]:
        """The places at which some machine may be of the class."""
        found = self._of.get(kind)
        if found is None:
            models, regions, vram_gib = kind
            found = self._of[kind] = tuple(
                (model, region)
                for (model, region), most in self._memory.items()
                if (not models or model in models) and (not regions or region in regions) and most >= vram_gib
            )
        return found


class Waiting:
    """Jobs that want workers. `add` again to change what one wants."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._stands: dict[str, _Stand] = {}
        self._queues: dict[Class, dict[tuple[int, int], deque[_Stand]]] = {}
        self._classes_at: dict[Place, dict[Class, None]] = {}
        self._new: dict[str, None] = {}
        self._freed: dict[str, Place] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._stands)

    def __contains__(self, job: str) -> bool:
        return job in self._stands

    def add(self, job: str, kind: Class, need: int, limit_nanos: int, rank: int) -> None:
        """The job wants `need` units at once, or more; lower ranks stand before later ones."""
        self._number += 1
        stand = _Stand((kind, need, int(math.log(limit_nanos) / _STEP)), (rank, self._number), job)
        self._stands[job] = stand
        queues = self._queues.get(kind)
        if queues is None:
            queues = self._queues[kind] = {}
            for place in self._places.of(kind):
                self._classes_at.setdefault(place, {})[kind] = None
        queue = queues.get(stand.place[1:])
        if queue is None:
            queue = queues[stand.place[1:]] = deque()
        if queue and queue[-1].order > stand.order:
            queues[stand.place[1:]] = deque(sorted((*queue, stand), key=lambda one: one.order))
        else:
            queue.append(stand)
        self._new[job] = None

    def discard(self, job: str) -> None:
        """The job wants nothing more."""
        self._stands.pop(job, None)
        self._new.pop(job, None)

    def freed(self, machine: str, place: Place) -> None:
        """Units of this machine have come free, or have become cheaper."""
        self._freed[machine] = place

    @property
    def news(self) -> bool:
        """Whether anybody could get what nobody could before."""
        return bool(self._new or (self._freed and self._stands))

    def rounds(self, free: Free, units_of: UnitsOf) -> Iterator[list[str]]:
        """Whom to show, a list at a time; whoever got something must be discarded, or added again, before the next one.

        Everybody else failed on what was free before: who gets something now takes a unit that has come free since.
        """
        tried: set[str] = set()
        spare = 1
        first = [job for job in self._new if job in self._stands]
        freed = self._freed
        self._new, self._freed = {}, {}
        while True:
            shown = self._able(first, free) if first else []
            left = {machine: units_of(machine) for machine in freed} if self._stands else {}
            seats = sum(units for _, units, _ in left.values())
            if seats:
                lines = [line for kind in self._touched(left, freed) for line in self._lines(kind, left, freed, free, tried, spare)]
                shown += [one.job for one in islice(merge(*lines, key=_order), seats + spare) if one.job not in shown]
            shown = [job for job in shown if job not in tried]
            first = []
            if not shown:
                return
            tried.update(shown)
            spare *= 2  # whoever was shown and got nothing stands in nobody's way for long
            yield shown

    def _able(self, jobs: Iterable[str], free: Free) -> list[str]:
        """Those for whom there are enough units within their limits, as far as that is told by sums."""
        ladders: dict[Class, _Ladder] = {}
        found: list[str] = []
        for job in jobs:
            kind, need, level = self._stands[job].place
            ladder = ladders.get(kind)
            if ladder is None:
                ladder = ladders[kind] = _Ladder(free(kind))
            if ladder.within(_ceiling(level)) >= need:
                found.append(job)
        return found

    def _touched(self, left: Iterable[str], freed: Mapping[str, Place]) -> Iterable[Class]:
        places = {freed[machine]: None for machine in left}
        return {kind: None for place in places for kind in self._classes_at.get(place, ()) if self._queues[kind]}

    def _lines(
        self, kind: Class, left: Mapping[str, tuple[int, int, float]], freed: Mapping[str, Place], free: Free, tried: set[str],
        spare: int,
    ) -> Iterator[Iterator[_Stand]]:  # fmt: skip
        places, queues = self._places.of(kind), self._queues[kind]
        ladder = [
            (ask, units) for machine, (ask, units, memory) in left.items()
            if units and memory >= kind[2] and freed[machine] in places
        ]  # fmt: skip
        if not ladder:
            return
        freed_units, whole = _Ladder(ladder), None
        cheapest = freed_units.cheapest
        for key, queue in list(queues.items()):
            need, level = key
            ceiling = _ceiling(level)
            if ceiling < cheapest:
                continue
            while queue and self._stands.get(queue[0].job) is not queue[0]:
                queue.popleft()
            if not queue:
                del queues[key]
                continue
            if need > 1:
                whole = _Ladder(free(kind)) if whole is None else whole
                if whole.within(ceiling) < need:
                    continue
            yield islice(self._standing(queue, tried), freed_units.within(ceiling) + spare)

    def _standing(self, queue: Iterable[_Stand], tried: set[str]) -> Iterator[_Stand]:
        stands = self._stands
        return (one for one in queue if stands.get(one.job) is one and one.job not in tried)


def _order(one: _Stand) -> tuple[int, int]:
    return one.order


@cache
def _ceiling(level: int) -> float:
    """Above every limit of the level."""
    return math.exp((level + 1) * _STEP) + 1


class _Ladder:
    """Units by ask."""

    __slots__ = ("_asks", "_units")

    def __init__(self, rungs: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(rungs)
        self._asks = [ask for ask, _ in ordered]
        self._units = list(accumulate((units for _, units in ordered), initial=0))

    @property
    def cheapest(self) -> int:
        return self._asks[0]

    def within(self, ceiling: float) -> int:
        """How many units ask no more."""
        return self._units[bisect_right(self._asks, ceiling)]
