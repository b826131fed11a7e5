"""Why a job got nothing: the first requirement that left it fewer GPUs than its smallest gang, or who outbid it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np

from market.engine.arrays import UNBOUNDED, Wholes
from market.engine.book import Book
from market.engine.columns import INTERCONNECTS, NANOS
from market.engine.removing import count_removed
from market.engine.seating import Seating
from storage.units import counted


class Reason(StrEnum):
    """In the order in which requirements are looked at."""

    NO_OFFERS = "no_offers"
    GANG_TOO_BIG = "gang_too_big"
    GPU_MODEL = "gpu_model"
    REGION = "region"
    VRAM_TOO_SMALL = "vram_too_small"
    RELIABILITY = "reliability"
    INTERCONNECT = "interconnect"
    MAX_HOURS = "max_hours"
    DEADLINE = "deadline"
    PRICE_TOO_LOW = "price_too_low"
    SAME_REGION = "same_region"
    SAME_MODEL = "same_model"
    BUDGET_TOO_SMALL = "budget_too_small"
    VALUE_TOO_LOW = "value_too_low"
    OUTBID = "outbid"


STAGES = (
    Reason.REGION, Reason.VRAM_TOO_SMALL, Reason.RELIABILITY, Reason.INTERCONNECT, Reason.MAX_HOURS, Reason.DEADLINE,
    Reason.PRICE_TOO_LOW, Reason.SAME_REGION,
)  # fmt: skip

LOOKED_AT = (
    ("gpus", np.int64), ("reliability", np.float64), ("interconnect", np.int64), ("max_hours", np.float64),
    ("available", np.float64), ("price", np.float64),
)  # fmt: skip
"""What `count_removed` looks at in an offer."""


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
    jobs = np.asarray([places[row] for row in unmatched], dtype=np.int64)
    stages = np.zeros((len(unmatched), 7), dtype=np.int64)
    offers = tuple(np.ascontiguousarray(book.arrays.offer[name], dtype=kind) for name, kind in LOOKED_AT)
    count_removed(book.arrays, offers, jobs, stages)
    paid = _paid(book, jobs)
    by_model: dict[str, int] = {}
    by_place: dict[tuple[str, str], int] = {}
    for gpu, region, gpus in zip(book.offers.gpu, book.offers.region, book.offers.gpus, strict=True):
        by_model[gpu] = by_model.get(gpu, 0) + gpus
        by_place[gpu, region] = by_place.get((gpu, region), 0) + gpus

    @cache
    def offered(models: tuple[str, ...], speeds: tuple[tuple[str, int], ...], regions: tuple[str, ...]) -> tuple[int, int]:
        """GPUs of these models, and of those in these regions."""
        names = set(models or by_model)
        if speeds:
            names &= {name for name, _ in speeds}
        here = (gpus for (gpu, region), gpus in by_place.items() if gpu in names and (not regions or region in regions))
        return sum(by_model.get(name, 0) for name in names), sum(here)

    found, whole = [], sum(by_model.values())
    for row, left, pays in zip(unmatched, stages.tolist(), paid.tolist(), strict=True):
        of_models, here = offered(book.jobs.gpu[row], book.jobs.speeds[row], book.jobs.regions[row])
        found.append(_reason(book, row, whole, of_models, [here, *left], pays))
    return found


def _paid(book: Book, jobs: Wholes) -> Wholes:
    """0 for each of `jobs` whose budget pays for no gang, 2 where none makes as much as it costs, else 1. Both can only be of
    jobs with a budget or a curve: what a plain job may have costs no more than its limit."""
    columns, paid = book.arrays.job[jobs], np.ones(len(jobs), dtype=np.int64)
    bounded = np.flatnonzero((columns["rate_max"] < UNBOUNDED) | (columns["curve_first"] >= 0))
    if len(bounded):
        paid[bounded] = Seating(book.arrays).pays(jobs[bounded])[jobs[bounded]]
    return paid


def _reason(book: Book, row: int, offered: int, of_models: int, left: list[int], pays: int) -> Unmatched:
    needed = book.jobs.gpus_min[row] if book.jobs.gang[row] else 1
    if not offered:
        return Unmatched(row, Reason.NO_OFFERS, "nothing is offered")
    if offered < needed:
        return Unmatched(row, Reason.GANG_TOO_BIG, f"needs {counted(needed, 'GPU')}, {offered:,} are offered in all")
    if of_models < needed:
        return Unmatched(row, Reason.GPU_MODEL, f"needs {counted(needed, 'GPU')}, {of_models:,} of its models are offered")
    before = of_models
    for reason, after in zip(STAGES, left, strict=True):
        if after < needed:
            detail = f"needs {counted(needed, 'GPU')}; of {before:,} {_wanted(book, row, reason)} leaves {after:,}"
            one_model = reason is Reason.SAME_REGION and not book.jobs.same_region[row]
            return Unmatched(row, Reason.SAME_MODEL if one_model else reason, detail)
        before = after
    if pays == 2:
        return Unmatched(
            row, Reason.VALUE_TOO_LOW, f"{counted(before, 'GPU')} would fit; no gang of them makes as much as it costs"
        )
    if not pays:
        budget = book.jobs.budget_nanos[row]
        if budget is not None:
            least = f"budget_usd {budget / NANOS:g} does not pay for {needed} of {before} GPUs for {book.jobs.hours[row] / NANOS:g} hours"
            return Unmatched(row, Reason.BUDGET_TOO_SMALL, least)
    return Unmatched(row, Reason.OUTBID, f"{counted(before, 'GPU')} would fit; other jobs make more of them")


def _wanted(book: Book, row: int, reason: Reason) -> str:
    jobs = book.jobs
    match reason:
        case Reason.REGION:
            return f"regions {'|'.join(jobs.regions[row])}"
        case Reason.VRAM_TOO_SMALL:
            return f"vram_gib_min {jobs.vram_gib_min[row]:g}"
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
            return (
                "same_region, in the region with the most," if jobs.same_region[row] else "one model for the whole gang"
            )
