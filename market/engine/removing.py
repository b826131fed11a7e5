"""Compiled: how many GPUs each requirement of a job leaves."""

from __future__ import annotations

from typing import Any

from market.engine.compiling import compiled


@compiled
def count_removed(book: Any, jobs: Any, stages: Any) -> Any:
    """For each of `jobs` how many GPUs are left after each requirement; the last column is of the best group alone.

    Columns: buckets, reliability, interconnect, max_hours, deadline, price, one group.
    """
    for row in range(len(jobs)):
        job, best = jobs[row], 0
        for group in range(book.job[job].group_first, book.job[job].group_last):
            here = 0
            for at in range(book.group[group].begin, book.group[group].end):
                bucket = book.lists[at].bucket
                for offer in range(book.bucket[bucket].first, book.bucket[bucket].last):
                    gpus = book.offer[offer].gpus
                    stages[row, 0] += gpus
                    if book.offer[offer].reliability < book.job[job].reliability_min:
                        continue
                    stages[row, 1] += gpus
                    if book.offer[offer].interconnect < book.job[job].interconnect_min:
                        continue
                    stages[row, 2] += gpus
                    if book.offer[offer].max_hours < book.job[job].hours:
                        continue
                    stages[row, 3] += gpus
                    if book.offer[offer].available + book.job[job].hours > book.job[job].deadline:
                        continue
                    stages[row, 4] += gpus
                    if book.lists[at].owned == 0 and book.offer[offer].price > book.job[job].limit:
                        continue
                    stages[row, 5] += gpus
                    here += gpus
            best = max(best, here)
        stages[row, 6] = best
