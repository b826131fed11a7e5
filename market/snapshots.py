"""What a clearing may know, frozen: of everybody, of new bids alone, and made again for a replay. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from market.clearing import SMALL_BOOK
from market.order_making import bid_of, book_of, is_suspect, listing_of
from market.orders import BookSnapshot, Inputs
from market.outcomes import Settings
from market.snapshot_digest import SUMMED, digest_of_snapshot, older_digest
from market.state import State, Volatile
from market.teams import standings

SETTLED_MS: Final = 60_000
"""For how long a book counts as settled: who has become due since is then looked at."""
MOST_ARRIVALS: Final = 100


def take_snapshot(
    state: State, volatile: Volatile, settings: Settings, jobs: Iterable[str] | None = None
) -> BookSnapshot:
    """Offers and bids as they stand, for `clear()`; offers that are withdrawn are not in it. `jobs`: bids of these alone."""
    found = snapshot_in_passing(state, volatile, settings, jobs)
    assert found.book is not None
    book = found.book.copy()
    return replace(found, offers=tuple(book), book=book)


def snapshot_in_passing(
    state: State, volatile: Volatile, settings: Settings, jobs: Iterable[str] | None = None
) -> BookSnapshot:
    """The same on the book itself: for `clear()` before the next step."""
    book = book_of(state, volatile)
    if state.stopped:
        return BookSnapshot((), (), (), book, state.price_rule)
    names = state.open_jobs if jobs is None else [job for job in jobs if job in state.open_jobs]
    bids = (bid_of(state, state.jobs[job], settings, volatile.now_ms) for job in names)
    wanted = tuple(bid for bid in bids if bid is not None and not bid.interruptible)  # those: market/outbidding.py
    return BookSnapshot((), wanted, standings(state, volatile.now_ms), book, state.price_rule)


def snapshot_to_clear(
    state: State, volatile: Volatile, settings: Settings, jobs: Iterable[str] | None = None
) -> BookSnapshot:
    """The same, with what a replay needs to make it again."""
    only = None if jobs is None else tuple(jobs)
    return _with_inputs(state, volatile, take_snapshot(state, volatile, settings, only), only)


def _with_inputs(state: State, volatile: Volatile, found: BookSnapshot, jobs: tuple[str, ...] | None) -> BookSnapshot:
    suspect = tuple(
        name for name in state.lost if state.offers[name].state == "open" and is_suspect(state.offers[name], volatile)
    )
    digest = digest_of_snapshot(found, listing_of(state, volatile).offers_sum(volatile))
    return replace(found, inputs=Inputs(volatile.now_ms, state.position, suspect, digest, jobs))


def snapshot_of_arrivals(state: State, volatile: Volatile, settings: Settings) -> BookSnapshot | None:
    """The bids of jobs that came since the book was settled, on the book itself: for `clear()` before the next step.

    Nobody else who waits could use what is free, so whoever comes gets by itself what a clearing of everybody would give it. The due
    job for which seats are kept is among the bids, so that they stay kept. None where everybody must be looked at.
    """
    if volatile.dirty or volatile.settled_ms is None or volatile.now_ms - volatile.settled_ms > SETTLED_MS:
        return None
    if not 0 < len(volatile.arrived) <= MOST_ARRIVALS or state.stopped:
        return None
    kept = [] if volatile.kept_for is None else [volatile.kept_for]
    jobs = tuple(name for name in (*kept, *volatile.arrived) if name in state.open_jobs)
    bids = tuple(
        bid for name in jobs if (bid := bid_of(state, state.jobs[name], settings, volatile.now_ms)) is not None
    )
    book = book_of(state, volatile)
    if len(bids) < len(jobs) or any(bid.interruptible for bid in bids) or len(state.open_jobs) * len(book) <= SMALL_BOOK:
        return None
    found = BookSnapshot((), bids, standings(state, volatile.now_ms), book, state.price_rule)
    return _with_inputs(state, volatile, found, jobs)


def snapshot_again(state: State, inputs: Inputs, rule: str, settings: Settings) -> BookSnapshot:
    """The snapshot that was made of this state, and of what else these inputs name. Its digest is what it now comes to."""
    heard = {name: (state.offers[name].lost_ms or 0) + 1 for name in state.lost if name not in inputs.suspect}
    volatile = Volatile(now_ms=inputs.at_ms, heard_ms=heard)
    found = replace(take_snapshot(state, volatile, settings, inputs.jobs), price_rule=rule)
    if inputs.digest.startswith(SUMMED):
        digest = digest_of_snapshot(found, listing_of(state, volatile).offers_sum(volatile))
    else:
        digest = older_digest(found)
    return replace(found, inputs=replace(inputs, digest=digest))
