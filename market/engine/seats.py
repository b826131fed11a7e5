"""Compiled: the best seats of one job at given prices.

No loop runs in parallel and none may reorder sums, so the same book gives the same bits. `book` is
`market.engine.arrays.Arrays`. Values are nano-dollars × nano-hours, as float64. `looks` counts the blocks and offers that
were looked at: the measure of work, in place of a clock.

`prices` are (per GPU of each offer for a whole lease, the least of each block, per job what a nano-dollar per hour of its
budget costs). `free` are (GPUs left of each offer, of each block, users of each offer, where an offer's users begin, jobs,
their GPUs, GPUs left to each team). In heaps an offer or block that costs this job nothing, because its customer owns it,
stands as its complement (~offer).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from market.engine.compiling import inner

OUTWARD = 2.0**-50
"""Eight times the relative error of one rounding."""
ROOT, STRICT = np.int64(0), np.bool_(True)
"""Not written as 0 and True where they are passed on: numba compiles another function for each literal."""


@inner
def sift_up(cost: Any, what: Any, place: Any) -> Any:
    value, which = cost[place], what[place]
    while place > 0:
        parent = (place - 1) >> 1
        if cost[parent] >= value:
            break
        cost[place], what[place] = cost[parent], what[parent]
        place = parent
    cost[place], what[place] = value, which


@inner
def sift_down(cost: Any, what: Any, place: Any, size: Any) -> Any:
    value, which = cost[place], what[place]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and cost[child + 1] > cost[child]:
            child += 1
        if cost[child] <= value:
            break
        cost[place], what[place] = cost[child], what[child]
        place = child
    cost[place], what[place] = value, which


@inner
def _blocks(
    book: Any, job: Any, slope: Any, lows: Any, left: Any, begin: Any, end: Any, cost: Any, what: Any, looks: Any
) -> Any:
    """Blocks of offers that may have seats for a job, as a heap by the least that a seat there can cost, negated."""
    wish = book.job[job]
    limit, ceiling, hours, latest = wish.limit, wish.ceiling, wish.hours, wish.deadline - wish.hours
    reliability, interconnect, single = wish.reliability_min, wish.interconnect_min, wish.least <= 1
    size, looked = 0, 30
    for at in range(begin, end):
        bucket, mine = book.bucket[book.lists[at].bucket], book.lists[at].owned != 0
        looked += 2
        block, last, chained = bucket.block_first, bucket.block_last, False
        if block == last:
            block, chained = bucket.added, True
        while block >= 0:
            here = book.block[block]
            looked += 1
            least = lows[block]
            fits = True
            if not mine:
                price = book.offer[here.begin].price
                least += slope * price
                fits = price <= limit
                if not fits and not chained:
                    block, chained = bucket.added, True
                    continue
            if (
                fits
                and left[block] > 0
                and here.reliability >= reliability
                and here.hours >= hours
                and here.available <= latest
                and here.interconnect >= interconnect
                and not (single and least > ceiling)
            ):
                cost[size], what[size] = -least, (~block if mine else block)
                size += 1
            if chained:
                block = here.next
            else:
                block += 1
                if block == last:
                    block, chained = bucket.added, True
    for place in range((size - 2) >> 1, -1, -1):
        sift_down(cost, what, place, size)
    looks[0] += looked
    return size


@inner
def _let(book: Any, job: Any, offer: Any, free: Any) -> Any:
    """GPUs of an offer that its owner lets to this job's customer, of those that are free."""
    left, customer = free[0][offer], book.job[job].customer
    room = book.offer[offer].cap
    if room >= left:
        for at in range(book.offer[offer].held_first, book.offer[offer].held_last):
            if book.held[at].customer == customer:
                room -= book.held[at].gpus
    else:
        for at in range(book.offer[offer].held_first, book.offer[offer].held_last):
            if book.held[at].customer == customer:
                room -= book.held[at].gpus
    begin = free[3][offer]
    for at in range(begin, begin + free[2][offer]):
        if book.job[free[4][at]].customer == customer:
            room -= free[5][at]
    return max(0, min(left, room))


@inner
def room_of(book: Any, job: Any, seat: Any, free: Any, most: Any) -> Any:
    """How many GPUs the job could take of a seat in a heap: whole workers only."""
    offer = ~seat if seat < 0 else seat
    room = free[0][offer]
    if seat >= 0 and book.caps != 0:
        room = _let(book, job, offer, free)
    chunk = book.job[job].chunk
    if chunk > 1:
        room -= room % chunk
    return min(room, most)


@inner
def _is_shut(book: Any, job: Any, offer: Any) -> Any:
    """Whether the offer is among those that this job may not have (sorted)."""
    low, high = book.job[job].shut_first, book.job[job].shut_last
    while low < high:
        middle = (low + high) >> 1
        if book.shut[middle] < offer:
            low = middle + 1
        else:
            high = middle
    return low < book.job[job].shut_last and book.shut[low] == offer


@inner
def suits(book: Any, job: Any, offer: Any) -> Any:
    """Whether the offer meets what the job asks of it beside its bucket and its price."""
    if (
        book.offer[offer].reliability < book.job[job].reliability_min
        or book.offer[offer].available > book.job[job].deadline - book.job[job].hours
        or book.offer[offer].max_hours < book.job[job].hours
        or book.offer[offer].interconnect < book.job[job].interconnect_min
    ):
        return False
    return not (book.job[job].shut_first < book.job[job].shut_last and _is_shut(book, job, offer))


@inner
def _gather(book: Any, job: Any, prices: Any, free: Any, most: Any, begin: Any, end: Any, room: Any, looks: Any) -> Any:
    """The cheapest seats of a job in some buckets, as a heap with the dearest on top. Returns its size.

    What `suits` and `room_of` say is written out for plain jobs: a call with the whole book takes longer than the answer.
    """
    cost, what, block_cost, block_what = room[0], room[1], room[5], room[6]
    wish, left = book.job[job], free[0]
    limit, ceiling, slope, least = wish.limit, wish.ceiling, wish.slope + prices[2][job], wish.least
    reliability, latest, hours, interconnect = (
        wish.reliability_min,
        wish.deadline - wish.hours,
        wish.hours,
        wish.interconnect_min,
    )
    plain, picky = book.caps == 0 and wish.chunk == 1, wish.shut_first < wish.shut_last
    size, seats, enough, looked, single = 0, 0, False, 0, least <= 1
    blocks = _blocks(book, job, slope, prices[1], free[1], begin, end, block_cost, block_what, looks)
    while blocks > 0 and not (enough and -block_cost[0] >= cost[0]):
        block = block_what[0]
        blocks -= 1
        block_cost[0], block_what[0] = block_cost[blocks], block_what[blocks]
        sift_down(block_cost, block_what, ROOT, blocks)
        mine = block < 0
        if mine:
            block = ~block
        for offer in range(book.block[block].begin, book.block[block].end):
            this = book.offer[offer]
            asked = 0.0
            if not mine:
                asked = slope * this.price
                if this.price > limit or (enough and asked >= cost[0]):
                    break
            looked += 1
            full = asked + prices[0][offer]
            if left[offer] <= 0 or (enough and full >= cost[0]) or (single and full > ceiling):
                continue
            if (
                this.reliability < reliability
                or this.available > latest
                or this.max_hours < hours
                or this.interconnect < interconnect
                or (picky and _is_shut(book, job, offer))
            ):
                continue
            seat = ~offer if mine else offer
            here = min(left[offer], most) if plain else room_of(book, job, seat, free, most)
            if here <= 0:
                continue
            cost[size], what[size] = full, seat
            size += 1
            seats += here
            sift_up(cost, what, size - 1)
            while size > 1:
                want = most if cost[0] < ceiling else least
                dear = what[0]
                top = min(left[~dear if dear < 0 else dear], most) if plain else room_of(book, job, dear, free, most)
                if seats - top < want:
                    break
                seats -= top
                size -= 1
                cost[0], what[0] = cost[size], what[size]
                sift_down(cost, what, ROOT, size)
            enough = seats >= (most if cost[0] < ceiling else least)
    looks[0] += looked
    return size


@inner
def value_of(book: Any, job: Any, row: Any, gpus: Any) -> Any:
    """What so many GPUs are worth to a job before their price; `row` is its model's, for jobs with a curve."""
    first = book.job[job].curve_first
    if first < 0:
        return book.job[job].worth * gpus
    return book.curve[first + row * (book.job[job].most + 1) + gpus]


@inner
def _settle(book: Any, job: Any, row: Any, free: Any, most: Any, size: Any, cost: Any, what: Any, taken: Any) -> Any:
    """Sorts the heap, cheapest first, and decides how many seats to take of each. Returns (offers, gain, size of terms).

    Too few seats are (0, 0, terms); a seat that neither pays nor is needed is left. The true gain of the best seats is at
    most gain + terms × OUTWARD × (4 + offers): values are off by a few roundings of the largest term, sums by one for each.
    """
    count = size
    while count > 1:
        count -= 1
        cost[0], cost[count] = cost[count], cost[0]
        what[0], what[count] = what[count], what[0]
        sift_down(cost, what, ROOT, count)
    least, curve = book.job[job].least, book.job[job].curve_first >= 0
    if curve:
        target, terms = _along(book, job, row, free, most, size, cost, what)
        terms += value_of(book, job, row, most)
    else:
        target, terms = most, most * book.job[job].worth
    worth = book.job[job].worth
    seats, gain, used = 0, 0.0, 0
    for place in range(size):
        take = min(room_of(book, job, what[place], free, most), target - seats)
        if not curve and worth - cost[place] < 0.0:
            take = min(take, least - seats)
        if take <= 0:
            break
        taken[place] = take
        seats += take
        gain += take * (-cost[place] if curve else worth - cost[place])
        terms += take * (cost[place] + (0.0 if curve else worth))
        used += 1
    if seats < least:
        return 0, 0.0, terms
    if curve:
        gain += value_of(book, job, row, seats)
    return used, gain, terms


@inner
def _along(book: Any, job: Any, row: Any, free: Any, most: Any, size: Any, cost: Any, what: Any) -> Any:
    """How many GPUs of the sorted seats a job with a curve takes, 0 for too few, and what all of them cost."""
    seats, spent, best, target = 0, 0.0, -np.inf, 0
    for place in range(size):
        left = min(room_of(book, job, what[place], free, most), most - seats)
        while left > 0:
            left -= book.job[job].chunk
            seats += book.job[job].chunk
            spent += book.job[job].chunk * cost[place]
            gain = value_of(book, job, row, seats) - spent
            if seats >= book.job[job].least and gain > best:
                best, target = gain, seats
    return target, spent


@inner
def _afford(book: Any, job: Any, row: Any, prices: Any, used: Any, what: Any, taken: Any) -> Any:
    """Gives dear seats back until the job's budget pays for the rest. Returns (offers, gain at these prices)."""
    most, chunk = book.job[job].rate_max, book.job[job].chunk
    spent, seats = np.int64(0), 0
    for place in range(used):
        seats += taken[place]
        if what[place] >= 0:
            spent += np.int64(book.offer[what[place]].price) * taken[place]
    while spent > most:
        dear, price = -1, np.int64(0)
        for place in range(used):
            if what[place] >= 0 and taken[place] > 0 and np.int64(book.offer[what[place]].price) > price:
                dear, price = place, np.int64(book.offer[what[place]].price)
        if dear < 0:  # what runs already costs more than there is
            return 0, 0.0
        gone = min(taken[dear], -((most - spent) // (price * chunk)) * chunk)
        taken[dear] -= gone
        spent -= price * gone
        seats -= gone
    if seats < book.job[job].least or seats == 0:
        return 0, 0.0
    left, gain, slope = 0, value_of(book, job, row, seats), book.job[job].slope + prices[2][job]
    for place in range(used):
        if taken[place] > 0:
            what[left], taken[left] = what[place], taken[place]
            offer = ~what[left] if what[left] < 0 else what[left]
            gain -= taken[left] * (prices[0][offer] + (0.0 if what[left] < 0 else slope * book.offer[offer].price))
            left += 1
    return left, gain


@inner
def choose(book: Any, job: Any, prices: Any, free: Any, strict: Any, room: Any, looks: Any) -> Any:
    """The best seats of one job at these prices among free ones, in `room` (seats, GPUs taken of each).

    Returns (offers, gain at these prices, size of the terms of its sum, row of the curve). One group of buckets serves the
    whole gang: the best one's. `strict` keeps to the job's budget, for which there is no more than a good guess; without it
    the budget counts by its price alone, and the answer is the best there is.
    """
    cost, what, taken, best_what, best_taken = room[:5]
    most, team = book.job[job].most, book.job[job].team
    best, best_gain, best_terms, best_row = 0, 0.0, 0.0, 0
    if team >= 0:
        most = min(most, free[6][team] - free[6][team] % book.job[job].chunk)
        if most < book.job[job].least:
            return best, best_gain, best_terms, best_row
    bounded = strict and book.job[job].rate_max < book.unbounded
    for group in range(book.job[job].group_first, book.job[job].group_last):
        begin, end, row = book.group[group].begin, book.group[group].end, book.group[group].row
        size = _gather(book, job, prices, free, most, begin, end, room, looks)
        used, gain, terms = _settle(book, job, row, free, most, size, cost, what, taken)
        if bounded and used > 0:
            used, gain = _afford(book, job, row, prices, used, what, taken)
            if used == 0:
                nothing = (room[7], room[8], room[9])
                size = _gather(book, job, nothing, free, most, begin, end, room, looks)
                used, gain, _ = _settle(book, job, row, free, most, size, cost, what, taken)
                if used > 0:
                    used, gain = _afford(book, job, row, prices, used, what, taken)
        if used > 0 and (best == 0 or gain > best_gain):
            best, best_gain, best_row = used, gain, row
            for place in range(used):
                best_what[place], best_taken[place] = what[place], taken[place]
        best_terms = max(best_terms, terms)
    return best, best_gain, best_terms, best_row
