"""How long those who got seats had waited, and those who got none have: p50 and p99 by size of the gang and by team."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from market.engine.columns import NANOS, Jobs
from market.simulation.figures import GANGS, gang_name


def waits_of(jobs: Jobs, served: Collection[int]) -> dict[str, Any]:
    """{all, by_gang, by_team}: for each {served, waiting}, and for each of these {count, p50_hours, p99_hours}. `served` are
    rows. The size of a gang is the most that it takes."""
    rows = range(len(jobs.ids))
    return {
        "all": _split(jobs, rows, served),
        "by_gang": {
            name: _split(jobs, own, served)
            for name in [gang_name(low) for low, _ in GANGS]
            if (own := [row for row in rows if gang_name(jobs.gpus_max[row]) == name])
        },
        "by_team": {
            name: _split(jobs, [row for row in rows if jobs.team[row] == name], served) for name in sorted(set(jobs.team))
        },
    }


def _split(jobs: Jobs, rows: Iterable[int], served: Collection[int]) -> dict[str, Any]:
    found: dict[str, list[int]] = {"served": [], "waiting": []}
    for row in rows:
        found["served" if row in served else "waiting"].append(jobs.waited[row])
    return {name: _summary(sorted(waits)) for name, waits in found.items()}


def _summary(waits: list[int]) -> dict[str, Any]:
    if not waits:
        return {"count": 0, "p50_hours": None, "p99_hours": None}
    p50, p99 = (waits[-(-len(waits) * share // 100) - 1] / NANOS for share in (50, 99))
    return {"count": len(waits), "p50_hours": p50, "p99_hours": p99}
