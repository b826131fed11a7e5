"""When a job would begin, at what price, and when it would be done, each as a range that says what it stands on. Pure.

**Begin.** It is cleared together with everybody who waits now: whoever is matched begins at once. Otherwise it needs seats
that are let: those of the leases that it could use come free as their jobs are expected to end (the range that each was told,
else a quarter of to four times what market/worth.py takes for it), and bids that are worth more take them first. Where these
need more than all of those leases, when they end says little: then it is by how it went lately, of those who had to wait for such
machines and got them, who wait for them, and who gave up (market/wait_ranges.py). Who comes later is not known.

**Price.** What it would be matched at now; otherwise what the newest leases of the models and regions that fit it cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from market.book import OrderBook
from market.clearing import clear
from market.constraints import CONSTRAINTS
from market.estimates import Measured, estimate_of, may_be_estimated, seats_in, seats_of_any_time
from market.lasting import lasts_ms
from market.orders import Bid, BookSnapshot, Offer
from market.outcomes import Json
from market.state import Departure, State, Trade
from market.wait_ranges import Wait, wait_range
from market.waits import gang_name
from market.worth import expected_ms

NOW: Final = "now"
LEASES: Final = "leases"
RECENT: Final = "recent"
LEAST_RECENT: Final = 8
WAITED_MS: Final = 60_000
NEWEST: Final = 64
SPREAD: Final = 4


def outlook(
    state: State, snapshot: BookSnapshot, bid: Bid, spec: Json, measured: Measured, now_ms: int
) -> Json:
    """{begins, price, done, recent} of a bid that is not in the snapshot's book yet.

    `begins` {basis, low_ms, middle_ms, high_ms} from now on, basis `now`, `leases` or `recent`, or null: nothing that is listed
    would do.
    `price` {basis, low_nanos, middle_nanos, high_nanos, trades} per GPU-hour, basis `now`, `trades` or `asks`, or null.
    `done` {low_ms, middle_ms, high_ms} from now on, or null where the time that it takes is not known.
    `recent`: see `recent_waits`.
    """
    book = OrderBook(snapshot.offers) if snapshot.book is None else snapshot.book
    cleared = clear(replace(snapshot, bids=(*snapshot.bids, bid)), reasons=False, forgone=False)
    match = next((one for one in cleared.matches if one.job == bid.job), None)
    idle = _idle(book, bid)
    if match is not None:
        found = [offer for offer in map(book.get, match.offers) if offer is not None]
        seats = [offer.seen_by(bid.customer) for offer in found]
        begins: Json | None = {"basis": NOW, "low_ms": 0, "middle_ms": 0, "high_ms": 0}
        price: Json | None = _spread(NOW, match.prices_nanos_per_gpu_hour, 0)
    else:
        seats = seats_in(bid, idle)
        begins = _after_leases(state, snapshot, book, bid, idle, now_ms) if seats else None
        price = _of_trades(state.trades, seats) if seats else None
    takes = estimate_of(spec, seats, measured, state.experience, bid.customer)
    done = None
    if begins is not None and takes is not None:
        done = {name: begins[name] + takes[name] for name in ("low_ms", "middle_ms", "high_ms")}
    return {"begins": begins, "price": price, "done": done, "recent": recent_waits(state.trades, bid)}


def as_submitted(state: State, snapshot: BookSnapshot, bid: Bid, spec: Json, measured: Measured) -> Bid:
    """The bid as it will be once its job is submitted, with the time that its customer is told."""
    if not may_be_estimated(spec, state.experience, bid.customer):
        return bid
    book = OrderBook(snapshot.offers) if snapshot.book is None else snapshot.book
    estimate = estimate_of(spec, seats_of_any_time(bid, book), measured, state.experience, bid.customer)
    takes_ms = expected_ms(spec, estimate)
    return replace(bid, expected_ms=takes_ms, lasts_ms=lasts_ms(spec, takes_ms))


def recent_waits(trades: Iterable[Trade], bid: Bid) -> Json | None:
    """How long the jobs of the newest leases had waited: {jobs, median_ms, p90_ms, p99_ms, gang, of_gang}; None where there are none.

    `of_gang` is {jobs, median_ms, p90_ms, p99_ms} of those whose gangs were of the bid's size (`gang`), None where none was.
    """
    waits: dict[str, int] = {}
    gpus: dict[str, int] = {}
    for one in trades:
        waits[one.job] = one.waited_ms
        gpus[one.job] = gpus.get(one.job, 0) + one.gpus
    if not waits:
        return None
    gang = gang_name(max(1, bid.workers_max) * bid.requires.gpus)
    own = [wait for job, wait in waits.items() if gang_name(gpus[job]) == gang]
    return _waited(list(waits.values())) | {"gang": gang, "of_gang": _waited(own) if own else None}


def _waited(waits: Sequence[int]) -> Json:
    """By nearest rank."""
    order = sorted(waits)
    at = {share: order[-(-len(order) * share // 100) - 1] for share in (50, 90, 99)}
    return {"jobs": len(order), "median_ms": at[50], "p90_ms": at[90], "p99_ms": at[99]}


def _recent_range(state: State, rivals: Iterable[Bid], idle: OrderBook, now_ms: int) -> list[int] | None:
    """By how it went since the oldest of the newest leases; None where too few had to wait for such machines and got them."""
    kinds = {(one.gpu, one.region, one.vram_gib, one.price_nanos_per_gpu_hour) for one in idle}
    classes = {kind[:2] for kind in kinds}
    begin_ms = state.trades[0].at_ms if state.trades else now_ms
    first: dict[str, Trade] = {}
    for one in state.trades:
        if (one.gpu, one.region) in classes and one.waited_ms > WAITED_MS:
            first.setdefault(one.job, one)
    if len(first) < LEAST_RECENT:
        return None
    seen = [(one.at_ms - one.waited_ms, one.at_ms, True) for one in first.values()]
    seen += [(bid.waits_since_ms, now_ms, False) for bid in rivals]
    seen += [(one.at_ms - one.waited_ms, one.at_ms, False) for one in state.departures if one.at_ms > begin_ms and _wanted(one, kinds)]
    return wait_range(Wait(max(0, begin_ms - since_ms), to_ms - since_ms, served) for since_ms, to_ms, served in seen)


def _wanted(one: Departure, kinds: Iterable[tuple[str, str, float, int]]) -> bool:
    """Whether who gave up would have taken one of these machines."""
    return any(
        (not one.gpu or gpu in one.gpu) and (not one.region or region in one.region)
        and vram_gib >= one.vram_gib and nanos <= one.limit_nanos_per_gpu_hour
        for gpu, region, vram_gib, nanos in kinds
    )  # fmt: skip


def _idle(book: OrderBook, bid: Bid) -> OrderBook:
    """What fits the bid, as if nobody sat there."""
    fitting = [offer for offer in book if all(test(offer.seen_by(bid.customer), bid) for _, test in CONSTRAINTS)]
    return OrderBook(replace(offer, gpus_free=offer.gpus, units_of={}) for offer in fitting)


def _after_leases(
    state: State, snapshot: BookSnapshot, book: OrderBook, bid: Bid, idle: OrderBook, now_ms: int
) -> Json | None:
    """By when enough of what it could use is free for those before it and for its smallest gang."""
    places = {offer.id for offer in idle}
    worth = bid.weight_ppm * bid.max_price_nanos_per_gpu_hour * bid.expected_ms
    rivals = [one for one in snapshot.bids if one.essential and any(all(test(offer, one) for _, test in CONSTRAINTS) for offer in idle)]
    before = [
        one for one in rivals if one.due or one.weight_ppm * one.max_price_nanos_per_gpu_hour * one.expected_ms >= worth
    ]
    needed = sum(max(1, one.workers_min) * one.requires.gpus for one in [*before, bid])
    free = sum(offer.gpus_free for offer in map(book.get, sorted(places)) if offer is not None)
    ends = [
        (_ends(state, lease.job, now_ms), lease.gpus)
        for lease in (state.leases[name] for name in state.live_leases)
        if lease.offer in places
    ]
    if needed > free + sum(gpus for _, gpus in ends):
        said = _recent_range(state, rivals, idle, now_ms)
        if said is not None:
            return {"basis": RECENT, **dict(zip(("low_ms", "middle_ms", "high_ms"), said, strict=True))}
    found: dict[str, int] = {}
    for place, name in enumerate(("low_ms", "middle_ms", "high_ms")):
        left = needed - free
        for end, gpus in sorted((end[place], gpus) for end, gpus in ends):
            if left <= 0:
                break
            left -= gpus
            found[name] = end
        if left > 0:
            last = max((end[place] for end, _ in ends), default=0)
            found[name] = last + bid.expected_ms  # those before it have to end, too
        found.setdefault(name, 0)
    return {"basis": LEASES, **found}


def _ends(state: State, name: str, now_ms: int) -> tuple[int, int, int]:
    """In how long the job is expected to let its machines go: low, middle, high."""
    job = state.jobs[name]
    went_ms = now_ms - job.running_since_ms
    if job.estimate is not None:
        rounds = max(1, int(job.spec.get("rounds", 1)))
        share = 0 if job.command is not None else job.rounds_committed
        known = [int(job.estimate[f"{one}_ms"]) for one in ("low", "middle", "high")]
        if job.command is not None:
            left = [max(0, ms - went_ms) for ms in known]
        else:
            left = [ms * max(0, rounds - share) // rounds for ms in known]
        return left[0], left[1], left[2]
    middle = expected_ms(
        job.spec, None, rounds_committed=job.rounds_committed, running_ms=went_ms, age_ms=now_ms - job.submitted_ms,
        spendable_nanos=state.escrow(job),
    )  # fmt: skip
    return middle // SPREAD, middle, middle * SPREAD


def _of_trades(trades: Iterable[Trade], seats: Sequence[Offer]) -> Json:
    classes = {(seat.gpu, seat.region) for seat in seats}
    newest = [one.price_nanos_per_gpu_hour for one in trades if (one.gpu, one.region) in classes][-NEWEST:]
    if newest:
        return _spread("trades", newest, len(newest))
    return _spread("asks", [seat.price_nanos_per_gpu_hour for seat in seats], 0)


def _spread(basis: str, prices: Sequence[int], trades: int) -> Json:
    ranked = sorted(prices)
    return {
        "basis": basis,
        "low_nanos": ranked[0],
        "middle_nanos": ranked[(len(ranked) - 1) // 2],
        "high_nanos": ranked[-1],
        "trades": trades,
    }

