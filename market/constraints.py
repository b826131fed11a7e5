"""What an offer must meet to seat a worker of a bid: the constraints in the order in which they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from enum import StrEnum

from market.orders import Bid, Offer
from storage.units import charge_nanos


class Reason(StrEnum):
    """Why a bid got nothing: the first constraint that left it fewer seats than its smallest gang."""

    NO_OFFERS = "no_offers"
    GPU_MODEL = "gpu_model"
    VRAM_TOO_SMALL = "vram_too_small"
    REGION = "region"
    ISOLATION = "isolation"
    NETWORK = "network"
    ENVIRONMENTS = "environments"
    RELIABILITY = "reliability"
    SHARE_MISSING = "share_missing"
    OFFER_TOO_SMALL = "offer_too_small"
    NOT_YOURS = "not_yours"
    NOT_FOR_YOU = "not_for_you"
    CUSTOMER_LIMIT = "customer_limit"
    CUSTOMER_HOURS = "customer_hours"
    LEAVES_TOO_SOON = "leaves_too_soon"
    MIN_LEASE = "min_lease"
    MAX_LEASE = "max_lease"
    MAINTENANCE = "maintenance"
    PRICE_TOO_LOW = "price_too_low"
    NOT_AVAILABLE = "not_available"
    AVOIDED = "avoided"
    BUSY = "busy"
    GANG_TOO_BIG = "gang_too_big"
    BUDGET_TOO_SMALL = "budget_too_small"
    TEAM_QUOTA = "team_quota"
    OUTBID = "outbid"
    KEPT_FOR_ANOTHER = "kept_for_another"
    CLASS_PRICE = "class_price"
    NOT_CONSIDERED = "not_considered"


HARDWARE: frozenset[Reason] = frozenset(
    {
        Reason.GPU_MODEL,
        Reason.VRAM_TOO_SMALL,
        Reason.REGION,
        Reason.ISOLATION,
        Reason.NETWORK,
        Reason.ENVIRONMENTS,
        Reason.RELIABILITY,
        Reason.SHARE_MISSING,
        Reason.OFFER_TOO_SMALL,
        Reason.NOT_YOURS,
        Reason.NOT_FOR_YOU,
        Reason.CUSTOMER_LIMIT,
        Reason.LEAVES_TOO_SOON,
    }
)
"""Constraints that no change of price or load can lift."""

PERSONAL: frozenset[Reason] = frozenset(
    {
        Reason.NOT_YOURS,
        Reason.NOT_FOR_YOU,
        Reason.CUSTOMER_LIMIT,
        Reason.CUSTOMER_HOURS,
        Reason.MIN_LEASE,
        Reason.MAX_LEASE,
        Reason.MAINTENANCE,
        Reason.AVOIDED,
    }
)
"""Constraints between an owner's terms and one customer's bid. An offer that `is_for_all` meets them for every bid that avoids
nobody and does not ask for its customer's own machines; all others but price and availability depend on what a bid requires alone."""


Test = Callable[[Offer, Bid], bool]
CONSTRAINTS: tuple[tuple[Reason, Test], ...] = (
    (Reason.GPU_MODEL, lambda offer, bid: not bid.requires.gpu or offer.gpu in bid.requires.gpu),
    (Reason.VRAM_TOO_SMALL, lambda offer, bid: offer.vram_gib >= bid.requires.vram_gib),
    (Reason.REGION, lambda offer, bid: not bid.requires.region or offer.region in bid.requires.region),
    (Reason.ISOLATION, lambda offer, bid: bid.requires.isolation == "process" or offer.isolation == "sandbox"),
    (Reason.NETWORK, lambda offer, bid: offer.network or not bid.requires.network),
    (Reason.ENVIRONMENTS, lambda offer, bid: offer.environments or not bid.requires.environments),
    (Reason.RELIABILITY, lambda offer, bid: offer.reliability >= bid.requires.reliability),
    (Reason.SHARE_MISSING, lambda offer, bid: bid.requires.share is None or bid.requires.share in offer.shares),
    (Reason.OFFER_TOO_SMALL, lambda offer, bid: offer.gpus >= bid.requires.gpus),
    (Reason.NOT_YOURS, lambda offer, bid: not bid.requires.own or offer.belongs_to(bid.customer, bid.requires.own)),
    (Reason.NOT_FOR_YOU, lambda offer, bid: offer.terms.lets(bid.customer)),
    (Reason.CUSTOMER_LIMIT, lambda offer, bid: offer.room_for(bid.customer) >= bid.requires.gpus),
    (Reason.CUSTOMER_HOURS, lambda offer, bid: offer.has_hours_for(bid.customer)),
    (Reason.LEAVES_TOO_SOON, lambda offer, bid: offer.stays_ms is None or offer.stays_ms >= bid.requires.stays_ms),
    (Reason.MIN_LEASE, lambda offer, bid: offer.is_worth_it_for(bid)),
    (Reason.MAX_LEASE, lambda offer, bid: offer.lets_as_long_as(bid)),
    (Reason.MAINTENANCE, lambda offer, bid: offer.is_open_as_long_as(bid)),
    (Reason.PRICE_TOO_LOW, lambda offer, bid: offer.price_nanos_per_gpu_hour <= bid.max_price_nanos_per_gpu_hour),
    (Reason.NOT_AVAILABLE, lambda offer, bid: offer.matchable),
    (Reason.AVOIDED, lambda offer, bid: offer.id not in bid.avoid),
)


def fits(offer: Offer, bid: Bid) -> bool:
    """Whether one worker of the bid could be seated on the offer now, budget aside."""
    return all(test(offer, bid) for _, test in CONSTRAINTS) and offer.free_for(bid.customer) >= bid.requires.gpus


def covers(bid: Bid, seats: Sequence[Offer]) -> bool:
    """Whether what the bid may spend pays the whole gang, with these seats, for `cover_ms`."""
    return cost_nanos(bid, seats) <= bid.spendable_nanos


def passes(offer: Offer, bid: Bid, reasons: Collection[Reason]) -> bool:
    """Whether the offer meets these constraints of the bid."""
    return all(test(offer, bid) for reason, test in CONSTRAINTS if reason in reasons)


def cost_nanos(bid: Bid, seats: Sequence[Offer]) -> int:
    """What the whole gang costs for `cover_ms`, at the asks."""
    return cost_nanos_at(bid, [seat.price_nanos_per_gpu_hour for seat in seats])


def cost_nanos_at(bid: Bid, prices_nanos_per_gpu_hour: Iterable[int]) -> int:
    """The same at other prices of its new workers."""
    new_nanos_per_hour = sum(prices_nanos_per_gpu_hour) * bid.requires.gpus
    return charge_nanos(bid.running_nanos_per_hour + new_nanos_per_hour, 1, bid.cover_ms)


def requirements_only(bid: Bid) -> Bid:
    """The bid without price, budget and history: what only hardware can satisfy."""
    return replace(
        bid, max_price_nanos_per_gpu_hour=2**63, spendable_nanos=2**63, avoid=frozenset(), workers_min=1, workers_max=1
    )
