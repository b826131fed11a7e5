"""Compiled: seats of an earlier clearing in a book that has changed."""

from __future__ import annotations

from typing import Any

import numpy as np

from market.engine.compiling import compiled, inner
from market.engine.seats import room_of, suits
from market.engine.sitting import lift, put


@compiled
def neighbours(book: Any, prices: Any) -> Any:
    """Gives each offer without a price (below 0) that of the next cheaper one of its bucket that has one, else of the next
    dearer one, else 0."""
    for bucket in range(len(book.bucket)):
        known = -1.0
        for offer in range(book.bucket[bucket].first, book.bucket[bucket].last):
            if prices[offer] >= 0.0:
                known = prices[offer]
            elif known >= 0.0:
                prices[offer] = known
        known = 0.0
        for offer in range(book.bucket[bucket].last - 1, book.bucket[bucket].first - 1, -1):
            if prices[offer] >= 0.0:
                known = prices[offer]
            else:
                prices[offer] = known


@inner
def _entry(book: Any, job: Any, group: Any, bucket: Any) -> Any:
    """Where a group lists a bucket, or −1."""
    for at in range(book.group[group].begin, book.group[group].end):
        if book.lists[at].bucket == bucket:
            return at
    return -1


@inner
def _fits(book: Any, job: Any, group: Any, begin: Any, end: Any, offers: Any, gpus: Any, free: Any, room: Any) -> Any:
    """Whether a job may have these seats as one gang of this group; they are then in `room`."""
    total, spent = 0, np.int64(0)
    for at in range(begin, end):
        offer, count = offers[at], gpus[at]
        if offer < 0:
            return False
        entry = _entry(book, job, group, book.offer[offer].bucket)
        if entry < 0 or not suits(book, job, offer):
            return False
        mine = book.lists[entry].owned != 0
        seat = ~offer if mine else offer
        if not mine:
            if book.offer[offer].price > book.job[job].limit:
                return False
            spent += np.int64(book.offer[offer].price) * count
        if count % book.job[job].chunk != 0 or room_of(book, job, seat, free, book.job[job].most) < count:
            return False
        total += count
        room[3][at - begin], room[4][at - begin] = seat, count
    if book.job[job].team >= 0 and free[6][book.job[job].team] < total:
        return False
    return book.job[job].least <= total <= book.job[job].most and spent <= book.job[job].rate_max


@compiled
def keep(book: Any, jobs: Any, offers: Any, gpus: Any, state: Any, gain: Any, room: Any) -> Any:
    """Seat every job on the seats that it had (sorted by job, −1 for what is gone), where it may still have all of them and
    they are worth something."""
    at = np.int64(0)
    while at < len(jobs):
        end = at
        while end < len(jobs) and jobs[end] == jobs[at]:
            end += 1
        job = jobs[at]
        if job >= 0 and end - at <= state[1][job + 1] - state[1][job]:
            for group in range(book.job[job].group_first, book.job[job].group_last):
                if _fits(book, job, group, at, end, offers, gpus, state[0], room):
                    gain[job] = put(book, job, book.group[group].row, end - at, room, state)
                    if gain[job] < 0.0:
                        lift(book, job, state)
                        gain[job] = 0.0
                    break
        at = end
