"""Compiled: putting jobs on seats and taking them off."""

from __future__ import annotations

from typing import Any

from market.engine.compiling import inner
from market.engine.seats import value_of


@inner
def put(book: Any, job: Any, row: Any, used: Any, room: Any, state: Any) -> Any:
    """Seat a job on what `choose` found. Returns what it is worth, in the objective."""
    free, slot_first, slots, slot_offer, slot_gpus = state
    paid, seats = 0.0, 0
    for place in range(used):
        seat, gpus = room[3][place], room[4][place]
        offer = ~seat if seat < 0 else seat
        slot_offer[slot_first[job] + place], slot_gpus[slot_first[job] + place] = seat, gpus
        _sit(book, job, offer, gpus, free)
        seats += gpus
        if seat >= 0:
            paid += gpus * (book.job[job].slope * book.offer[offer].price)
    slots[job] = used
    return value_of(book, job, row, seats) - paid


@inner
def _sit(book: Any, job: Any, offer: Any, gpus: Any, free: Any) -> Any:
    free[0][offer] -= gpus
    free[1][book.offer[offer].block] -= gpus
    at = free[3][offer] + free[2][offer]
    free[4][at], free[5][at] = job, gpus
    free[2][offer] += 1
    if book.job[job].team >= 0:
        free[6][book.job[job].team] -= gpus


@inner
def lift(book: Any, job: Any, state: Any) -> Any:
    """Take a job off its seats."""
    free, slot_first, slots, slot_offer, slot_gpus = state
    for place in range(slot_first[job], slot_first[job] + slots[job]):
        seat, gpus = slot_offer[place], slot_gpus[place]
        offer = ~seat if seat < 0 else seat
        free[0][offer] += gpus
        free[1][book.offer[offer].block] += gpus
        at = free[3][offer]
        while free[4][at] != job:
            at += 1
        free[2][offer] -= 1
        last = free[3][offer] + free[2][offer]
        free[4][at], free[5][at] = free[4][last], free[5][last]
        if book.job[job].team >= 0:
            free[6][book.job[job].team] += gpus
    slots[job] = 0


@inner
def sit_again(book: Any, job: Any, seat: Any, gpus: Any, state: Any) -> Any:
    """Put a job on one more seat that it had before."""
    free, slot_first, slots, slot_offer, slot_gpus = state
    at = slot_first[job] + slots[job]
    slot_offer[at], slot_gpus[at] = seat, gpus
    slots[job] += 1
    _sit(book, job, (~seat if seat < 0 else seat), gpus, free)
