"""Machines that come and go as a recorded cluster's did: each machine of the supply follows one seat of the recording.

In a recording a machine that is lost comes back under another name. So seats are made first: whoever is added takes the
lowest empty seat. Machine i follows seat i mod (seats), repeated end to end, shifted in time by a seeded draw, so that
machines of one seat do not fall together.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from market.simulation.trace import Churn


@dataclass(frozen=True, slots=True)
class Seats:
    """`there[s]` holds (from, to) of seat s in a recording of `period_ms`."""

    period_ms: int
    there: tuple[tuple[tuple[int, int], ...], ...]

    def share(self) -> float:
        """How much of the time a seat is taken, on average."""
        total = sum(end - begin for seat in self.there for begin, end in seat)
        return total / (self.period_ms * len(self.there)) if self.there else 1.0


def seats_of(churn: Sequence[Churn]) -> Seats | None:
    """None of a recording in which nothing lasts."""
    period_ms = churn[-1].at_ms if churn else 0
    if not period_ms:
        return None
    empty: list[int] = []
    sits: dict[str, tuple[int, int]] = {}
    there: list[list[tuple[int, int]]] = []
    for one in churn:
        if one.joins:
            seat = heapq.heappop(empty) if empty else len(there)
            if seat == len(there):
                there.append([])
            sits[one.machine] = (seat, one.at_ms)
        else:
            seat, begin = sits.pop(one.machine)
            heapq.heappush(empty, seat)
            there[seat].append((begin, one.at_ms))
    for seat, begin in sits.values():
        there[seat].append((begin, period_ms))
    kept = [tuple(sorted(span for span in seat if span[0] < span[1])) for seat in there]
    kept = [seat for seat in kept if seat]
    return Seats(period_ms, tuple(kept)) if kept else None


def comings_and_goings(seats: Seats, machines: int, seed: int, until_ms: int) -> Iterator[tuple[int, bool, int]]:
    """(time, whether it comes, index of the machine), in order of time, from 0; all machines are away at first."""
    source = random.Random(seed)  # noqa: S311 (repeatable, not secret)
    shifts = [int(source.random() * seats.period_ms) for _ in range(machines)]
    return heapq.merge(*(_one(seats, index, shift, until_ms) for index, shift in enumerate(shifts)))


def _one(seats: Seats, index: int, shift_ms: int, until_ms: int) -> Iterator[tuple[int, bool, int]]:
    spans = seats.there[index % len(seats.there)]
    turn = -1
    there_until: int | None = None
    while True:
        for begin, end in spans:
            at, to = (time + turn * seats.period_ms + shift_ms for time in (begin, end))
            if at > until_ms:
                if there_until is not None and there_until <= until_ms:
                    yield there_until, False, index
                return
            if to <= 0:
                continue
            at = max(0, at)
            if there_until is not None and there_until < at:
                yield there_until, False, index
                there_until = None
            if there_until is None:
                yield at, True, index
            there_until = to
        turn += 1
