"""Clearing: which bid gets which seats at what price, and for everybody else the reason. A pure function of a snapshot.

A seat is `requires.gpus` units on one offer. Who is served is decided for the most weighted welfare, Σ weight · (limit − ask) ·
hours · GPUs (market/worth.py), by market/serving.py, or for large books by the compiled engine (`algorithm_for`); what is paid
by the operator's price rule (market/price_rules.py). The order of the input is nothing, effort is counted and never timed,
and numbers are whole: the same snapshot, effort and algorithm give the same clearing to the bit (docs/CLEARING.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from market.book import OrderBook
from market.constraints import CONSTRAINTS, HARDWARE, Reason, covers, fits, requirements_only
from market.fair_share import quota_sentence
from market.orders import PPM, Bid, BookSnapshot, Inputs, Offer, Requirements
from market.price_rules import UNIFORM, ClassPrice, Priced, price
from market.reasons import Removed, Unmatched, explain
from market.seating import worth
from market.serving import Auction, Served
from market.waits import waits_of_snapshot
from storage.units import MS_PER_HOUR, format_usd
from storage.values import value

EFFORT: Final = 1_000_000
WELFARE: Final = "welfare/1"
ENGINE: Final = "engine/2"
LARGE_BOOK: Final = 2_000_000
"""From so many pairs of bids and offers on, the compiled engine serves where it is installed and there are no teams."""
ENGINE_BUDGET: Final = 40
"""Effort of the engine, in million looks; without memory of earlier clearings, so that a replay needs none."""
SMALL_BOOK: Final = 20_000
"""Up to so many pairs the exchange clears at once, between two commands: then it looks at `SMALL_EFFORT` offers at most, some
50 ms, and a first pass over everything still fits."""
SMALL_EFFORT: Final = 30_000
REASONED: Final = 1_000
"""Pairs of bids and offers for which reasons are looked up in one clearing; who was never told a reason comes first."""


@value
class Match:
    """`offers` has one id for each new worker, cheapest first (an id again for two workers on one offer).

    `asks_nanos_per_gpu_hour` is what each offer asked of this customer, `prices_…` what it costs by the rule.
    """

    job: str
    offers: tuple[str, ...]
    gpus: int
    prices_nanos_per_gpu_hour: tuple[int, ...]
    asks_nanos_per_gpu_hour: tuple[int, ...] = ()

    @property
    def asks(self) -> tuple[int, ...]:
        return self.asks_nanos_per_gpu_hour or self.prices_nanos_per_gpu_hour


@value
class Clearing:
    """Matches in the order of service.

    Args:
        welfare_nanos: Σ (limit − ask) · hours · GPUs of the matches, without weights.
        forgone_nanos: how much more the same algorithm reaches when nobody's waiting and no team's turn counts; None: not
            looked at (large books).
        looks: the effort that was spent.
        inputs: what the snapshot was made of.
        bids, offers: how many there were.
        waits: how long who was served had waited, and who was not has (market/waits.py); None of a book that somebody made up.
        maximal: everybody was looked at, and whoever got nothing could not use what is left free.
    """

    matches: tuple[Match, ...]
    unmatched: tuple[Unmatched, ...]
    algorithm: str = ""
    effort: int = 0
    looks: int = 0
    price_rule: str = "ask"
    classes: tuple[ClassPrice, ...] = ()
    welfare_nanos: int = 0
    forgone_nanos: int | None = None
    kept_for: str | None = None
    inputs: Inputs | None = None
    bids: int = 0
    offers: int = 0
    maximal: bool = False
    waits: dict[str, Any] | None = None


def algorithm_for(snapshot: BookSnapshot) -> str:
    """By the size of the book alone, where the engine is installed; the name is journaled, so a replay does the same."""
    offers = len(snapshot.offers) if snapshot.book is None else len(snapshot.book)
    large = len(snapshot.bids) * offers > LARGE_BOOK and not snapshot.standings
    return ENGINE if large and engine_installed() else WELFARE


def effort_for(snapshot: BookSnapshot) -> int:
    """How many looks the market gives a book, by its size alone."""
    offers = len(snapshot.offers) if snapshot.book is None else len(snapshot.book)
    return SMALL_EFFORT if len(snapshot.bids) * offers <= SMALL_BOOK else EFFORT


def cleared(snapshot: BookSnapshot, engine: bool = True) -> Clearing:
    """As the market clears everybody; without the `engine` while it is not ready."""
    return clear(snapshot, effort_for(snapshot), algorithm_for(snapshot) if engine else WELFARE)


def of_arrivals(snapshot: BookSnapshot) -> Clearing:
    """As the market clears new bids alone: at once, and nobody is told anything but what he got."""
    return clear(snapshot, SMALL_EFFORT, WELFARE, reasons=False)


def engine_installed() -> bool:
    """Whether the compiled engine can clear snapshots here."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("numpy", "numba", "market.engine.snapshots"))


def clear(
    snapshot: BookSnapshot, effort: int = EFFORT, algorithm: str | None = None, *, reasons: bool = True,
    forgone: bool = True,
) -> Clearing:
    """Match every bid of the snapshot that can be matched, looking at no more than about `effort` offers for it.

    Without `reasons` nobody is told why it got nothing, which is most of the work where many wait; without `forgone`
    nobody looks what waiting and turns cost, which is half of the rest.
    """
    algorithm = algorithm or algorithm_for(snapshot)
    book = OrderBook(snapshot.offers) if snapshot.book is None else snapshot.book
    bids = {bid.job: bid for bid in snapshot.bids}
    served = _serve(snapshot, book, effort, algorithm)
    priced = price(snapshot.price_rule, served.seats, bids, book, served.taken or {})
    kept = {job: seats for job, seats in served.seats.items() if job not in priced.given_up}
    welfare = sum(worth(bids[job], seats) for job, seats in kept.items())
    matches = tuple(
        Match(
            job, tuple(seat.id for seat in seats), bids[job].requires.gpus, priced.prices[job],
            tuple(seat.price_nanos_per_gpu_hour for seat in seats),
        )
        for job, seats in kept.items()
    )  # fmt: skip
    return Clearing(
        matches,
        _reasons(snapshot, book, served, priced) if reasons else (),
        algorithm,
        effort,
        served.looks,
        snapshot.price_rule,
        priced.classes,
        welfare // MS_PER_HOUR,
        _forgone(snapshot, book, effort, algorithm, served, welfare) if forgone else None,
        served.kept_for,
        snapshot.inputs,
        len(snapshot.bids),
        len(book),
        not served.not_considered and not priced.given_up and snapshot.price_rule != UNIFORM,
        waits_of_snapshot(snapshot, kept),
    )


def _serve(snapshot: BookSnapshot, book: OrderBook, effort: int, algorithm: str) -> Served:
    if algorithm == WELFARE:
        return Auction(book, snapshot.bids, snapshot.standings, effort).serve()
    assert algorithm == ENGINE, algorithm
    from market.engine.snapshots import serve_snapshot

    return serve_snapshot(snapshot, book, effort, ENGINE_BUDGET)


def _forgone(
    snapshot: BookSnapshot, book: OrderBook, effort: int, algorithm: str, served: Served, welfare: int
) -> int | None:
    """What ageing, due bids, turns and the price rule cost: how much more the same effort reaches without them."""
    plain = tuple(replace(bid, weight_ppm=PPM, due=False) for bid in snapshot.bids)
    if algorithm != WELFARE or len(plain) < 2 or (not served.seats and served.kept_for is None):
        return 0 if algorithm == WELFARE else None
    if plain == snapshot.bids and not snapshot.standings and snapshot.price_rule == "ask":
        return 0
    if len(snapshot.bids) * len(book) > LARGE_BOOK:
        return None
    free = Auction(book, plain, snapshot.standings, effort, turns=False).serve()
    bids = {bid.job: bid for bid in plain}
    return max(0, sum(worth(bids[job], seats) for job, seats in free.seats.items()) - welfare) // MS_PER_HOUR


def _reasons(snapshot: BookSnapshot, book: OrderBook, served: Served, priced: Priced) -> tuple[Unmatched, ...]:
    """Why each bid that needs somebody got nobody: quota and effort as they were met, the rest as far as `REASONED` goes."""
    empty = sorted(
        (bid for bid in snapshot.bids if bid.job not in served.seats or bid.job in priced.given_up),
        key=lambda bid: (bool(bid.told), bid.submitted_ms, bid.job),
    )
    by_team = {one.team: one for one in snapshot.standings}
    over = served.over_quota or {}
    if not empty:
        return ()
    taken = served.taken or {}
    left = [
        replace(offer, gpus_free=offer.gpus_free - taken[offer.id]) if offer.id in taken else offer
        for offer in sorted(book, key=lambda one: one.id)
    ]
    room = REASONED
    found: list[Unmatched] = []
    for bid in empty:
        if bid.job in over and bid.essential:
            found.append(Unmatched(bid.job, Reason.TEAM_QUOTA, quota_sentence(by_team[bid.team], over[bid.job])))
        elif bid.job in served.not_considered:
            found.append(Unmatched(bid.job, Reason.NOT_CONSIDERED, "this clearing ran out of its budget of work"))
        elif not bid.essential or bid.job in over:
            continue
        elif bid.job in priced.given_up:
            found.append(Unmatched(bid.job, Reason.CLASS_PRICE, _class_price(bid, served, priced)))
        elif bid.told and room <= 0:
            found.append(Unmatched(bid.job, Reason(bid.told), ""))
        else:
            room -= max(1, len(left))
            found.append(_reason(book, left, bid, served, priced))
    return tuple(found)


def _reason(book: OrderBook, left: Sequence[Offer], bid: Bid, served: Served, priced: Priced) -> Unmatched:
    alone = Auction(book, (bid,), (), EFFORT).serve().seats
    if not alone:
        return explain(left, bid)
    why = explain(left, bid)
    wanted = {seat.id for seat in alone[bid.job]}
    paid = [
        at
        for job, seats in served.seats.items()
        if job in priced.prices
        for seat, at in zip(seats, priced.prices[job], strict=True)
        if seat.id in wanted and at
    ]
    if not paid and served.kept_for is not None:
        told = f"free machines that would fit are kept for a job that has waited longer, until its gang is whole; {why.detail}"
        return replace(why, reason=Reason.KEPT_FOR_ANOTHER, detail=told)
    last = f": the last of them went for ${format_usd(max(paid))} per GPU-hour" if paid else ""
    return replace(why, reason=Reason.OUTBID, detail=f"others make more of these machines{last}; {why.detail}")


def _class_price(bid: Bid, served: Served, priced: Priced) -> str:
    classes = {(seat.gpu, seat.region) for seat in served.seats[bid.job]}
    prices = [
        f"{one.gpu}{f' in {one.region}' if one.region else ''} at ${format_usd(one.price_nanos_per_gpu_hour)}"
        for one in priced.classes
        if (one.gpu, one.region) in classes
    ]
    told = f": {', '.join(prices)}" if prices else ""
    return f"at one price for all of a model and region this gang and the others do not go together{told}"


__all__ = [
    "CONSTRAINTS",
    "EFFORT",
    "ENGINE",
    "HARDWARE",
    "WELFARE",
    "Bid",
    "BookSnapshot",
    "Clearing",
    "Match",
    "Reason",
    "Removed",
    "Requirements",
    "Unmatched",
    "algorithm_for",
    "clear",
    "cleared",
    "covers",
    "effort_for",
    "explain",
    "fits",
    "of_arrivals",
    "requirements_only",
]  # fmt: skip
