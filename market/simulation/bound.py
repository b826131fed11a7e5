"""An upper bound of the welfare that any way of clearing could reach on a trace: Lagrange, in whole numbers.

A GPU-hour of job j on machine type c in week w makes at most (limit_j − ask_c). No type can give more in a week than its
GPUs × the week. With any price λ_cw ≥ 0 for a GPU-hour of type c in week w,

    Σ_cw capacity_cw λ_cw + Σ_j GPU-hours_j · max(0, limit_j − min over c that j takes, w in its weeks, of (ask_c + λ_cw))

is at least the welfare of every way (Lagrange): a job's hours may lie in any weeks and on any types at once here, gangs may be
split, and nothing is ever lost or waits, so what is true is less. Its weeks are from the one in which it came to the one in
which it must be over: it gives up after its patience and then needs its time, unless machines come and go, which may stretch
it to the end. Good prices are found by steps along the subgradient; any prices prove a bound.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from market.simulation.supply import Machine
from market.simulation.trace import TraceJob
from market.simulation.waiting import Class
from storage.units import MS_PER_DAY, MS_PER_HOUR

WEEK_MS: Final = 7 * MS_PER_DAY
STEPS: Final = 40
FIRST_STEP: Final = 0.3
MOST_WEEKS: Final = 64


@dataclass(slots=True)
class _Group:
    """Jobs that take the same types in the same weeks: limits ascending, and sums over those above each."""

    kind: int
    first: int
    last: int
    limits: list[int]
    hours_from: list[int]
    value_from: list[int]


def welfare_bound_nanos(
    jobs: Iterable[TraceJob], machines: Sequence[Machine], end_ms: int, *, stretched: bool, share_there: float = 1.0
) -> int:
    """Nano-dollars that no way of clearing exceeds, if it is judged up to `end_ms`.

    stretched: whether a job may last longer than its patience and its time (churn, elastic gangs). share_there: the most that is
    there of the machines, of all time.
    """
    weeks = min(MOST_WEEKS, -(-end_ms // WEEK_MS)) or 1
    week_ms = -(-end_ms // weeks)
    types = sorted({(one.gpu, one.region, one.vram_gib, one.ask_nanos) for one in machines})
    place = {one: number for number, one in enumerate(types)}
    capacity = [0] * len(types)
    for one in machines:
        capacity[place[one.gpu, one.region, one.vram_gib, one.ask_nanos]] += int(one.gpus * week_ms * min(1.0, share_there)) + 1
    kinds, groups = _grouped(jobs, week_ms, weeks, stretched)
    takes = [[at for at, one in enumerate(types) if _takes(kind, one)] for kind in kinds]
    groups = [group for group in groups if takes[group.kind]]
    asks = [one[3] for one in types]
    prices = [[0] * weeks for _ in types]
    scale = max(asks, default=0)
    best = _dual(groups, takes, asks, prices, capacity, None)
    for step in range(STEPS):
        demand = [[0] * weeks for _ in types]
        best = min(best, _dual(groups, takes, asks, prices, capacity, demand))
        size = FIRST_STEP * scale * (1 - step / STEPS) ** 2
        for own, wanted, room in zip(prices, demand, capacity, strict=True):
            for week in range(weeks):
                over = (wanted[week] - room) / max(room, wanted[week], 1)
                own[week] = max(0, own[week] + int(size * over))
    best = min(best, _dual(groups, takes, asks, prices, capacity, None))
    return -(-best // MS_PER_HOUR)


def _takes(kind: Class, one: tuple[str, str, float, int]) -> bool:
    models, regions, vram_gib = kind
    return one[2] >= vram_gib and (not models or one[0] in models) and (not regions or one[1] in regions)


def _grouped(jobs: Iterable[TraceJob], week_ms: int, weeks: int, stretched: bool) -> tuple[list[Class], list[_Group]]:
    number: dict[Class, int] = {}
    found: dict[tuple[int, int, int], dict[int, int]] = {}
    for job in jobs:
        kind = number.setdefault((job.models, job.regions, job.vram_gib), len(number))
        loose = stretched or job.patience_ms is None or job.gpus_min < job.gpus_max or job.interruptible
        over_ms = job.submitted_ms + (job.patience_ms or 0) + job.duration_ms + MS_PER_HOUR
        last = weeks - 1 if loose else min(weeks - 1, over_ms // week_ms)
        limits = found.setdefault((kind, min(weeks - 1, job.submitted_ms // week_ms), last), {})
        limits[job.limit_nanos] = limits.get(job.limit_nanos, 0) + job.gpu_ms
    groups: list[_Group] = []
    for (kind, first, last), limits in found.items():
        ascending = sorted(limits)
        hours = [*accumulate(limits[limit] for limit in reversed(ascending))][::-1]
        value = [*accumulate(limits[limit] * limit for limit in reversed(ascending))][::-1]
        groups.append(_Group(kind, first, last, ascending, [*hours, 0], [*value, 0]))
    return list(number), groups


def _dual(
    groups: Sequence[_Group], takes: Sequence[Sequence[int]], asks: Sequence[int], prices: Sequence[Sequence[int]],
    capacity: Sequence[int], demand: list[list[int]] | None,
) -> int:  # fmt: skip
    """The bound at these prices, in nano-dollars × ms per hour; what would be asked for is added to `demand`."""
    weeks = len(prices[0]) if prices else 0
    total = sum(room * sum(own) for room, own in zip(capacity, prices, strict=True))
    cheapest = [
        [min((asks[at] + prices[at][week], at) for at in types) if types else (0, 0) for week in range(weeks)] for types in takes
    ]
    for group in groups:
        by_week = cheapest[group.kind]
        (price, at), week = min((by_week[week], week) for week in range(group.first, group.last + 1))
        place = bisect_right(group.limits, price)
        total += group.value_from[place] - price * group.hours_from[place]
        if demand is not None:
            demand[at][week] += group.hours_from[place]
    return total
