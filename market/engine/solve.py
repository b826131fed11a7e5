"""Clear a book: whom the engine seats where, what it is worth, and the proof of how much more there could be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from market.engine import kernels
from market.engine.book import Arrays, Book, Reals, Wholes, book_of
from market.engine.columns import JOB_COLUMNS, NANOS, OFFER_COLUMNS, jobs_of, offers_of

DEFAULT_SEED = 1
LOOKS = 1_000_000
DUAL_SHARE = 0.5
HEAT = 0.1
DUAL_STEP = 0.05
CHUNKS = 20
MOST_EVICTED = 256
MOST_PASSES = 400


@dataclass(frozen=True, slots=True)
class Cleared:
    """Seats as three arrays of one length: rows of jobs and offers in their tables, and GPUs. Exact nano-dollars.

    `bound_nanos` is an upper bound of every feasible clearing's welfare; None where it was not asked for.
    """

    job_rows: Wholes
    offer_rows: Wholes
    gpus: Wholes
    welfare_nanos: int
    bound_nanos: int | None
    budget: int


class Seating:
    """Who sits where while the engine works. The arrays are shared with the compiled loops."""

    def __init__(self, arrays: Arrays) -> None:
        offers, jobs = len(arrays.price), len(arrays.limit)
        self.arrays = arrays
        self.looks = np.zeros(1, dtype=np.int64)
        self.gain = np.zeros(jobs)
        rooms = np.minimum(arrays.most, offers)
        self.slot_first = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(rooms)))
        users = np.minimum(arrays.gpus, jobs)
        user_first = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(users)))
        self.state = (
            (arrays.gpus.copy(), arrays.block_gpus.copy()), self.slot_first, np.zeros(jobs, dtype=np.int64),
            np.zeros(self.slot_first[-1], dtype=np.int32), np.zeros(self.slot_first[-1], dtype=np.int32),
            user_first, np.zeros(offers, dtype=np.int64), np.zeros(user_first[-1], dtype=np.int32),
        )  # fmt: skip
        cells = offers + 1
        self.room = (
            np.zeros(cells), np.zeros(cells, dtype=np.int64), np.zeros(cells, dtype=np.int64),
            np.zeros(cells, dtype=np.int64), np.zeros(cells, dtype=np.int64),
            np.zeros(cells), np.zeros(cells, dtype=np.int64),
        )  # fmt: skip

    def fill(self, order: Wholes, prices: Reals) -> float:
        """Seat unmatched jobs in this order."""
        return float(
            kernels.fill(self.arrays, order, self.lowest(prices), self.state, self.gain, self.room, self.looks)
        )

    def lowest(self, prices: Reals) -> tuple[Reals, Reals]:
        """Prices, and the least of each block."""
        lows = np.zeros(len(self.arrays.block_gpus))
        kernels.lowest(self.arrays, prices, lows)
        return prices, lows

    def evaluate(self, prices: Reals) -> Reals:
        """An upper bound of what each job could gain at these prices."""
        profits, demand = np.zeros(len(self.arrays.limit)), np.zeros(len(prices))
        kernels.evaluate(self.arrays, self.lowest(prices), profits, demand, self.room, self.looks)
        return profits


class Dual:
    """Prices of seats beside the asks, per offer and seat for a whole lease, which make the dual small.

    Any prices that are not negative prove a bound (Lagrange); good ones also say who should sit where.
    """

    def __init__(self, seating: Seating, seed: int) -> None:
        self.seating = seating
        arrays = seating.arrays
        floor = self._marginal()
        typical = float(floor[floor > 0].mean()) if (floor > 0).any() else 0.0
        self.scale = np.where(floor > 0, floor, 0.3 * typical)
        self.prices = 0.25 * floor
        self.best_prices, self.best = np.zeros_like(floor), math.inf
        self.random = np.random.Generator(np.random.PCG64(seed))
        self.jobs = len(arrays.limit)

    def _marginal(self) -> Reals:
        """What the least of its tenants would lose with a seat, where an offer is full."""
        arrays = self.seating.arrays
        (free, _), _, _, _, _, user_first, users, user_job = self.seating.state
        floor = np.zeros(len(free))
        for offer in np.flatnonzero((free == 0) & (users > 0)):
            sitting = user_job[user_first[offer] : user_first[offer] + users[offer]]
            floor[offer] = (arrays.hours[sitting] * (arrays.limit[sitting] - arrays.price[offer])).min()
        return floor

    def descend(self, looks: int) -> None:
        """Passes with ever smaller steps, until about so many looks; keeps the prices with the least dual."""
        begun = self.seating.looks[0]
        self._judge()
        share, passes, pair = 0.0, 0, self.seating.lowest(self.prices)
        while share < 1.0 and self.jobs:
            passes += 1
            step = self.scale * (DUAL_STEP * (1.0 - share) + 0.0005)
            order = self.random.permutation(self.jobs)
            kernels.dual_pass(self.seating.arrays, order, pair, step, self.seating.room, self.seating.looks)
            share = max((self.seating.looks[0] - begun) / max(1, looks), passes / MOST_PASSES)
            if share > 0.5:
                self._judge()

    def _judge(self) -> None:
        profits = self.seating.evaluate(self.prices)
        value = float(profits.sum() + (self.prices * self.seating.arrays.gpus).sum())
        if value < self.best:
            self.best, self.best_prices = value, self.prices.copy()

    def bound_nanos(self) -> int:
        """The proven bound at the best prices, in nano-dollars, rounded up."""
        return _outward(self.best_prices, self.seating.arrays.gpus, self.seating.evaluate(self.best_prices))


class Wishes:
    """Scratch of the improvement, and which jobs want each bucket."""

    def __init__(self, arrays: Arrays, slots: int) -> None:
        self.kept = (
            np.zeros(MOST_EVICTED, dtype=np.int64), np.zeros(1, dtype=np.int64),
            np.zeros(len(arrays.limit), dtype=np.int64), np.zeros(MOST_EVICTED + 1, dtype=np.int64),
            np.zeros(slots, dtype=np.int64), np.zeros(slots, dtype=np.int64), np.zeros(MOST_EVICTED),
        )  # fmt: skip
        self.work = (np.zeros(MOST_EVICTED), np.zeros(MOST_EVICTED, dtype=np.int64))
        sizes = np.diff(arrays.list_first)
        wanted = [
            arrays.lists[arrays.list_first[one] : arrays.list_first[one] + sizes[one]] for one in arrays.signature
        ]
        buckets = np.concatenate([np.zeros(0, dtype=np.int64), *wanted])
        jobs = np.repeat(np.arange(len(arrays.signature)), sizes[arrays.signature])
        order = np.argsort(buckets, kind="stable")
        counts = np.bincount(buckets, minlength=len(arrays.region_of))
        self.wanting = (np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts))), jobs[order])


def greedy(book: Book, order: Wholes) -> Cleared:
    """Every job in this order takes the cheapest seats that are left: the baseline, and the start of the engine."""
    seating = Seating(book.arrays)
    seating.fill(order, np.zeros(len(book.arrays.price)))
    return _cleared(book, seating, None, 0)


def by_value(arrays: Arrays) -> Wholes:
    """Jobs by limit × hours, dearest first, then by id."""
    return np.argsort(-(arrays.limit * arrays.hours), kind="stable")


def default_budget(arrays: Arrays) -> int:
    """Million looks by the size of the book: 12 up to 1,000 × 300, 179 for 10,000 × 3,000, at most 250."""
    size = len(arrays.price) + 10 * len(arrays.limit)
    return min(250, max(12, 2 + math.isqrt(size**3) // 45_000))


def solve(book: Book, *, budget: int | None = None, seed: int = DEFAULT_SEED, bound: bool = False) -> Cleared:
    """Clear the book with an effort of `budget` million looks; the same book, budget and seed give the same bits."""
    arrays = book.arrays
    effort = default_budget(arrays) if budget is None else budget
    nothing = np.zeros(len(arrays.price))
    seating = _begun(arrays, nothing)
    dual = Dual(seating, seed)
    if effort or bound:
        dual.descend(int(effort * LOOKS * DUAL_SHARE))
    if len(arrays.limit) and len(arrays.price) and effort:
        before = float(seating.gain.sum())
        _improve(seating, dual, nothing, effort * LOOKS, seed)
        if seating.gain.sum() < before:  # too little effort to cool down
            seating = _begun(arrays, nothing)
    bound_nanos = dual.bound_nanos() if bound else None
    return _cleared(book, seating, bound_nanos, effort)


def _begun(arrays: Arrays, nothing: Reals) -> Seating:
    seating = Seating(arrays)
    seating.fill(by_value(arrays), nothing)
    return seating


def _improve(seating: Seating, dual: Dual, nothing: Reals, until: int, seed: int) -> None:
    arrays = seating.arrays
    wishes = Wishes(arrays, int(seating.slot_first[-1]))
    generator = np.asarray([seed * 2 + 1], dtype=np.uint64)
    seated = seating.gain[seating.gain > 0]
    heat = HEAT * float(np.median(seated)) if len(seated) else 0.0
    missing = dual.best * (1.0 - 1e-12) - float(seating.gain.sum())
    kernels.improve(
        arrays, seating.lowest(dual.best_prices), seating.lowest(nothing), seating.state, seating.gain, seating.room,
        wishes.kept, wishes.work, wishes.wanting, heat, missing, until, seating.looks, generator,
    )  # fmt: skip


def warm_up() -> None:
    """Load the compiled loops from numba's cache, or compile them (once on a machine, half a minute)."""
    text = ["a", "g", "1", "1", "1", "r", "1", "1", "0", "none"]
    wish = ["a", "1", "1", "", "", "0", "2", "1", "", "none", "false", "true"]
    solve(book_of(offers_of(OFFER_COLUMNS, [text]), jobs_of(JOB_COLUMNS, [wish])), budget=1, bound=True)


def _cleared(book: Book, seating: Seating, bound_nanos: int | None, budget: int) -> Cleared:
    _, slot_first, slots, slot_offer, slot_gpus, *_ = seating.state
    places = np.concatenate([np.zeros(0, dtype=np.int64)] + [
        np.arange(slot_first[job], slot_first[job] + slots[job]) for job in np.flatnonzero(slots)
    ])  # fmt: skip
    jobs = np.repeat(np.arange(len(slots)), slots)
    rows, offer_rows, gpus = book.job_rows[jobs], book.offer_rows[slot_offer[places]], slot_gpus[places]
    welfare = welfare_nanos(book, rows, offer_rows, gpus)
    return Cleared(rows, offer_rows, gpus.astype(np.int64), welfare, bound_nanos, budget)


def welfare_nanos(book: Book, job_rows: Wholes, offer_rows: Wholes, gpus: Wholes) -> int:
    """Σ (limit − ask) · hours · gpus in whole arithmetic, rounded down once."""
    jobs, offers = book.jobs, book.offers
    total = 0
    for job, offer, count in zip(job_rows.tolist(), offer_rows.tolist(), gpus.tolist(), strict=True):
        total += (jobs.limit_nanos[job] - offers.price_nanos[offer]) * jobs.hours[job] * count
    return total // NANOS


def _outward(prices: Reals, gpus: Wholes, profits: Reals) -> int:
    """The bound in nano-dollars, rounded up: `profits` are already upper bounds of what each job could gain."""
    rents = prices * gpus * (1.0 + kernels.OUTWARD)
    total = math.fsum(rents.tolist()) + math.fsum(profits.tolist())
    return math.ceil(Fraction(total) * (1 + Fraction(1, 2**50)) / NANOS)
