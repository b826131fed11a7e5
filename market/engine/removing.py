"""Compiled: how many GPUs each requirement of a job leaves."""

from __future__ import annotations

from typing import Any

from market.engine.compiling import compiled


@compiled
def count_removed(book: Any, offers: Any, jobs: Any, stages: Any) -> Any:
    """For each of `jobs` how many GPUs are left after each requirement; the last column is of the best group alone.

    Columns: buckets, reliability, interconnect, max_hours, deadline, price, one group. `offers` are GPUs, reliability,
    interconnect, max_hours, available and price of every offer, an array of each: with those and without a branch the innermost
    loop takes several offers in one step.
    """
    for row in range(len(jobs)):
        job, best = book.job[jobs[row]], 0
        least, level, hours, deadline, limit = (
            job.reliability_min, job.interconnect_min, job.hours, job.deadline, job.limit,
        )  # fmt: skip
        for group in range(job.group_first, job.group_last):
            here = 0
            for at in range(book.group[group].begin, book.group[group].end):
                bucket, owned = book.bucket[book.lists[at].bucket], book.lists[at].owned != 0
                first, last = bucket.first, bucket.last
                gpus, reliability, interconnect = offers[0][first:last], offers[1][first:last], offers[2][first:last]
                max_hours, available, price = offers[3][first:last], offers[4][first:last], offers[5][first:last]
                listed = sure = linked = long = early = cheap = 0
                for offer in range(len(gpus)):
                    left = gpus[offer]
                    listed += left
                    left = left if reliability[offer] >= least else 0
                    sure += left
                    left = left if interconnect[offer] >= level else 0
                    linked += left
                    left = left if max_hours[offer] >= hours else 0
                    long += left
                    left = left if available[offer] + hours <= deadline else 0
                    early += left
                    cheap += left if owned or price[offer] <= limit else 0
                stages[row, 0] += listed
                stages[row, 1] += sure
                stages[row, 2] += linked
                stages[row, 3] += long
                stages[row, 4] += early
                stages[row, 5] += cheap
                here += cheap
            best = max(best, here)
        stages[row, 6] = best
