"""Clearing: which bid gets which offers, and for everybody else the reason. A pure function of a snapshot.

Bids are served in the order of submission, or where there are teams in their turn (market/fair_share.py); each takes the cheapest seats that fit and pays their asking price. A seat is
`requires.gpus` units on one offer. The result does not depend on the order of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from market.book import OrderBook
from market.fair_share import Turns
from market.orders import Bid, BookSnapshot, Offer, Requirements
from storage.units import MS_PER_HOUR, charge_nanos, format_usd


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
    PRICE_TOO_LOW = "price_too_low"
    NOT_AVAILABLE = "not_available"
    AVOIDED = "avoided"
    BUSY = "busy"
    GANG_TOO_BIG = "gang_too_big"
    BUDGET_TOO_SMALL = "budget_too_small"
    TEAM_QUOTA = "team_quota"
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


@dataclass(frozen=True, slots=True)
class Match:
    """`offers` has one id for each new worker, cheapest first (an id again for two workers on one offer)."""

    job: str
    offers: tuple[str, ...]
    gpus: int
    prices_nanos_per_gpu_hour: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """How many GPUs a constraint took away, in the order in which the constraints are looked at."""

    reason: Reason
    gpus: int


@dataclass(frozen=True, slots=True)
class Unmatched:
    """`detail` is a sentence; `relaxations` name each a single change that would match the bid now."""

    job: str
    reason: Reason
    detail: str
    removed: tuple[Removed, ...] = ()
    relaxations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Clearing:
    matches: tuple[Match, ...]
    unmatched: tuple[Unmatched, ...]


Test = Callable[[Offer, Bid], bool]
_HUNDREDTH_MS: Final = MS_PER_HOUR // 100

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
    (Reason.PRICE_TOO_LOW, lambda offer, bid: offer.price_nanos_per_gpu_hour <= bid.max_price_nanos_per_gpu_hour),
    (Reason.NOT_AVAILABLE, lambda offer, bid: offer.matchable),
    (Reason.AVOIDED, lambda offer, bid: offer.id not in bid.avoid),
)


def clear(snapshot: BookSnapshot, budget_of_work: int = 1_000_000, *, reasons: bool = True) -> Clearing:
    """Match every bid of the snapshot that can be matched, looking at no more than `budget_of_work` offers in all.

    Without `reasons` nobody is told why it got nothing, which is most of the work where many wait.
    """
    book = OrderBook(snapshot.offers) if snapshot.book is None else snapshot.book.copy()
    matches: list[Match] = []
    unmatched: list[Unmatched] = []
    left = budget_of_work
    turns = Turns(snapshot.bids, snapshot.standings) if snapshot.standings else None
    for asked in turns or sorted(snapshot.bids, key=lambda one: (one.submitted_ms, one.job)):
        bid = asked if turns is None else turns.within_quota(asked)
        if bid is None:
            assert turns is not None
            if asked.essential:
                unmatched.append(Unmatched(asked.job, Reason.TEAM_QUOTA, turns.why_not(asked)))
            continue
        if left <= 0:
            unmatched.append(Unmatched(bid.job, Reason.NOT_CONSIDERED, "this clearing ran out of its budget of work"))
            continue
        seats, looked_at = _cheapest_seats(book, bid, left)
        left -= looked_at
        if seats is None:
            if bid.essential and reasons:
                unmatched.append(explain(tuple(book), bid))
            continue
        for offer in seats:
            now = book.get(offer.id)
            assert now is not None
            gpus = bid.requires.gpus
            assert now.free_for(bid.customer) >= gpus
            units_of = {**now.units_of, bid.customer: now.units_of.get(bid.customer, 0) + gpus}
            book.put(replace(now, gpus_free=now.gpus_free - gpus, units_of=units_of))
        if turns is not None:
            turns.granted(bid, len(seats) * bid.requires.gpus)
        prices = tuple(offer.price_nanos_per_gpu_hour for offer in seats)
        matches.append(Match(bid.job, tuple(offer.id for offer in seats), bid.requires.gpus, prices))
    return Clearing(tuple(matches), tuple(unmatched))


def fits(offer: Offer, bid: Bid) -> bool:
    """Whether one worker of the bid could be seated on the offer now, budget aside."""
    return all(test(offer, bid) for _, test in CONSTRAINTS) and offer.free_for(bid.customer) >= bid.requires.gpus


def covers(bid: Bid, seats: Sequence[Offer]) -> bool:
    """Whether what the bid may spend pays the whole gang, with these seats, for `cover_ms`."""
    return _cost_nanos(bid, seats) <= bid.spendable_nanos


def _cost_nanos(bid: Bid, seats: Sequence[Offer]) -> int:
    new_nanos_per_hour = sum(seat.price_nanos_per_gpu_hour for seat in seats) * bid.requires.gpus
    return charge_nanos(bid.running_nanos_per_hour + new_nanos_per_hour, 1, bid.cover_ms)


def _candidates(book: OrderBook, bid: Bid) -> Iterator[Offer]:
    """Its own, which cost nothing, and then the others, cheapest first; only what has something free."""
    for name in book.own(bid.customer):
        offer = book.get(name)
        assert offer is not None
        yield offer.seen_by(bid.customer)
    for offer in book.cheapest_free(bid.requires):
        if bid.customer not in offer.terms.own:
            yield offer


def _cheapest_seats(book: OrderBook, bid: Bid, work: int) -> tuple[list[Offer] | None, int]:
    seats: list[Offer] = []
    looked_at = 0
    for offer in _candidates(book, bid):
        if offer.price_nanos_per_gpu_hour > bid.max_price_nanos_per_gpu_hour or looked_at >= work:
            break
        looked_at += 1
        if not fits(offer, bid):
            continue
        for _ in range(offer.free_for(bid.customer) // bid.requires.gpus):
            if len(seats) == bid.workers_max or not covers(bid, [*seats, offer]):
                break
            seats.append(offer)
        if len(seats) == bid.workers_max:
            break
    enough = len(seats) >= max(1, bid.workers_min)
    return (seats if enough else None), max(1, looked_at)


def explain(offers: Sequence[Offer], bid: Bid) -> Unmatched:
    """Why the bid cannot be matched on these offers: what each constraint removed, and which single change would do."""
    ordered = sorted((offer.seen_by(bid.customer) for offer in offers), key=lambda one: (one.price_nanos_per_gpu_hour, one.id))
    removed: list[Removed] = []
    wanted = max(1, bid.workers_min)
    reason: Reason | None = None if ordered else Reason.NO_OFFERS
    if 0 < _room(ordered, bid) < wanted:
        reason = Reason.GANG_TOO_BIG
    remaining = ordered
    for constraint, test in CONSTRAINTS:
        kept = [offer for offer in remaining if test(offer, bid)]
        gone = _units(remaining) - _units(kept)
        if gone:
            removed.append(Removed(constraint, gone))
            if reason is None and _room(kept, bid) < wanted:
                reason = constraint
        remaining = kept
    busy = _units(remaining) - sum(offer.gpus_free for offer in remaining)
    if busy:
        removed.append(Removed(Reason.BUSY, busy))
    seats = _free_seats(remaining, bid)
    if reason is None and len(seats) < wanted:
        reason = Reason.BUSY if busy and _room(remaining, bid) >= wanted else Reason.GANG_TOO_BIG
    if reason is None:
        reason = Reason.BUDGET_TOO_SMALL
    relaxations = _relaxations(ordered, bid)
    return Unmatched(
        bid.job, reason, _sentence(reason, bid, ordered, removed, relaxations), tuple(removed), relaxations
    )


def _units(offers: Sequence[Offer]) -> int:
    return sum(offer.gpus for offer in offers)


def _room(offers: Sequence[Offer], bid: Bid) -> int:
    return sum(min(offer.gpus, offer.room_for(bid.customer)) // bid.requires.gpus for offer in offers)


def _free_seats(offers: Sequence[Offer], bid: Bid) -> list[Offer]:
    return [offer for offer in offers for _ in range(offer.free_for(bid.customer) // bid.requires.gpus)]


_SENTENCES: dict[Reason, str] = {
    Reason.NO_OFFERS: "nothing is offered",
    Reason.GPU_MODEL: "too few GPUs of the wanted model are offered",
    Reason.VRAM_TOO_SMALL: "too few GPUs with that much memory are offered",
    Reason.REGION: "too few GPUs are offered in the wanted region",
    Reason.ISOLATION: "too few offers have the wanted isolation",
    Reason.NETWORK: "too few offers let a command reach the internet",
    Reason.ENVIRONMENTS: "too few offers build environments of requirements",
    Reason.RELIABILITY: "too few offers are that reliable",
    Reason.SHARE_MISSING: "too few offers have the named data",
    Reason.OFFER_TOO_SMALL: "no offer has that many GPUs on one machine",
    Reason.NOT_YOURS: "too few offers of the providers that you name as your own name you as their owner",
    Reason.NOT_FOR_YOU: "too few providers rent to you",
    Reason.CUSTOMER_LIMIT: "providers that would fit let you no more of their machines",
    Reason.CUSTOMER_HOURS: "providers that would fit let you no more hours of their machines before the next day (UTC)",
    Reason.LEAVES_TOO_SOON: "too few offers stay for that long",
    Reason.PRICE_TOO_LOW: "too few offers ask as little as the price limit",
    Reason.NOT_AVAILABLE: "offers that would fit are offline, draining, paused or not heard of",
    Reason.AVOIDED: "offers that would fit have just lost a worker of this job",
    Reason.BUSY: "offers that would fit are busy",
    Reason.GANG_TOO_BIG: "the gang needs more workers than all offers together have room for",
    Reason.BUDGET_TOO_SMALL: "the budget does not cover the gang",
}


def _sentence(
    reason: Reason, bid: Bid, offers: Sequence[Offer], removed: Sequence[Removed], relaxations: Sequence[str]
) -> str:
    workers = f"{max(1, bid.workers_min)} x {bid.requires.gpus} GPU"
    parts = [f"{_SENTENCES[reason]}: {workers} wanted, {_units(offers)} GPU offered"]
    if removed:
        parts.append("removed by " + ", ".join(f"{one.reason} {one.gpus}" for one in removed))
    if relaxations:
        parts.append("would match with " + " or ".join(relaxations))
    return "; ".join(parts)


def _relaxations(offers: Sequence[Offer], bid: Bid) -> tuple[str, ...]:
    """Single changes of the bid, each enough on these offers as they are now."""
    wanted = max(1, bid.workers_min)
    found: list[str] = []
    for reason, loosen in _LOOSEN.items():
        if reason is Reason.ISOLATION and bid.requires.launched:
            continue
        others = [offer for offer in offers if _passes_all_but(reason, offer, bid)]
        seats = sorted(_free_seats(others, bid), key=loosen.rank)[:wanted]
        failing = [seat for seat in seats if not dict(CONSTRAINTS)[reason](seat, bid)]
        if len(seats) == wanted and failing and covers(bid, seats):
            found.append(loosen.text(failing))
    fitting = _free_seats([offer for offer in offers if fits(offer, bid)], bid)
    if len(fitting) < wanted:
        if fitting and covers(bid, fitting):
            found.append(f"workers.min {len(fitting)}")
        if not found and bid.requires.gpus > 1:
            found.extend(_smaller_workers(offers, bid))
    elif not covers(bid, fitting[:wanted]):
        missing = _cost_nanos(bid, fitting[:wanted]) - bid.spendable_nanos
        found.append(f"{format_usd(missing)} USD more budget")
    return tuple(found)


def _smaller_workers(offers: Sequence[Offer], bid: Bid) -> list[str]:
    for gpus in range(bid.requires.gpus - 1, 0, -1):
        smaller = replace(bid, requires=replace(bid.requires, gpus=gpus))
        seats = _free_seats([offer for offer in offers if fits(offer, smaller)], smaller)[: max(1, bid.workers_min)]
        if len(seats) == max(1, bid.workers_min) and covers(smaller, seats):
            return [f"workers.gpus {gpus}"]
    return []


def _passes_all_but(reason: Reason, offer: Offer, bid: Bid) -> bool:
    return all(test(offer, bid) for constraint, test in CONSTRAINTS if constraint is not reason)


@dataclass(frozen=True, slots=True)
class _Loosen:
    rank: Callable[[Offer], tuple[float, int, str]]
    text: Callable[[Sequence[Offer]], str]


def _by_price(offer: Offer) -> tuple[float, int, str]:
    return (0.0, offer.price_nanos_per_gpu_hour, offer.id)


def _stays_ms(offer: Offer) -> int:
    return 2**63 if offer.stays_ms is None else offer.stays_ms


def _names(values: set[str]) -> str:
    return ", ".join(sorted(values))


_LOOSEN: dict[Reason, _Loosen] = {
    Reason.PRICE_TOO_LOW: _Loosen(
        _by_price,
        lambda seats: "limits.max_usd_per_gpu_hour " + format_usd(max(seat.price_nanos_per_gpu_hour for seat in seats)),
    ),
    Reason.GPU_MODEL: _Loosen(_by_price, lambda seats: f"workers.gpu also {_names({seat.gpu for seat in seats})}"),
    Reason.VRAM_TOO_SMALL: _Loosen(
        lambda offer: (-offer.vram_gib, offer.price_nanos_per_gpu_hour, offer.id),
        lambda seats: f"workers.vram_gib {min(seat.vram_gib for seat in seats):g}",
    ),
    Reason.REGION: _Loosen(_by_price, lambda seats: f"workers.region also {_names({seat.region for seat in seats})}"),
    Reason.ISOLATION: _Loosen(_by_price, lambda seats: "workers.isolation process"),
    Reason.NETWORK: _Loosen(_by_price, lambda seats: "network false"),
    Reason.ENVIRONMENTS: _Loosen(_by_price, lambda seats: "no requirements"),
    Reason.RELIABILITY: _Loosen(
        lambda offer: (-offer.reliability, offer.price_nanos_per_gpu_hour, offer.id),
        lambda seats: f"workers.reliability {min(seat.reliability for seat in seats):g}",
    ),
    Reason.LEAVES_TOO_SOON: _Loosen(
        lambda offer: (-_stays_ms(offer), offer.price_nanos_per_gpu_hour, offer.id),
        lambda seats: f"workers.available_hours {min(map(_stays_ms, seats)) // _HUNDREDTH_MS / 100:g}",
    ),
}


def requirements_only(bid: Bid) -> Bid:
    """The bid without price, budget and history: what only hardware can satisfy."""
    return replace(
        bid, max_price_nanos_per_gpu_hour=2**63, spendable_nanos=2**63, avoid=frozenset(), workers_min=1, workers_max=1
    )


__all__ = [
    "HARDWARE", "Bid", "BookSnapshot", "Clearing", "Match", "Reason", "Removed", "Requirements", "Unmatched",
    "clear", "covers", "explain", "fits", "requirements_only",
]  # fmt: skip
