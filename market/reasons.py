"""Why a bid got nothing, on the offers of now: what each constraint removed, and which single change would do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from market.constraints import CONSTRAINTS, Reason, cost_nanos, covers, fits
from market.orders import Bid, Offer
from storage.units import MS_PER_HOUR, format_usd

_HUNDREDTH_MS: Final = MS_PER_HOUR // 100


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
        missing = cost_nanos(bid, fitting[:wanted]) - bid.spendable_nanos
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
