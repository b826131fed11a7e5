"""The loops of the engine, compiled by numba and kept in its cache: seats for one job, passes, the dual, improvement.

They are all in this one file, because numba's cache looks at the file of the outermost function only. No loop runs in
parallel and none may reorder sums, so the same book gives the same bits. `book` is `market.engine.book.Arrays`.
Values are nano-dollars × nano-hours, as float64. `looks` counts pairs of a job and an offer that were looked at: the
measure of work, in place of a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:

    def compiled(function: F) -> F: ...

else:
    import numba

    def compiled(function):
        try:
            return numba.njit(cache=True, nogil=True)(function)
        except RuntimeError:  # no folder for the cache
            return numba.njit(nogil=True)(function)


OUTWARD = 2.0**-50
"""Eight times the relative error of one rounding."""


@compiled
def _sift_up(cost: Any, what: Any, place: Any) -> Any:
    value, which = cost[place], what[place]
    while place > 0:
        parent = (place - 1) >> 1
        if cost[parent] >= value:
            break
        cost[place], what[place] = cost[parent], what[parent]
        place = parent
    cost[place], what[place] = value, which


@compiled
def _sift_down(cost: Any, what: Any, place: Any, size: Any) -> Any:
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


@compiled
def _blocks(book: Any, job: Any, lows: Any, left: Any, begin: Any, end: Any, cost: Any, what: Any, looks: Any) -> Any:
    """Blocks of offers that may have seats for a job, as a heap by the least that a seat there can cost, negated."""
    hours, limit, ceiling = book.hours[job], book.limit[job], book.hours[job] * book.limit[job]
    latest, size, looked = book.deadline[job] - hours, 0, 30
    for bucket in book.lists[begin:end]:
        looked += 2
        for block in range(book.block_first[bucket], book.block_first[bucket + 1]):
            price = book.price[book.blocks[block]]
            if price > limit:
                break
            looked += 1
            if (
                left[block] <= 0
                or book.block_reliability[block] < book.reliability_min[job]
                or book.block_hours[block] < hours
                or book.block_available[block] > latest
                or book.block_interconnect[block] < book.interconnect_min[job]
            ):
                continue
            least = hours * price + lows[block]
            if least > ceiling and book.least[job] <= 1:
                continue
            cost[size], what[size] = -least, block
            size += 1
    for place in range((size - 2) >> 1, -1, -1):
        _sift_down(cost, what, place, size)
    looks[0] += looked
    return size


@compiled
def _gather(book: Any, job: Any, prices: Any, free: Any, begin: Any, end: Any, room: Any, looks: Any) -> Any:
    """The cheapest seats of a job in some buckets, as a heap with the dearest on top. Returns its size."""
    cost, what, block_cost, block_what = room[0], room[1], room[5], room[6]
    hours, limit, ceiling = book.hours[job], book.limit[job], book.hours[job] * book.limit[job]
    least, most = book.least[job], book.most[job]
    reliability, latest = book.reliability_min[job], book.deadline[job] - hours
    interconnect = book.interconnect_min[job]
    size, seats, enough, looked = 0, 0, False, 0
    blocks = _blocks(book, job, prices[1], free[1], begin, end, block_cost, block_what, looks)
    while blocks > 0 and not (enough and -block_cost[0] >= cost[0]):
        block = block_what[0]
        blocks -= 1
        block_cost[0], block_what[0] = block_cost[blocks], block_what[blocks]
        _sift_down(block_cost, block_what, 0, blocks)
        for offer in range(book.blocks[block], book.blocks[block + 1]):
            price = book.price[offer]
            asked = hours * price
            if price > limit or (enough and asked >= cost[0]):
                break
            looked += 1
            full = asked + prices[0][offer]
            if free[0][offer] <= 0 or (enough and full >= cost[0]) or (full > ceiling and least <= 1):
                continue
            if (
                book.reliability[offer] < reliability
                or book.available[offer] > latest
                or book.max_hours[offer] < hours
                or book.interconnect[offer] < interconnect
            ):
                continue
            cost[size], what[size] = full, offer
            size += 1
            seats += min(free[0][offer], most)
            _sift_up(cost, what, size - 1)
            while size > 1:
                want = most if cost[0] < ceiling else least
                top = min(free[0][what[0]], most)
                if seats - top < want:
                    break
                seats -= top
                size -= 1
                cost[0], what[0] = cost[size], what[size]
                _sift_down(cost, what, 0, size)
            enough = seats >= (most if cost[0] < ceiling else least)
    looks[0] += looked
    return size


@compiled
def _settle(book: Any, job: Any, prices: Any, free: Any, size: Any, cost: Any, what: Any, taken: Any) -> Any:
    """Sorts the heap, cheapest first, and decides how many seats to take of each. Returns (offers, gain, size of terms).

    Too few seats are (0, 0, 0); a seat that neither pays nor is needed is left. The true gain of the best seats is at
    most gain + terms × OUTWARD × (4 + offers): each value is rounded up, sums and comparisons are off by less.
    """
    count = size
    while count > 1:
        count -= 1
        cost[0], cost[count] = cost[count], cost[0]
        what[0], what[count] = what[count], what[0]
        _sift_down(cost, what, 0, count)
    hours, limit = book.hours[job], book.limit[job]
    least, most = book.least[job], book.most[job]
    ceiling = hours * limit
    seats, gain, terms, used = 0, 0.0, most * ceiling, 0
    for place in range(size):
        offer = what[place]
        value = hours * (limit - book.price[offer]) * (1.0 + OUTWARD) - prices[0][offer] * (1.0 - OUTWARD)
        take = min(free[0][offer], most - seats)
        if value < 0.0:
            take = min(take, least - seats)
        if take <= 0:
            break
        taken[place] = take
        seats += take
        gain += take * value
        terms += take * (ceiling + prices[0][offer])
        used += 1
    if seats < least:
        return 0, 0.0, 0.0
    return used, gain, terms


@compiled
def choose(book: Any, job: Any, prices: Any, free: Any, room: Any, looks: Any) -> Any:
    """The best seats of one job at these prices (per seat, beside the ask) among free ones, in `room` (what, taken).

    Returns (offers, gain at these prices, size of the terms of its sum). With `same_region` the best region's.
    """
    cost, what, taken, best_what, best_taken = room[:5]
    signature = book.signature[job]
    begin, end = book.list_first[signature], book.list_first[signature + 1]
    if book.same_region[job] == 0:
        size = _gather(book, job, prices, free, begin, end, room, looks)
        used, gain, terms = _settle(book, job, prices, free, size, cost, what, taken)
        for place in range(used):
            best_what[place], best_taken[place] = what[place], taken[place]
        return used, gain, terms
    best, best_gain, best_terms = 0, 0.0, 0.0
    while begin < end:
        stop = begin + 1
        region = book.region_of[book.lists[begin]]
        while stop < end and book.region_of[book.lists[stop]] == region:
            stop += 1
        size = _gather(book, job, prices, free, begin, stop, room, looks)
        used, gain, terms = _settle(book, job, prices, free, size, cost, what, taken)
        if used > 0 and (best == 0 or gain > best_gain):
            best, best_gain = used, gain
            for place in range(used):
                best_what[place], best_taken[place] = what[place], taken[place]
        best_terms = max(best_terms, terms)
        begin = stop
    return best, best_gain, best_terms


@compiled
def _put(book: Any, job: Any, used: Any, room: Any, state: Any) -> Any:
    """Seat a job on what `choose` found. Returns its welfare."""
    free, slot_first, slots, slot_offer, slot_gpus, user_first, users, user_job = state
    welfare = 0.0
    for place in range(used):
        offer, gpus = room[3][place], room[4][place]
        free[0][offer] -= gpus
        free[1][book.block_of[offer]] -= gpus
        slot_offer[slot_first[job] + place], slot_gpus[slot_first[job] + place] = offer, gpus
        user_job[user_first[offer] + users[offer]] = job
        users[offer] += 1
        welfare += gpus * (book.hours[job] * (book.limit[job] - book.price[offer]))
    slots[job] = used
    return welfare


@compiled
def _lift(book: Any, job: Any, state: Any) -> Any:
    """Take a job off its seats."""
    free, slot_first, slots, slot_offer, slot_gpus, user_first, users, user_job = state
    for place in range(slot_first[job], slot_first[job] + slots[job]):
        offer = slot_offer[place]
        free[0][offer] += slot_gpus[place]
        free[1][book.block_of[offer]] += slot_gpus[place]
        at = user_first[offer]
        while user_job[at] != job:
            at += 1
        users[offer] -= 1
        user_job[at] = user_job[user_first[offer] + users[offer]]
    slots[job] = 0


@compiled
def fill(book: Any, order: Any, prices: Any, state: Any, gain: Any, room: Any, looks: Any) -> Any:
    """Seat unmatched jobs in this order, each where it is cheapest at these prices. Returns the welfare added."""
    total = 0.0
    for job in order:
        if state[2][job] == 0:
            used, worth, _ = choose(book, job, prices, state[0], room, looks)
            if used > 0 and worth >= 0.0:
                gain[job] = _put(book, job, used, room, state)
                total += gain[job]
    return total


@compiled
def evaluate(book: Any, prices: Any, profits: Any, demand: Any, room: Any, looks: Any) -> Any:
    """An upper bound of what each job could gain at these prices, and the seats that all would take. Lagrange's dual
    is the sum of `profits` and of prices × GPUs."""
    demand[:] = 0.0
    for job in range(len(profits)):
        used, gain, terms = choose(book, job, prices, (book.gpus, book.block_gpus), room, looks)
        profits[job] = max(0.0, gain + terms * OUTWARD * (4 + used))
        if gain > 0.0:
            for place in range(used):
                demand[room[3][place]] += room[4][place]


@compiled
def lowest(book: Any, prices: Any, lows: Any) -> Any:
    """The least price of each block."""
    for block in range(len(lows)):
        lows[block] = prices[book.blocks[block] : book.blocks[block + 1]].min()


@compiled
def dual_pass(book: Any, order: Any, prices: Any, step: Any, room: Any, looks: Any) -> Any:
    """One incremental pass towards the dual's least: what a job takes becomes dearer before the next one looks."""
    for job in order:
        used, gain, _ = choose(book, job, prices, (book.gpus, book.block_gpus), room, looks)
        if gain > 0.0:
            for place in range(used):
                offer = room[3][place]
                block, before = book.block_of[offer], prices[0][offer]
                prices[0][offer] += step[offer] * room[4][place] / book.gpus[offer]
                if before <= prices[1][block]:
                    prices[1][block] = prices[0][book.blocks[block] : book.blocks[block + 1]].min()
    looks[0] += 8 * len(order) + len(step)
    for offer in range(len(step)):
        prices[0][offer] = max(0.0, prices[0][offer] - step[offer])
    lowest(book, prices[0], prices[1])


@compiled
def _random(generator: Any) -> Any:
    """The next 53 bits of xorshift64*, as a number from 0 to 1."""
    word = generator[0]
    word ^= word >> np.uint64(12)
    word ^= word << np.uint64(25)
    word ^= word >> np.uint64(27)
    generator[0] = word
    return float((word * np.uint64(2685821657736338717)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def _below(generator: Any, count: Any) -> Any:
    return min(int(_random(generator) * count), count - 1)


@compiled
def _affordable(book: Any, bucket: Any, limit: Any) -> Any:
    """Where a bucket's offers become dearer than the limit."""
    low, high = book.first[bucket], book.first[bucket + 1]
    while low < high:
        middle = (low + high) >> 1
        if book.price[middle] <= limit:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _evict(book: Any, job: Any, group: Any, state: Any, gain: Any, kept: Any) -> Any:
    """Take a job off its seats into `kept`, from where `_restore` brings it back. False where there is no room."""
    members, count, stamp, kept_first, kept_offer, kept_gpus, kept_gain = kept
    _free, slot_first, slots, slot_offer, slot_gpus, _user_first, _users, _user_job = state
    size = count[0]
    start = kept_first[size]
    if size >= len(members) or start + slots[job] > len(kept_offer):
        return False
    for place in range(slots[job]):
        kept_offer[start + place] = slot_offer[slot_first[job] + place]
        kept_gpus[start + place] = slot_gpus[slot_first[job] + place]
    kept_first[size + 1] = start + slots[job]
    kept_gain[size] = gain[job]
    members[size] = job
    count[0] = size + 1
    stamp[job] = group
    if slots[job] > 0:
        _lift(book, job, state)
    gain[job] = 0.0
    return True


@compiled
def _restore(book: Any, state: Any, gain: Any, kept: Any) -> Any:
    members, count, _stamp, kept_first, kept_offer, kept_gpus, kept_gain = kept
    free, slot_first, slots, slot_offer, slot_gpus, user_first, users, user_job = state
    for row in range(count[0]):
        if slots[members[row]] > 0:
            _lift(book, members[row], state)
    for row in range(count[0]):
        job = members[row]
        for place in range(kept_first[row], kept_first[row + 1]):
            offer = kept_offer[place]
            at = slot_first[job] + slots[job]
            slot_offer[at], slot_gpus[at] = offer, kept_gpus[place]
            slots[job] += 1
            free[0][offer] -= kept_gpus[place]
            free[1][book.block_of[offer]] -= kept_gpus[place]
            user_job[user_first[offer] + users[offer]] = job
            users[offer] += 1
        gain[job] = kept_gain[row]


@compiled
def _make_way(
    book: Any, job: Any, group: Any, prices: Any, state: Any, gain: Any, room: Any, kept: Any, looks: Any,
    generator: Any,
) -> Any:  # fmt: skip
    """Seat a job where it gains most at these prices, whoever sits there. False where it gains nothing."""
    used, worth, _ = choose(book, job, prices, (book.gpus, book.block_gpus), room, looks)
    if used == 0 or worth <= 0.0:
        return False
    free, users, user_first, user_job = state[0], state[6], state[5], state[7]
    for place in range(used):
        offer = room[3][place]
        while free[0][offer] < room[4][place]:
            sitting = user_job[user_first[offer] + _below(generator, users[offer])]
            if not _evict(book, sitting, group, state, gain, kept):
                return False
    gain[job] = _put(book, job, used, room, state)
    return True


@compiled
def _clear_out(book: Any, job: Any, group: Any, state: Any, gain: Any, kept: Any, generator: Any) -> Any:
    """Take jobs off random offers that this one could pay, about as many GPUs as it wants."""
    free, users, user_first, user_job = state[0], state[6], state[5], state[7]
    begin, end = book.list_first[book.signature[job]], book.list_first[book.signature[job] + 1]
    bucket = book.lists[begin + _below(generator, end - begin)]
    wanted = book.most[job] * (0.5 + 1.5 * _random(generator)) + 2.0 * _random(generator)
    for _ in range(24):
        if wanted <= 0.0:
            break
        if _random(generator) < 0.3:
            bucket = book.lists[begin + _below(generator, end - begin)]
        reach = _affordable(book, bucket, book.limit[job]) - book.first[bucket]
        if reach <= 0:
            wanted -= 0.5
            continue
        offer = book.first[bucket] + _below(generator, reach)
        if users[offer] == 0:
            wanted -= free[0][offer] * 0.5
            continue
        sitting = user_job[user_first[offer] + _below(generator, users[offer])]
        held = book.gpus[offer] - free[0][offer]
        if not _evict(book, sitting, group, state, gain, kept):
            break
        wanted -= held


@compiled
def improve(
    book: Any, prices: Any, nothing: Any, state: Any, gain: Any, room: Any, kept: Any, work: Any, wanting: Any,
    heat: Any, missing: Any, until: Any, looks: Any, generator: Any,
) -> Any:  # fmt: skip
    """Lift some jobs that want the same offers, seat them and others again, keep what is no worse; until so many looks
    or until the `missing` welfare is found.

    `heat` (nano-dollars × nano-hours) is the loss that is at first accepted with probability 1/e; it cools to nothing.
    `work` (keys, order) is scratch; `wanting` (first, jobs) lists the jobs of each bucket. Returns the welfare added.
    """
    members, count, stamp = kept[0], kept[1], kept[2]
    keys, order = work
    wanting_first, wanting_jobs = wanting
    jobs, added, group, begun = len(gain), 0.0, np.int64(0), looks[0]
    while looks[0] < until and added < missing:
        looks[0] += 100
        group += 1
        count[0] = 0
        job = _below(generator, jobs)
        for _ in range(3):
            if state[2][job] == 0:
                break
            job = _below(generator, jobs)
        begin, end = book.list_first[book.signature[job]], book.list_first[book.signature[job] + 1]
        if begin == end or not _evict(book, job, group, state, gain, kept):
            continue
        dear = prices if _random(generator) < 0.5 else nothing
        seated = False
        if _random(generator) < 0.5:
            seated = _make_way(book, job, group, prices, state, gain, room, kept, looks, generator)
        else:
            _clear_out(book, job, group, state, gain, kept, generator)
        bucket = book.lists[begin + _below(generator, end - begin)]
        around = wanting_first[bucket + 1] - wanting_first[bucket]
        for _ in range(_below(generator, 6)):
            other = wanting_jobs[wanting_first[bucket] + _below(generator, around)]
            if state[2][other] == 0 and stamp[other] != group:
                _evict(book, other, group, state, gain, kept)
        noise, left = 0.8 * _random(generator), 0
        for row in range(count[0]):
            if not (seated and row == 0):
                other = members[row]
                keys[left] = -book.hours[other] * book.limit[other] * (1.0 - noise * _random(generator))
                order[left] = other
                left += 1
        before, after = 0.0, gain[job]
        for row in range(count[0]):
            before += kept[6][row]
        for place in range(1, left):
            key, other, at = keys[place], order[place], place
            while at > 0 and keys[at - 1] > key:
                keys[at], order[at] = keys[at - 1], order[at - 1]
                at -= 1
            keys[at], order[at] = key, other
        for place in range(left):
            other = order[place]
            used, worth, _ = choose(book, other, dear, state[0], room, looks)
            if used > 0 and worth >= 0.0:
                gain[other] = _put(book, other, used, room, state)
                after += gain[other]
        warmth = heat * (1.0 - (looks[0] - begun) / (until - begun))
        if after >= before or (warmth > 0.0 and after - before > warmth * np.log(max(_random(generator), 1e-300))):
            added += after - before
        else:
            _restore(book, state, gain, kept)
    return added
