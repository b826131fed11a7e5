"""What a trace without prices is given: which GPUs a job takes, what it pays at most, how long its customer thinks it runs.

The rule, per job, from one seeded generator (docs/SIMULATION.md says why):

1. **Models.** A GPU of the supply is drawn, each as likely as any other: the card that the job was written for. The job
   takes every card with at least that memory. A gang whose cards would not be twice as many as it wants draws again, up to
   20 times, and then takes any card.
2. **Region.** One job in ten wants the region of the drawn card (where there are twice as many cards as it wants), the
   others any.
3. **Limit.** 1.6 × the ask of the drawn card × exp(0.35 z), z standard normal, in whole cents: about one job in eleven will
   not pay for the card that it was written for.
4. **Estimate.** 1.3 × the true time × exp(0.5 z), in whole minutes, at least one: people say too much, and scatter.
5. **Patience.** Two days and four estimates without a GPU, then the customer gives up.

A second generator says which jobs are interruptible, so that all else is as without them, and who is at a share is at a larger one.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from statistics import NormalDist
from typing import Final

from market.simulation.supply import Machine
from market.simulation.trace import BareJob, TraceJob
from storage.units import MS_PER_DAY, MS_PER_MINUTE

MARKUP: Final = 1.6
LIMIT_SPREAD: Final = 0.35
OVERESTIMATE: Final = 1.3
ESTIMATE_SPREAD: Final = 0.5
REGION_SHARE: Final = 0.1
TRIES: Final = 20
ROOM: Final = 2
PATIENCE_MS: Final = 2 * MS_PER_DAY
PATIENCE_ESTIMATES: Final = 4
CENT: Final = 10_000_000
_NORMAL: Final = NormalDist()


def priced(jobs: Iterable[BareJob], supply: Sequence[Machine], seed: int) -> Iterator[TraceJob]:
    """The jobs with what the rule gives them; the same jobs, supply and seed give the same."""
    drawn = _Cards(supply)
    source = random.Random(seed)  # noqa: S311 (repeatable, not secret)
    for job in jobs:
        card, vram, region = drawn.for_gang(job.gpus, source)
        ask = card.ask_nanos if card is not None else 10**9
        limit = _scattered(MARKUP * ask, LIMIT_SPREAD, source)
        estimate = _scattered(OVERESTIMATE * job.duration_ms, ESTIMATE_SPREAD, source)
        estimate_ms = max(1, math.ceil(estimate / MS_PER_MINUTE)) * MS_PER_MINUTE
        yield TraceJob(
            id=job.id,
            tenant=job.tenant,
            submitted_ms=job.submitted_ms,
            duration_ms=job.duration_ms,
            gpus_min=job.gpus,
            gpus_max=job.gpus,
            models=(),
            regions=() if region is None else (region,),
            vram_gib=vram,
            limit_nanos=max(1, round(limit / CENT)) * CENT,
            estimate_ms=estimate_ms,
            patience_ms=PATIENCE_MS + PATIENCE_ESTIMATES * estimate_ms,
        )


def interruptible(jobs: Iterable[TraceJob], share: float, seed: int) -> Iterator[TraceJob]:
    """The jobs, each with probability `share` interruptible, whatever the others are."""
    source = random.Random(f"interruptible {seed}")  # noqa: S311 (repeatable, not secret)
    for job in jobs:
        yield replace(job, interruptible=True) if source.random() < share else job


def _scattered(middle: float, spread: float, source: random.Random) -> float:
    return middle * math.exp(spread * _NORMAL.inv_cdf(min(max(source.random(), 1e-12), 1 - 1e-12)))


class _Cards:
    """The supply, to draw single cards from."""

    def __init__(self, supply: Sequence[Machine]) -> None:
        self._supply = supply
        self._ends = list(accumulate(machine.gpus for machine in supply))
        self._by_memory = sorted(machine.vram_gib for machine in supply for _ in range(machine.gpus))
        self._by_region: dict[str, list[float]] = {}
        for machine in supply:
            self._by_region.setdefault(machine.region, []).extend([machine.vram_gib] * machine.gpus)
        for memories in self._by_region.values():
            memories.sort()

    def for_gang(self, gpus: int, source: random.Random) -> tuple[Machine | None, float, str | None]:
        """A card, the memory wanted, and the region if one is wanted."""
        local = source.random() < REGION_SHARE
        card: Machine | None = None
        for _ in range(TRIES if self._supply else 0):
            card = self._supply[bisect_right(self._ends, int(source.random() * self._ends[-1]))]
            if _at_least(self._by_memory, card.vram_gib) >= ROOM * gpus:
                near = local and _at_least(self._by_region[card.region], card.vram_gib) >= ROOM * gpus
                return card, card.vram_gib, card.region if near and card.region else None
        return card, 0.0, None


def _at_least(memories: Sequence[float], vram_gib: float) -> int:
    return len(memories) - bisect_left(memories, vram_gib)
