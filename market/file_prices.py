"""Price rules for books from files (`torg clear --price-rule`): the engine's seats, priced as the live market prices its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from market.book import OrderBook
from market.orders import Bid, Offer, Requirements
from market.price_rules import ASK, ClassPrice, price

if TYPE_CHECKING:
    from market.engine.columns import Jobs, Offers

Row = tuple[int, int, int]
"""Rows of a job and of an offer in their tables, and GPUs."""
PLENTY = 2**100


def priced(
    rule: str, offers: Offers, jobs: Jobs, rows: Sequence[Row]
) -> tuple[list[int], frozenset[int], tuple[ClassPrice, ...]]:
    """Nano-dollars per GPU-hour of each of `rows`; rows of the jobs that no single price suited, whose price is 0; what traded."""
    if rule == ASK:
        return [offers.price_nanos[offer] for _, offer, _ in rows], frozenset(), _traded_at_asks(offers, rows)
    job_row = {name: row for row, name in enumerate(jobs.ids)}
    offer_row = {name: row for row, name in enumerate(offers.ids)}
    listed = [
        Offer(name, "", offers.gpu[row], offers.gpus[row], offers.gpus[row], 0.0, offers.region[row], 1.0, "process", offers.price_nanos[row])
        for row, name in enumerate(offers.ids)
    ]  # fmt: skip
    bids = {
        name: Bid(
            name, row, jobs.gpus_min[row], jobs.gpus_max[row], Requirements(gpu=jobs.gpu[row], region=jobs.regions[row]),
            jobs.limit_nanos[row], PLENTY, expected_ms=jobs.hours[row],
        )
        for row, name in enumerate(jobs.ids)
    }  # fmt: skip
    seats: dict[str, list[Offer]] = {}
    taken: dict[str, int] = {}
    for job, offer, gpus in rows:
        seats.setdefault(jobs.ids[job], []).extend([listed[offer]] * gpus)
        taken[offers.ids[offer]] = taken.get(offers.ids[offer], 0) + gpus

    def could_use(offer: Offer, bid: Bid) -> bool:
        here, there = offer_row[offer.id], job_row[bid.job]
        return (
            offers.reliability[here] >= jobs.reliability_min[there]
            and offers.vram_gib[here] >= jobs.vram_gib_min[there]
            and offers.interconnect[here] >= jobs.interconnect_min[there]
            and offers.max_hours[here] >= jobs.hours[there]
            and offers.available_in[here] + jobs.hours[there] <= jobs.deadline[there]
        )

    found = price(rule, seats, bids, OrderBook(listed), taken, could_use)
    prices = {
        (job_row[job], offer_row[seat.id]): at
        for job, own in found.prices.items()
        for seat, at in zip(seats[job], own, strict=True)
    }
    given_up = frozenset(job_row[job] for job in found.given_up)
    return [0 if job in given_up else prices[job, offer] for job, offer, _ in rows], given_up, found.classes


def _traded_at_asks(offers: Offers, rows: Sequence[Row]) -> tuple[ClassPrice, ...]:
    """What the price rules say of classes where everybody is paid the ask, without a live book of all offers."""
    taken: dict[int, int] = {}
    for _, offer, gpus in rows:
        taken[offer] = taken.get(offer, 0) + gpus
    found: dict[tuple[str, str], list[int]] = {}
    for offer, gpus in taken.items():
        ask = offers.price_nanos[offer]
        if ask:
            one = found.setdefault((offers.gpu[offer], offers.region[offer]), [ask, ask, 0])
            one[0], one[1], one[2] = min(one[0], ask), max(one[1], ask), one[2] + gpus
    return tuple(
        ClassPrice(gpu, region, high, gpus, low, high) for (gpu, region), (low, high, gpus) in sorted(found.items())
    )
