"""Clear a book: whom the engine seats where, what it is worth, and the proof of how much more there could be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from market.engine import improving
from market.engine.arrays import OUTWARD_RENTS, Arrays, Reals, Wholes
from market.engine.book import Book, Fairness, book_of, value_nanos
from market.engine.columns import JOB_COLUMNS, NANOS, OFFER_COLUMNS, jobs_of, offers_of
from market.engine.memory import Memory, resume
from market.engine.seating import Dual, Prices, Seating

DEFAULT_SEED = 1
LOOKS = 1_000_000
DUAL_SHARE = 0.5
WARM_DUAL_SHARE = 0.4
HEAT = 0.1
MOST_EVICTED = 256


@dataclass(frozen=True, slots=True)
class Cleared:
    """Seats as three arrays of one length: rows of jobs and offers in their tables, and GPUs. Exact nano-dollars.

    `objective_nanos` is the welfare with the weights and the ageing of the book's fairness, and `bound_nanos` an upper bound
    of every feasible clearing's objective; None where it was not asked for. In a plain book objective and welfare are one.
    `memory` is what the next clearing may begin with.
    """

    job_rows: Wholes
    offer_rows: Wholes
    gpus: Wholes
    welfare_nanos: int
    objective_nanos: int
    bound_nanos: int | None
    budget: int
    memory: Memory

    def rows(self) -> list[tuple[int, int, int]]:
        """The seats, (row of a job, row of an offer, GPUs), in this order."""
        order = np.lexsort((self.gpus, self.offer_rows, self.job_rows))
        job, offer, gpus = (one[order].tolist() for one in (self.job_rows, self.offer_rows, self.gpus))
        return list(zip(job, offer, gpus, strict=True))


@dataclass(frozen=True, slots=True)
class Solved:
    """The same in places of the arrays, for whoever made them without tables. `bound` in nano-dollars × nano-hours."""

    seating: Seating
    prices: Reals
    budget_prices: Reals
    bound: Fraction | None


class Wishes:
    """Scratch of the improvement, and which jobs want each bucket."""

    def __init__(self, arrays: Arrays, slots: int) -> None:
        self.kept = (
            np.zeros(MOST_EVICTED, dtype=np.int64), np.zeros(1, dtype=np.int64),
            np.zeros(len(arrays.job), dtype=np.int64), np.zeros(MOST_EVICTED + 1, dtype=np.int64),
            np.zeros(slots, dtype=np.int64), np.zeros(slots, dtype=np.int64), np.zeros(MOST_EVICTED),
        )  # fmt: skip
        self.work = (np.zeros(MOST_EVICTED), np.zeros(MOST_EVICTED, dtype=np.int64))
        begin, sizes = arrays.job["list_first"], arrays.job["list_last"] - arrays.job["list_first"]
        ends = np.cumsum(sizes)
        places = np.repeat(begin - (ends - sizes), sizes) + np.arange(int(sizes.sum()))
        buckets, jobs = arrays.lists["bucket"][places], np.repeat(np.arange(len(sizes)), sizes)
        order = np.argsort(buckets, kind="stable")
        counts = np.bincount(buckets, minlength=len(arrays.bucket))
        self.wanting = (np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts))), jobs[order])


def greedy(book: Book, order: Wholes) -> Cleared:
    """Every job in this order takes the cheapest seats that are left: the baseline, and the start of the engine."""
    seating = Seating(book.arrays)
    seating.fill(order, seating.nothing)
    return _cleared(book, Solved(seating, seating.nothing[0], seating.nothing[2], None), 0)


def by_value(arrays: Arrays) -> Wholes:
    """Jobs by what a GPU is worth to them (limit × hours, weighted), dearest first, then by id."""
    return np.argsort(-arrays.job["rank"], kind="stable")


def default_budget(arrays: Arrays) -> int:
    """Million looks by the size of the book: 7 up to 1,000 × 300, 179 for 10,000 × 3,000, at most 250."""
    size = len(arrays.offer) + 10 * len(arrays.job)
    return min(250, max(7, 2 + math.isqrt(size**3) // 45_000))


def solve(
    book: Book,
    *,
    budget: int | None = None,
    seed: int = DEFAULT_SEED,
    bound: bool = False,
    memory: Memory | None = None,
) -> Cleared:
    """Clear the book with an effort of `budget` million looks, beginning with what an earlier clearing left in `memory`.

    The same book, budget, seed and memory give the same bits.
    """
    effort = default_budget(book.arrays) if budget is None else budget
    solved = solve_arrays(
        book.arrays, effort, seed, bound=bound, before=None if memory is None else resume(book, memory)
    )
    return _cleared(book, solved, effort)


def solve_arrays(
    arrays: Arrays, effort: int, seed: int, *, bound: bool, before: tuple[Seating, Reals, Reals] | None = None
) -> Solved:
    """See `solve`. `before`: who sits already, and prices of offers and budgets to begin with."""
    seating = _begun(arrays) if before is None else before[0]
    if before is not None:
        prices = seating.priced(before[1], before[2])
        seating.fill(by_value(arrays), prices)
        seating.fill(by_value(arrays), seating.nothing)
    dual = Dual(seating, seed, None if before is None else before[1:])
    if effort or bound:
        dual.descend(int(effort * LOOKS * (DUAL_SHARE if before is None else WARM_DUAL_SHARE)))
    if len(arrays.job) and len(arrays.offer) and effort:
        start = float(seating.gain.sum())
        _improve(seating, dual.priced(), dual.best, effort * LOOKS, seed, HEAT if before is None else 0.0)
        if seating.gain.sum() < start and before is None:  # too little effort to cool down
            seating = _begun(arrays)
        seating.fill(by_value(arrays), seating.nothing)  # nobody goes empty who could use what is left
    proven = None
    if bound:
        proven = outward(dual.best_prices, seating.whole[0], seating.evaluate(dual.priced()))
    return Solved(seating, dual.best_prices, dual.best_budgets, proven)


def _begun(arrays: Arrays) -> Seating:
    seating = Seating(arrays)
    seating.fill(by_value(arrays), seating.nothing)
    return seating


def _improve(seating: Seating, prices: Prices, bound: float, until: int, seed: int, heat: float) -> None:
    arrays = seating.arrays
    wishes = Wishes(arrays, int(seating.slot_first[-1]))
    generator = np.asarray([seed * 2 + 1], dtype=np.uint64)
    seated = seating.gain[seating.gain > 0]
    warmth = heat * float(np.median(seated)) if len(seated) else 0.0
    missing = bound * (1.0 - 1e-12) - float(seating.gain.sum())
    improving.improve(
        arrays, prices, seating.nothing, seating.whole, seating.state, seating.gain, seating.room,
        wishes.kept, wishes.work, wishes.wanting, warmth, missing, until, seating.looks, generator,
    )  # fmt: skip


def warm_up() -> None:
    """Load the compiled loops from numba's cache, or compile them (once on a machine, a minute)."""
    text = ["a", "g", "1", "1", "1", "r", "1", "1", "0", "none"]
    wish = ["a", "1", "1", "", "", "0", "2", "1", "", "none", "false", "true"]
    book = book_of(offers_of(OFFER_COLUMNS, [text]), jobs_of(JOB_COLUMNS, [wish]))
    solve(book, budget=1, bound=True, memory=solve(book, budget=0).memory)


def _cleared(book: Book, solved: Solved, budget: int) -> Cleared:
    jobs, offers, gpus, _ = solved.seating.seated()
    made = made_of_seats(book, jobs, offers, gpus)
    welfare = sum(value for _, _, value in made) // NANOS
    objective = welfare if book.fairness.plain else _objective_nanos(book, made)
    bound = None if solved.bound is None else math.ceil(solved.bound / NANOS)
    memory = Memory(book.offer_ids, solved.prices, book.job_ids, solved.budget_prices, np.stack((jobs, offers, gpus)))
    return Cleared(book.job_rows[jobs], book.offer_rows[offers], gpus, welfare, objective, bound, budget, memory)


def made_of_seats(book: Book, jobs: Wholes, offers: Wholes, gpus: Wholes) -> list[tuple[int, int, int]]:
    """(row, GPUs, plain welfare in nano-dollars × nano-hours) of each job that has seats, in whole arithmetic.

    Args:
        jobs, offers: the places of each seat in the arrays, by job.
    """
    first = np.flatnonzero(np.diff(jobs, prepend=-1))
    if not len(first):
        return []
    asks = gpus * book.arrays.offer["price"][offers].astype(np.int64)
    found = []
    for begin, end, count, paid in zip(
        first.tolist(), [*first[1:].tolist(), len(jobs)], np.add.reduceat(gpus, first).tolist(),
        np.add.reduceat(asks, first).tolist(), strict=True,
    ):  # fmt: skip
        row = int(book.job_rows[jobs[begin]])
        if book.jobs.goodput[row]:
            rows = book.offer_rows[offers[begin:end]].tolist()
            value = value_nanos(book, row, list(zip(rows, gpus[begin:end].tolist(), strict=True)))
        else:
            value = (book.jobs.limit_nanos[row] * count - paid) * book.jobs.hours[row]
        found.append((row, count, value))
    return found


def _objective_nanos(book: Book, made: list[tuple[int, int, int]]) -> int:
    """The welfare with weights and ageing, rounded down once."""
    fairness: Fairness = book.fairness
    total = sum(
        fairness.weight(book.jobs.team[row]) * (value + fairness.ageing_nanos * book.jobs.waited[row] * count)
        for row, count, value in made
    )
    return total // NANOS**2


def outward(prices: Reals, gpus: Wholes, profits: Reals) -> Fraction:
    """The bound, rounded up: `profits` are already upper bounds of what each job could gain."""
    rents = prices * gpus * (1.0 + OUTWARD_RENTS)
    total = math.fsum(rents.tolist()) + math.fsum(profits.tolist())
    return Fraction(total) * (1 + Fraction(1, 2**50))
