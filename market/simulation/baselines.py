"""The ways of clearing that the market is measured against, on the same jobs, machines and churn: without money, orders or leases.

- `fifo`: strictly in order of arrival; whoever is first and does not fit lets nobody past (only jobs that no machines of the
  whole supply could ever serve are passed over).
- `auction`: in order of arrival, one provider for a whole job, as a group of Akash has it: the cheapest provider that has
  it all. Later jobs that fit go first.
- `greedy`: by limit × estimated time, dearest first; a job may span providers and takes the cheapest seats.

A job holds what it has until it is done. A machine that goes takes its jobs with it, whole: what is left of them since the
last save waits again, with its first place in the queue.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import Final

from market.simulation.churning import Seats, comings_and_goings
from market.simulation.clock import Clock
from market.simulation.driver import Progress, drive
from market.simulation.players import kind_of
from market.simulation.records import DONE, GAVE_UP, UNFINISHED, Record
from market.simulation.supply import Machine
from market.simulation.terms import RESTART_MS, Terms
from market.simulation.trace import TraceJob
from market.simulation.waiting import Class, Waiting

BASELINES: Final = ("fifo", "auction", "greedy")
_KINDS: Final = ("clear", "patience", "churn", "done")


@dataclass(slots=True)
class _Open:
    """A job that is not over; `seats` are (index of a machine, units)."""

    job: TraceJob
    order: int
    left_ms: int
    seats: list[tuple[int, int]] = field(default_factory=list)
    since_ms: int = 0
    version: int = 0


class BaselineRun:
    """One baseline over one trace."""

    def __init__(self, name: str, machines: Sequence[Machine], terms: Terms, seats: Seats | None = None) -> None:
        assert name in BASELINES
        self.name, self.terms, self.record = name, terms, Record(name, terms.window_ms)
        self._machines, self._sizes = machines, [machine.gpus for machine in machines]
        self._free = [0] * len(machines) if seats is not None else list(self._sizes)
        self._there: dict[int, int] = {} if seats is not None else dict.fromkeys(range(len(machines)), 0)
        self._ladders: dict[Class, list[tuple[int, int]]] = {}
        self._providers: dict[Class, list[tuple[int, list[tuple[int, int]]]]] = {}
        self._takes: dict[Class, frozenset[int]] = {}
        self._anything_free = sorted((machine.ask_nanos, at) for at, machine in enumerate(machines) if self._free[at])
        self._sellers: set[str] = set()
        self._fresh: list[tuple[int, int]] = []
        self._waiting = Waiting(len(machines), self._taken_by)
        self._line: list[tuple[int, _Open]] = []
        self._open: dict[str, _Open] = {}
        self._on: list[dict[str, None]] = [{} for _ in machines]
        self._clock = Clock()
        self._planned = False
        self._seats = seats
        self._moves: Iterator[tuple[int, bool, int]] = iter(())

    def play(self, jobs: Iterable[TraceJob], progress: Progress = lambda _came, _now: None) -> Record:
        """Every job of the trace, in order of submission, to its end."""
        if self._seats is not None:
            self._moves = comings_and_goings(self._seats, len(self._machines), self.terms.seed, self.terms.horizon_ms)
            self._plan_next()
        drive(self, self._clock, {kind: getattr(self, f"_at_{kind}") for kind in _KINDS}, jobs, self.terms.horizon_ms, progress)
        for left in list(self._open.values()):
            state = "runs" if left.seats else "waits"
            self._leave(left)
            self._over(left, UNFINISHED, state)
        for index, since in self._there.items():
            self.record.supply.add(since, self._clock.now_ms, self._machines[index].gpus)
        self.record.end_ms = max(self.record.end_ms, 1)
        return self.record

    @property
    def idle(self) -> bool:
        """Whether no job is open."""
        return not self._open

    def _plan_next(self) -> None:
        move = next(self._moves, None)
        if move is not None:
            self._clock.at(move[0], "churn", move[1:])

    def _at_done(self, job: str, version: int) -> None:
        known = self._open.get(job)
        if known is not None and known.version == version:
            self._leave(known)
            self._over(known, DONE)

    def submit(self, job: TraceJob, order: int) -> None:
        """It waits from now on."""
        self.record.submitted(job)
        known = self._open[job.id] = _Open(job, order, -(-job.gpu_ms // job.gpus_min))
        if job.patience_ms is not None:
            self._clock.at(job.submitted_ms + job.patience_ms, "patience", job.id)
        self._wait(known)

    def _wait(self, known: _Open) -> None:
        job = known.job
        if self.name != "fifo":
            rank = -job.limit_nanos * job.estimate_ms if self.name == "greedy" else known.order
            self._waiting.add(job.id, kind_of(job), job.gpus_min, job.limit_nanos, rank, known.order)
        elif self._could_ever(job):
            heappush(self._line, (known.order, known))
        self._plan_clearing()

    def _plan_clearing(self) -> None:
        if not self._planned:
            self._planned = True
            step = self.terms.clear_ms
            self._clock.at(-(-self._clock.now_ms // step) * step, "clear")

    def _at_patience(self, job: str, _version: int) -> None:
        known = self._open.get(job)
        if known is not None and self.record.jobs[job].started_ms is None:
            self._over(known, GAVE_UP, "busy" if self._could_ever(known.job) else "never")
            if self.name == "fifo":
                self._plan_clearing()

    def _could_ever(self, job: TraceJob) -> bool:
        return _cheapest(self._ladder(kind_of(job)), self._sizes, job) is not None

    # seats

    def _ladder(self, kind: Class) -> list[tuple[int, int]]:
        """(ask, index) of every machine that a class takes, cheapest first."""
        found = self._ladders.get(kind)
        if found is None:
            models, regions, vram_gib = kind
            found = self._ladders[kind] = sorted(
                (machine.ask_nanos, index)
                for index, machine in enumerate(self._machines)
                if machine.vram_gib >= vram_gib and (not models or machine.gpu in models)
                and (not regions or machine.region in regions)
            )  # fmt: skip
        return found

    def _taken_by(self, kind: Class) -> frozenset[int]:
        """Which machines a class takes."""
        found = self._takes.get(kind)
        if found is None:
            found = self._takes[kind] = frozenset(at for _, at in self._ladder(kind))
        return found

    def _price(self, takes: frozenset[int], need: int, most_nanos: int, again: bool) -> float:
        """The lowest limit at which so many units are free on these machines, in the auction of one provider; infinite if they are not.

        A provider none of whose units came free since the last clearing has nothing for those who were left then (`again`).
        """
        if self.name == "auction":
            return self._price_of_one(takes, need, most_nanos, self._fresh if again else self._anything_free)
        free = self._free
        for ask, at in self._anything_free:
            if ask > most_nanos:
                break
            if at in takes:
                need -= free[at]
                if need <= 0:
                    return ask
        return inf

    def _room(self) -> int:
        """The most units that anybody could get of what came free since the last clearing, with what was free beside it."""
        if self.name != "auction":
            return sum(self._free)
        self._fresh = [one for one in self._anything_free if self._machines[one[1]].provider in self._sellers]
        self._sellers.clear()
        found: dict[str, int] = {}
        for _, at in self._fresh:
            seller = self._machines[at].provider
            found[seller] = found.get(seller, 0) + self._free[at]
        return max(found.values(), default=0)

    def _price_of_one(self, takes: frozenset[int], need: int, most_nanos: int, entries: Iterable[tuple[int, int]]) -> float:
        free, found = self._free, dict[str, int]()
        for ask, at in entries:
            if ask > most_nanos:
                break
            if at in takes:
                seller = self._machines[at].provider
                found[seller] = units = found.get(seller, 0) + free[at]
                if units >= need:
                    return ask
        return inf

    def _change_free(self, at: int, units: int) -> None:
        """So many units more of the machine are free, or fewer."""
        before, entry = self._free[at], (self._machines[at].ask_nanos, at)
        self._free[at] = after = before + units
        if after and not before:
            insort(self._anything_free, entry)
        elif before and not after:
            del self._anything_free[bisect_left(self._anything_free, entry)]
        if units > 0:
            self._waiting.freed(at, entry[0])
            self._sellers.add(self._machines[at].provider)

    def _seats_for(self, job: TraceJob) -> list[tuple[int, int]] | None:
        if self.name == "auction":
            return self._seats_of_one(job)
        return _cheapest(self._ladder(kind_of(job)), self._free, job)

    def _seats_of_one(self, job: TraceJob) -> list[tuple[int, int]] | None:
        kind = kind_of(job)
        groups = self._providers.get(kind)
        if groups is None:
            by_provider: dict[str, list[tuple[int, int]]] = {}
            for ask, at in self._ladder(kind):
                by_provider.setdefault(self._machines[at].provider, []).append((ask, at))
            groups = self._providers[kind] = [(ladder[0][0], ladder) for ladder in by_provider.values()]
        best: tuple[int, list[tuple[int, int]]] | None = None
        for cheapest, ladder in groups:
            if cheapest > job.limit_nanos or (best is not None and cheapest * job.gpus_min >= best[0]):
                break
            seats = _cheapest(ladder, self._free, job)
            if seats is not None:
                cost = sum(self._machines[at].ask_nanos * units for at, units in seats)
                if best is None or cost < best[0]:
                    best = (cost, seats)
        return None if best is None else best[1]

    def _at_clear(self, _about: None, _version: int) -> None:
        self._planned = False
        self.record.clearings += 1
        if self.name == "fifo":
            while self._line:
                first = self._line[0][1]
                if first.job.id not in self._open:
                    heappop(self._line)
                    continue
                seats = self._seats_for(first.job)
                if seats is None:
                    return
                heappop(self._line)
                self._sit(first, seats)
            return
        for name in self._waiting.served(self._price, self._room()):
            known = self._open[name]
            seats = self._seats_for(known.job)
            assert seats is not None
            self._waiting.discard(name)
            self._sit(known, seats)

    def _sit(self, known: _Open, seats: list[tuple[int, int]]) -> None:
        now = self._clock.now_ms
        record = self.record.jobs[known.job.id]
        if record.started_ms is None:
            record.started_ms = now
        known.seats, known.since_ms = seats, now
        known.version += 1
        for at, units in seats:
            self._change_free(at, -units)
            self._on[at][known.job.id] = None
            self.record.granted(now, self._machines[at].ask_nanos, self._machines[at].ask_nanos, units)
        self._clock.at(now + known.left_ms, "done", known.job.id, known.version)

    def _leave(self, known: _Open) -> None:
        now, record = self._clock.now_ms, self.record.jobs[known.job.id]
        for at, units in known.seats:
            machine = self._machines[at]
            del self._on[at][known.job.id]
            self.record.returned(record, machine, known.since_ms, now, units)
            if at in self._there:
                self._change_free(at, units)
        known.seats = []
        known.version += 1
        if self._waiting or self._line:
            self._plan_clearing()

    def _over(self, known: _Open, state: str, reason: str = "") -> None:
        del self._open[known.job.id]
        self._waiting.discard(known.job.id)
        self.record.ended(self.record.jobs[known.job.id], self._clock.now_ms, state, reason)

    def _at_churn(self, move: tuple[bool, int], _version: int) -> None:
        comes, at = move
        self._plan_next()
        now, machine = self._clock.now_ms, self._machines[at]
        if comes:
            self._there[at] = now
            self._change_free(at, machine.gpus)
            self._plan_clearing()
            return
        self.record.supply.add(self._there.pop(at), now, machine.gpus)
        self._change_free(at, -self._free[at])
        for name in list(self._on[at]):
            known = self._open[name]
            ran_ms = now - known.since_ms
            kept_ms, record = ran_ms // self.terms.save_ms * self.terms.save_ms, self.record.jobs[name]
            known.left_ms += RESTART_MS - kept_ms
            record.lost += 1
            record.redone_gpu_ms += (ran_ms - kept_ms) * known.job.gpus_min
            record.restarting_gpu_ms += RESTART_MS * known.job.gpus_min
            self._leave(known)
            self._wait(known)


def _cheapest(ladder: Iterable[tuple[int, int]], free: Sequence[int], job: TraceJob) -> list[tuple[int, int]] | None:
    """The cheapest units within the job's limit; None if there are too few."""
    left, seats = job.gpus_min, []
    for ask, at in ladder:
        if ask > job.limit_nanos:
            break
        units = free[at]
        if units:
            taken = min(units, left)
            seats.append((at, taken))
            left -= taken
            if not left:
                return seats
    return None
