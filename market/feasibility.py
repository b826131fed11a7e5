"""Whether a bid could be matched at all: on hardware that is listed, with a budget that lasts a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from market.clearing import HARDWARE, Reason, Unmatched, explain, requirements_only
from market.orders import Bid, Offer
from storage.units import charge_nanos

SHARES_SHOWN: Final = 8


def never_fits(offers: Sequence[Offer], bid: Bid) -> Unmatched | None:
    """The constraint that no listed offer meets, whatever is free and whatever is paid; None if some worker could sit.

    An empty market says nothing: None.
    """
    if not offers:
        return None
    idle = [_idle(offer) for offer in offers]
    found = explain(idle, requirements_only(bid))
    if found.reason not in HARDWARE:
        return None
    named = sorted({share for offer in offers for share in offer.shares})[:SHARES_SHOWN]
    if found.reason is Reason.SHARE_MISSING and named:
        return replace(
            found, relaxations=(*found.relaxations, "data " + " or ".join(f"share:{name}" for name in named))
        )
    return found


def _idle(offer: Offer) -> Offer:
    return replace(offer, gpus_free=offer.gpus, units_of={}, unit_ms_of={}, matchable=True)


def cheapest_minute_nanos(offers: Sequence[Offer], bid: Bid) -> int | None:
    """What the first minute of the smallest gang costs on the cheapest listed hardware that fits, busy or not.

    None if the listed hardware has too few seats within the price limit to say so.
    """
    open_bid = requirements_only(bid)
    idle = [_idle(offer.seen_by(bid.customer)) for offer in offers]
    seats: list[int] = []
    for offer in sorted(idle, key=lambda one: (one.price_nanos_per_gpu_hour, one.id)):
        fitting = not never_fits([offer], open_bid)
        if fitting and offer.price_nanos_per_gpu_hour <= bid.max_price_nanos_per_gpu_hour:
            seats += [offer.price_nanos_per_gpu_hour] * (offer.gpus // bid.requires.gpus)
        if len(seats) >= bid.workers_min:
            return charge_nanos(sum(seats[: bid.workers_min]) * bid.requires.gpus, 1, 60_000)
    return None
