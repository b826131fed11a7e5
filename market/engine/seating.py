"""Who sits where while the engine works, and the prices of seats that make the dual small."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from market.engine import pricing
from market.engine.arrays import Arrays, Reals, Wholes

DUAL_STEP = 0.05
LAST_STEP = 0.0005
MOST_PASSES = 400
WARM_STEP = 0.01

NO_STEP = np.zeros(0)

Prices = tuple[Reals, Reals, Reals]


class Seating:
    """The arrays are shared with the compiled loops. `gain` is what each job's seats are worth in the objective."""

    def __init__(self, arrays: Arrays) -> None:
        offers, jobs = len(arrays.offer), len(arrays.job)
        self.arrays = arrays
        self.looks = np.zeros(1, dtype=np.int64)
        self.gain = np.zeros(jobs)
        rooms = np.minimum(arrays.job["most"], offers)
        self.slot_first = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(rooms)))
        users = np.minimum(arrays.offer["gpus"], jobs)
        user_first = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(users)))
        nobody, none = np.zeros(offers, dtype=np.int64), np.zeros(0, dtype=np.int32)
        gpus = np.ascontiguousarray(arrays.offer["gpus"])
        self.whole = (gpus, arrays.block_gpus, nobody, user_first, none, none, arrays.team_gpus)
        self.free = (
            gpus.copy(), arrays.block_gpus.copy(), np.zeros(offers, dtype=np.int64), user_first,
            np.zeros(user_first[-1], dtype=np.int32), np.zeros(user_first[-1], dtype=np.int32), arrays.team_gpus.copy(),
        )  # fmt: skip
        self.slots = np.zeros(jobs, dtype=np.int64)
        slots = int(self.slot_first[-1])
        self.state = (
            self.free,
            self.slot_first,
            self.slots,
            np.zeros(slots, dtype=np.int32),
            np.zeros(slots, dtype=np.int32),
        )
        self.nothing: Prices = (np.zeros(offers), np.zeros(len(arrays.block_gpus)), np.zeros(jobs))
        self.room = scratch(offers, len(arrays.block_gpus), self.nothing)

    def fill(self, order: Wholes, prices: Prices) -> None:
        """Seat unmatched jobs in this order."""
        self._visit(pricing.FILL, order, prices, self.free, self.gain)

    def _visit(
        self, task: int, order: Wholes, prices: Prices, free: tuple[Any, ...], found: Reals, step: Reals = NO_STEP,
        share: float = 0.0,
    ) -> None:  # fmt: skip
        pricing.visit(self.arrays, task, order, prices, free, self.state, found, step, share, self.room, self.looks)

    def towards(self, order: Wholes, prices: Prices, step: Reals, share: float) -> None:
        """A pass that changes the prices."""
        self._visit(pricing.PASS, order, prices, self.whole, self.gain, step, share)
        pricing.fall(self.arrays, prices, step)
        self.looks[0] += 8 * len(order) + len(step)

    def pays(self, jobs: Wholes) -> Reals:
        """0 for each job of `jobs` (at its place) whose budget pays for no gang, 2 where none makes as much as it costs."""
        found = np.ones(len(self.gain))
        self._visit(pricing.PAYS, jobs, self.nothing, self.whole, found)
        return found

    def priced(self, per_gpu: Reals, budgets: Reals) -> Prices:
        """Prices as the loops take them."""
        lows = np.zeros(len(self.arrays.block_gpus))
        pricing.lowest(self.arrays, per_gpu, lows)
        return per_gpu, lows, budgets

    def evaluate(self, prices: Prices) -> Reals:
        """An upper bound of what each job could gain at these prices."""
        profits = np.zeros(len(self.gain))
        self._visit(pricing.BOUND, np.arange(len(profits)), prices, self.whole, profits)
        return profits

    def seated(self) -> tuple[Wholes, Wholes, Wholes, Wholes]:
        """(jobs, offers, GPUs, 1 where the job owns the offer) of all seats, by job."""
        jobs = np.repeat(np.arange(len(self.slots)), self.slots)
        ends = np.cumsum(self.slots)
        places = np.repeat(self.slot_first[:-1] - (ends - self.slots), self.slots) + np.arange(len(jobs))
        found = self.state[3][places].astype(np.int64)
        owned = (found < 0).astype(np.int64)
        return jobs, np.where(found < 0, ~found, found), self.state[4][places].astype(np.int64), owned


def scratch(offers: int, blocks: int, nothing: Prices) -> tuple[Reals | Wholes, ...]:
    """What `choose` works in: costs and seats of the heap, GPUs taken, the best seats and GPUs, the heap of blocks, no prices."""
    cells = offers + 1
    return (
        np.zeros(cells), np.zeros(cells, dtype=np.int64), np.zeros(cells, dtype=np.int64),
        np.zeros(cells, dtype=np.int64), np.zeros(cells, dtype=np.int64),
        np.zeros(blocks + 1), np.zeros(blocks + 1, dtype=np.int64), *nothing,
    )  # fmt: skip


class Dual:
    """Prices of GPUs beside the asks, for a whole lease, and of money in the budgets, which make the dual small.

    Any prices that are not negative prove a bound (Lagrange); good ones also say who should sit where.
    """

    def __init__(self, seating: Seating, seed: int, begin: tuple[Reals, Reals] | None = None) -> None:
        self.seating = seating
        arrays = seating.arrays
        floor = np.zeros(len(arrays.offer))
        pricing.marginal(arrays, seating.free, floor)
        typical = float(floor[floor > 0].mean()) if (floor > 0).any() else 0.0
        self.scale = np.where(floor > 0, floor, 0.3 * typical)
        self.warm = begin is not None
        self.prices, self.budgets = (0.25 * floor, np.zeros(len(arrays.job))) if begin is None else begin
        self.best_prices, self.best_budgets = np.zeros_like(floor), np.zeros(len(arrays.job))
        self.best = math.inf
        self.random = np.random.Generator(np.random.PCG64(seed))

    def descend(self, looks: int) -> None:
        """Passes with ever smaller steps, until about so many looks; keeps the prices with the least dual."""
        seating, begun = self.seating, self.seating.looks[0]
        self._judge()
        first = WARM_STEP if self.warm else DUAL_STEP
        share, passes, prices = 0.0, 0, seating.priced(self.prices, self.budgets)
        while share < 1.0 and len(seating.gain):
            passes += 1
            part = first * (1.0 - share) + LAST_STEP
            order = self.random.permutation(len(seating.gain))
            seating.towards(order, prices, self.scale * part, part)
            share = max((seating.looks[0] - begun) / max(1, looks), passes / MOST_PASSES)
            if share > 0.5:
                self._judge()

    def _judge(self) -> None:
        profits = self.seating.evaluate(self.seating.priced(self.prices, self.budgets))
        value = float(profits.sum() + (self.prices * self.seating.whole[0]).sum())
        if value < self.best:
            self.best, self.best_prices, self.best_budgets = value, self.prices.copy(), self.budgets.copy()

    def priced(self) -> Prices:
        """The best prices as the loops take them."""
        return self.seating.priced(self.best_prices, self.best_budgets)
