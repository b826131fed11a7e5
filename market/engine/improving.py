"""Compiled: lift some jobs that want the same offers, seat them and others again, keep what is no worse."""

from __future__ import annotations

from typing import Any

import numpy as np

from market.engine.compiling import compiled, inner
from market.engine.seats import STRICT, choose
from market.engine.sitting import lift, put, sit_again

MOST_MORE = np.int64(6)


@inner
def _random(generator: Any) -> Any:
    """The next 53 bits of xorshift64*, as a number from 0 to 1."""
    word = generator[0]
    word ^= word >> np.uint64(12)
    word ^= word << np.uint64(25)
    word ^= word >> np.uint64(27)
    generator[0] = word
    return float((word * np.uint64(2685821657736338717)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@inner
def _below(generator: Any, count: Any) -> Any:
    return min(int(_random(generator) * count), count - 1)


@inner
def _affordable(book: Any, bucket: Any, limit: Any) -> Any:
    """Where a bucket's offers become dearer than the limit."""
    low, high = book.bucket[bucket].first, book.bucket[bucket].last
    while low < high:
        middle = (low + high) >> 1
        if book.offer[middle].price <= limit:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def _evict(book: Any, job: Any, group: Any, state: Any, gain: Any, kept: Any) -> Any:
    """Take a job off its seats into `kept`, from where `_restore` brings it back. False where there is no room, or where
    the job must stay."""
    members, count, stamp, kept_first, kept_offer, kept_gpus, kept_gain = kept
    _free, slot_first, slots, slot_offer, slot_gpus = state
    size = count[0]
    start = kept_first[size]
    if size >= len(members) or start + slots[job] > len(kept_offer) or book.job[job].stays != 0:
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
        lift(book, job, state)
    gain[job] = 0.0
    return True


@inner
def _restore(book: Any, state: Any, gain: Any, kept: Any) -> Any:
    members, count, _stamp, kept_first, kept_offer, kept_gpus, kept_gain = kept
    slots = state[2]
    for row in range(count[0]):
        if slots[members[row]] > 0:
            lift(book, members[row], state)
    for row in range(count[0]):
        job = members[row]
        for place in range(kept_first[row], kept_first[row + 1]):
            sit_again(book, job, kept_offer[place], kept_gpus[place], state)
        gain[job] = kept_gain[row]


@inner
def _make_way(
    book: Any, job: Any, group: Any, prices: Any, whole: Any, state: Any, gain: Any, room: Any, kept: Any, looks: Any,
    generator: Any,
) -> Any:  # fmt: skip
    """Seat a job where it gains most at these prices, whoever sits there. False where it gains nothing."""
    used, worth, _, row = choose(book, job, prices, whole, STRICT, room, looks)
    if used == 0 or worth <= 0.0:
        return False
    free, users, user_first, user_job = state[0][0], state[0][2], state[0][3], state[0][4]
    seats = 0
    for place in range(used):
        seat, seats = room[3][place], seats + room[4][place]
        offer = ~seat if seat < 0 else seat
        while free[offer] < room[4][place]:
            sitting = np.int64(user_job[user_first[offer] + _below(generator, users[offer])])
            if not _evict(book, sitting, group, state, gain, kept):
                return False
        if seat >= 0 and book.caps != 0:
            while users[offer] > 0 and _held(book, job, offer, state[0]) + room[4][place] > book.offer[offer].cap:
                sitting = np.int64(user_job[user_first[offer] + _below(generator, users[offer])])
                if not _evict(book, sitting, group, state, gain, kept):
                    return False
    if book.job[job].team >= 0 and state[0][6][book.job[job].team] < seats:
        return False
    gain[job] = put(book, job, row, used, room, state)
    return True


@inner
def _held(book: Any, job: Any, offer: Any, free: Any) -> Any:
    """GPUs of the offer that the job's customer has."""
    total, customer = 0, book.job[job].customer
    for at in range(book.offer[offer].held_first, book.offer[offer].held_last):
        if book.held[at].customer == customer:
            total += book.held[at].gpus
    for at in range(free[3][offer], free[3][offer] + free[2][offer]):
        if book.job[free[4][at]].customer == customer:
            total += free[5][at]
    return total


@inner
def _clear_out(book: Any, job: Any, group: Any, state: Any, gain: Any, kept: Any, generator: Any) -> Any:
    """Take jobs off random offers that this one could pay, about as many GPUs as it wants."""
    free, users, user_first, user_job = state[0][0], state[0][2], state[0][3], state[0][4]
    begin, end = book.job[job].list_first, book.job[job].list_last
    bucket = book.lists[begin + _below(generator, end - begin)].bucket
    wanted = book.job[job].most * (0.5 + 1.5 * _random(generator)) + 2.0 * _random(generator)
    for _ in range(24):
        if wanted <= 0.0:
            break
        if _random(generator) < 0.3:
            bucket = book.lists[begin + _below(generator, end - begin)].bucket
        reach = _affordable(book, bucket, book.job[job].limit) - book.bucket[bucket].first
        if reach <= 0:
            wanted -= 0.5
            continue
        offer = book.bucket[bucket].first + _below(generator, reach)
        if users[offer] == 0:
            wanted -= free[offer] * 0.5
            continue
        sitting = np.int64(user_job[user_first[offer] + _below(generator, users[offer])])
        held = book.offer[offer].gpus - free[offer]
        if not _evict(book, sitting, group, state, gain, kept):
            break
        wanted -= held


@compiled
def improve(
    book: Any, prices: Any, nothing: Any, whole: Any, state: Any, gain: Any, room: Any, kept: Any, work: Any,
    wanting: Any, heat: Any, missing: Any, until: Any, looks: Any, generator: Any,
) -> Any:  # fmt: skip
    """Until so many looks, or until the `missing` value is found; see the module.

    `heat` (nano-dollars × nano-hours) is the loss that is at first accepted with probability 1/e; it cools to nothing.
    `work` (keys, order) is scratch; `wanting` (first, jobs) lists the jobs of each bucket. Returns the value added.
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
        begin, end = book.job[job].list_first, book.job[job].list_last
        if begin == end or not _evict(book, job, group, state, gain, kept):
            continue
        dear = prices if _random(generator) < 0.5 else nothing
        seated = False
        if _random(generator) < 0.5:
            seated = _make_way(book, job, group, prices, whole, state, gain, room, kept, looks, generator)
        else:
            _clear_out(book, job, group, state, gain, kept, generator)
        bucket = book.lists[begin + _below(generator, end - begin)].bucket
        around = wanting_first[bucket + 1] - wanting_first[bucket]
        for _ in range(_below(generator, MOST_MORE)):
            other = wanting_jobs[wanting_first[bucket] + _below(generator, around)]
            if state[2][other] == 0 and stamp[other] != group:
                _evict(book, other, group, state, gain, kept)
        noise, left = 0.8 * _random(generator), 0
        for row in range(count[0]):
            if not (seated and row == 0):
                other = members[row]
                keys[left] = -book.job[other].rank * (1.0 - noise * _random(generator))
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
            used, worth, _, row = choose(book, other, dear, state[0], STRICT, room, looks)
            if used > 0 and worth >= 0.0:
                gain[other] = put(book, other, row, used, room, state)
                after += gain[other]
        warmth = heat * (1.0 - (looks[0] - begun) / (until - begun))
        if after >= before or (warmth > 0.0 and after - before > warmth * np.log(max(_random(generator), 1e-300))):
            added += after - before
        else:
            _restore(book, state, gain, kept)
    return added
