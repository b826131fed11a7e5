"""Why a job got nothing: the first requirement that left it fewer GPUs than its smallest gang, or who outbid it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from market.engine.book import Book
from market.engine.columns import INTERCONNECTS, NANOS
from market.engine.kernels import compiled


class Reason(StrEnum):
    """In the order in which requirements are looked at."""

    NO_OFFERS = "no_offers"
    GANG_TOO_BIG = "gang_too_big"
    GPU_MODEL = "gpu_model"
    REGION = "region"
    RELIABILITY = "reliability"
    INTERCONNECT = "interconnect"
    MAX_HOURS = "max_hours"
    DEADLINE = "deadline"
    PRICE_TOO_LOW = "price_too_low"
    SAME_REGION = "same_region"
    OUTBID = "outbid"


STAGES = (
    Reason.REGION, Reason.RELIABILITY, Reason.INTERCONNECT, Reason.MAX_HOURS, Reason.DEADLINE, Reason.PRICE_TOO_LOW,
    Reason.SAME_REGION,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unmatched:
    """`row` is the job's row in its table, from 0; `detail` is a sentence."""

    row: int
    reason: Reason
    detail: str


def reasons(book: Book, unmatched: list[int]) -> list[Unmatched]:
    """A reason for each of these rows of jobs, in their order."""
    if not unmatched:
        return []
    places = {row: place for place, row in enumerate(book.job_rows.tolist())}
    stages = np.zeros((len(unmatched), 7), dtype=np.int64)
    _count_removed(book.arrays, np.asarray([places[row] for row in unmatched], dtype=np.int64), stages)
    by_model: dict[str, int] = {}
    for gpu, gpus in zip(book.offers.gpu, book.offers.gpus, strict=True):
        by_model[gpu] = by_model.get(gpu, 0) + gpus
    offered = sum(by_model.values())
    found = []
    for row, left in zip(unmatched, stages.tolist(), strict=True):
        names = book.jobs.gpu[row]
        of_models = sum(by_model.get(name, 0) for name in names) if names else offered
        found.append(_reason(book, row, offered, of_models, left))
    return found


def _reason(book: Book, row: int, offered: int, of_models: int, left: list[int]) -> Unmatched:
    needed = book.jobs.gpus_min[row] if book.jobs.gang[row] else 1
    if not offered:
        return Unmatched(row, Reason.NO_OFFERS, "nothing is offered")
    if offered < needed:
        return Unmatched(row, Reason.GANG_TOO_BIG, f"needs {needed} GPUs, {offered} are offered in all")
    if of_models < needed:
        return Unmatched(row, Reason.GPU_MODEL, f"needs {needed} GPUs, {of_models} of its models are offered")
    before = of_models
    for reason, after in zip(STAGES, left, strict=True):
        if after < needed:
            detail = f"needs {needed} GPUs; of {before} {_wanted(book, row, reason)} leaves {after}"
            return Unmatched(row, reason, detail)
        before = after
    return Unmatched(row, Reason.OUTBID, f"{before} GPUs would fit; other jobs make more of them")


def _wanted(book: Book, row: int, reason: Reason) -> str:
    jobs = book.jobs
    match reason:
        case Reason.REGION:
            return f"regions {'|'.join(jobs.regions[row])}"
        case Reason.RELIABILITY:
            return f"reliability_min {jobs.reliability_min[row]:g}"
        case Reason.INTERCONNECT:
            return f"interconnect_min {INTERCONNECTS[jobs.interconnect_min[row]]}"
        case Reason.MAX_HOURS:
            return f"hours {jobs.hours[row] / NANOS:g} within max_hours"
        case Reason.DEADLINE:
            return f"deadline_hours {jobs.deadline[row] / NANOS:g}"
        case Reason.PRICE_TOO_LOW:
            return f"max_usd_per_gpu_hour {jobs.limit_nanos[row] / NANOS:g}"
        case _:
            return "same_region, in the region with the most,"


@compiled
def _count_removed(book: Any, jobs: Any, stages: Any) -> Any:
    """For each of `jobs` how many GPUs are left after each requirement; the last column is of the best region alone.

    Columns: models and regions, reliability, interconnect, max_hours, deadline, price, one region.
    """
    for row in range(len(jobs)):
        job = jobs[row]
        signature = book.signature[job]
        best, here, region = 0, 0, -1
        for bucket in book.lists[book.list_first[signature] : book.list_first[signature + 1]]:
            if book.region_of[bucket] != region:
                region, here = book.region_of[bucket], 0
            for offer in range(book.first[bucket], book.first[bucket + 1]):
                gpus = book.gpus[offer]
                stages[row, 0] += gpus
                if book.reliability[offer] < book.reliability_min[job]:
                    continue
                stages[row, 1] += gpus
                if book.interconnect[offer] < book.interconnect_min[job]:
                    continue
                stages[row, 2] += gpus
                if book.max_hours[offer] < book.hours[job]:
                    continue
                stages[row, 3] += gpus
                if book.available[offer] + book.hours[job] > book.deadline[job]:
                    continue
                stages[row, 4] += gpus
                if book.price[offer] > book.limit[job]:
                    continue
                stages[row, 5] += gpus
                here += gpus
                best = max(best, here)
        stages[row, 6] = best if book.same_region[job] != 0 else stages[row, 5]
