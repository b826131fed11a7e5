"""Compiled: one job after the other at given prices: seating it, bounding what it could gain, making what it wants dearer."""

from __future__ import annotations

from typing import Any

import numpy as np

from market.engine.compiling import compiled, inner
from market.engine.seats import OUTWARD, choose
from market.engine.sitting import put

FILL, BOUND, PASS, PAYS = 0, 1, 2, 3


@compiled
def visit(
    book: Any, task: Any, order: Any, prices: Any, free: Any, state: Any, found: Any, step: Any, share: Any, room: Any,
    looks: Any,
) -> Any:  # fmt: skip
    """Does the same for each job of `order`, among free GPUs (`free`).

    FILL: seats it if it has no seats and they pay at these prices; `found` is what each job's seats are worth.
    BOUND: `found` becomes an upper bound of what each job could gain. The dual is the sum of these and of prices × GPUs:
    what a budget is worth at its price is in the job's bound, and whoever gets nothing needs no budget.
    PASS: an incremental pass towards the dual's least: what a job takes becomes dearer (by `step`) before the next one looks.
    `share` is how far the price of a budget moves, as a share of what an hour is worth.
    PAYS: `found` becomes 0 where no gang fits in the budget, 2 where none makes as much as it costs, else 1.
    """
    strict = task in (FILL, PAYS)
    for job in order:
        if task == FILL and state[2][job] != 0:
            continue
        used, gain, terms, row = choose(book, job, prices, free, strict, room, looks)
        most = book.job[job].rate_max
        bounded = most < book.unbounded
        if task == FILL:
            if used > 0 and gain >= 0.0:
                found[job] = put(book, job, row, used, room, state)
        elif task == BOUND:
            gain += terms * OUTWARD * (4 + used)
            budget = prices[2][job] * max(0, most) * (1.0 + OUTWARD) if bounded else 0.0
            found[job] = max(0.0, gain + budget) if used > 0 else max(0.0, gain) + budget
        elif task == PASS:
            _dearer(book, job, prices, step, share, used, gain, room)
        else:
            found[job] = 0.0 if used == 0 else 2.0 if gain < 0.0 else 1.0


@inner
def _dearer(book: Any, job: Any, prices: Any, step: Any, share: Any, used: Any, gain: Any, room: Any) -> Any:
    most, spent = book.job[job].rate_max, 0.0
    bounded = most < book.unbounded
    if bounded:
        gain += prices[2][job] * max(0, most)
    if gain > 0.0:
        for place in range(used):
            seat = room[3][place]
            offer = ~seat if seat < 0 else seat
            if seat >= 0:
                spent += book.offer[offer].price * room[4][place]
            block, before = np.int64(book.offer[offer].block), prices[0][offer]
            prices[0][offer] += step[offer] * room[4][place] / book.offer[offer].gpus
            if before <= prices[1][block]:
                prices[1][block] = _least(book, block, prices[0])
    if bounded and most > 0:
        far = min(1.0, (spent - most) / most)
        prices[2][job] = max(0.0, prices[2][job] + share * book.job[job].slope * far)


@inner
def _least(book: Any, block: Any, prices: Any) -> Any:
    low = prices[book.block[block].begin]
    for offer in range(book.block[block].begin + 1, book.block[block].end):
        low = min(low, prices[offer])
    return low


@compiled
def lowest(book: Any, prices: Any, lows: Any) -> Any:
    """The least price of each block."""
    for block in range(len(lows)):
        lows[block] = _least(book, block, prices)


@compiled
def fall(book: Any, prices: Any, step: Any) -> Any:
    """All prices of seats fall by a step, to no less than 0."""
    for offer in range(len(step)):
        prices[0][offer] = max(0.0, prices[0][offer] - step[offer])
    lowest(book, prices[0], prices[1])


@compiled
def marginal(book: Any, free: Any, floor: Any) -> Any:
    """What the least of its tenants would lose with a GPU, where an offer is full."""
    for offer in range(len(floor)):
        begin, users = free[3][offer], free[2][offer]
        if free[0][offer] > 0 or users == 0:
            continue
        least = book.job[free[4][begin]].worth - book.job[free[4][begin]].slope * book.offer[offer].price
        for at in range(begin + 1, begin + users):
            job = free[4][at]
            least = min(least, book.job[job].worth - book.job[job].slope * book.offer[offer].price)
        floor[offer] = max(0.0, least)
