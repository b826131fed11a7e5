"""A trace of the same shape, several times as large: its own jobs and seeded copies of them.

A copy of a tenant's jobs is another tenant's. It comes whole days later, all of it by as many, and goes on from the trace's end
at its begin, so that bursts, and hours of the day, stay; each copied job takes exp(0.1 z) times as long. So arrivals, sizes of gangs
and durations are distributed as in the trace, and mean demand is as many times as large.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Final, TypeVar

from market.simulation.trace import BareJob, TraceJob
from storage.units import MS_PER_DAY

MOST_TIMES: Final = 1_000
LENGTH_SPREAD: Final = 0.1
_NORMAL: Final = NormalDist()
OneJob = TypeVar("OneJob", BareJob, TraceJob)


def enlarged(jobs: Sequence[OneJob], times: int, seed: int) -> list[OneJob]:
    """`times` as many jobs, in order of submission; the same arguments give the same."""
    if times == 1 or not jobs:
        return list(jobs)
    days = max(1, -(-(jobs[-1].submitted_ms + 1) // MS_PER_DAY))
    source = random.Random(f"enlarged {seed}")  # noqa: S311 (repeatable, not secret)
    found: list[OneJob] = list(jobs)
    for copy in range(1, times):
        copies: dict[str, tuple[str, int]] = {}
        for job in jobs:
            tenant, shift = copies.setdefault(job.tenant, (f"{job.tenant}-{copy}", int(source.random() * days) * MS_PER_DAY))
            longer = math.exp(LENGTH_SPREAD * _NORMAL.inv_cdf(min(max(source.random(), 1e-12), 1 - 1e-12)))
            found.append(
                replace(
                    job, id=f"{job.id}-{copy}", tenant=tenant, duration_ms=max(1, round(job.duration_ms * longer)),
                    submitted_ms=(job.submitted_ms + shift) % (days * MS_PER_DAY),
                )
            )  # fmt: skip
    found.sort(key=lambda job: (job.submitted_ms, job.id))
    return found
