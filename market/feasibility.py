"""Whether a bid could be matched at all: on hardware that is listed, with a budget that lasts a minute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import Final

from market.book import OrderBook
from market.clearing import CONSTRAINTS, HARDWARE, Reason, Unmatched, explain, requirements_only
from market.orders import Bid, Offer
from storage.units import charge_nanos

SHARES_SHOWN: Final = 8


def never_fits(offers: Iterable[Offer], bid: Bid) -> Unmatched | None:
    """The constraint that no listed offer meets, whatever is free and whatever is paid; None if some worker could sit.

    An empty market says nothing: None.
    """
    open_bid = requirements_only(bid)
    least = bid.requires.vram_gib
    if any(offer.vram_gib >= least and _could_sit(offer, open_bid) for offer in offers):
        return None
    offers = tuple(offers)
    if not offers:
        return None
    idle = [replace(offer, gpus_free=offer.gpus, units_of={}, unit_ms_of={}, matchable=True) for offer in offers]
    found = explain(idle, open_bid)
    if found.reason not in HARDWARE:
        return None
    named = sorted({share for offer in offers for share in offer.shares})[:SHARES_SHOWN]
    if found.reason is Reason.SHARE_MISSING and named:
        return replace(
            found, relaxations=(*found.relaxations, "data " + " or ".join(f"share:{name}" for name in named))
        )
    return found


def cheapest_minute_nanos(book: OrderBook, bid: Bid) -> int | None:
    """What the first minute of the smallest gang costs on the cheapest listed hardware that fits, busy or not.

    None if the listed hardware has too few seats within the price limit to say so.
    """
    least, own = bid.requires.vram_gib, book.own(bid.customer)
    others = (offer for offer in book.cheapest(bid.requires) if offer.id not in own)
    seats: list[int] = []
    for offer in chain(filter(None, map(book.get, own)), others):
        if offer.vram_gib < least:
            continue
        price = offer.seen_by(bid.customer).price_nanos_per_gpu_hour
        if price > bid.max_price_nanos_per_gpu_hour:
            return None
        if _could_sit(offer, bid):
            seats += [price] * (offer.gpus // bid.requires.gpus)
        if len(seats) >= bid.workers_min:
            return charge_nanos(sum(seats[: bid.workers_min]) * bid.requires.gpus, 1, 60_000)
    return None


_HARDWARE_TESTS: Final = tuple(test for reason, test in CONSTRAINTS if reason in HARDWARE)


def _could_sit(offer: Offer, bid: Bid) -> bool:
    """Whether one worker fits the machine, were nobody on it."""
    idle = replace(offer, units_of={}, unit_ms_of={}) if offer.units_of or offer.unit_ms_of else offer
    for test in _HARDWARE_TESTS:  # noqa: SIM110  (a generator here takes twice as long, and every job asks every offer)
        if not test(idle, bid):
            return False
    return True
