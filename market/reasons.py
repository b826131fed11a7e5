"""Why a bid got nothing, on the offers of now: what each constraint removed, and which single change would do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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
    relaxations = tuple(one.change for one in helps(ordered, bid))
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
    Reason.MIN_LEASE: "too few offers let to a job that is done so soon",
    Reason.MAX_LEASE: "too few offers let for as long as the job is expected to take",
    Reason.MAINTENANCE: "too few offers are free of maintenance until the job is expected to be done",
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


@dataclass(frozen=True, slots=True)
class Help:
    """A single change of the bid that would match it now.

    Args:
        change: the field of the job file and its new value, such as `limits.max_usd_per_gpu_hour 0.62`.
        words: the same for people, such as `raise max price to $0.62`.
        price_nanos_per_gpu_hour: what the dearest of its seats would cost.
        nanos_per_hour: what its smallest gang would cost.
    """

    change: str
    words: str
    price_nanos_per_gpu_hour: int
    nanos_per_hour: int


def helps(offers: Sequence[Offer], bid: Bid) -> tuple[Help, ...]:
    """Single changes of the bid, each enough on these offers as they are now, the cheapest per GPU-hour first."""
    wanted = max(1, bid.workers_min)
    offers = sorted(offers, key=_by_price)
    found: list[Help] = []
    for reason, loosen in _LOOSEN.items():
        if reason is Reason.ISOLATION and bid.requires.launched:
            continue
        loosened = {reason, *loosen.also}
        others = [offer for offer in offers if _passes_all_but(loosened, offer, bid) and loosen.would_do(offer, bid)]
        seats = sorted(_free_seats(others, bid), key=loosen.rank)[:wanted]
        failing = [seat for seat in seats if any(not dict(CONSTRAINTS)[one](seat, bid) for one in loosened)]
        if len(seats) == wanted and failing and covers(bid, seats):
            found.append(_help(loosen.field, loosen.value(failing), loosen.words, seats, bid.requires.gpus))
    fitting = _free_seats([offer for offer in offers if fits(offer, bid)], bid)
    if len(fitting) < wanted:
        if fitting and covers(bid, fitting):
            found.append(_help("workers.min", str(len(fitting)), "begin with {} workers", fitting, bid.requires.gpus))
        if not found and bid.requires.gpus > 1:
            found.extend(_smaller_workers(offers, bid))
    elif not covers(bid, fitting[:wanted]):
        missing = format_usd(cost_nanos(bid, fitting[:wanted]) - bid.spendable_nanos)
        found.append(_help("", f"{missing} USD more budget", "add ${} of budget", fitting[:wanted], bid.requires.gpus, missing))
    return tuple(sorted(found, key=lambda one: (one.price_nanos_per_gpu_hour, one.nanos_per_hour, one.change)))


def _help(field: str, value: str, words: str, seats: Sequence[Offer], gpus: int, shown: str | None = None) -> Help:
    prices = [seat.price_nanos_per_gpu_hour for seat in seats]
    said = words.format(value if shown is None else shown)
    said = said.replace("with 1 workers", "with 1 worker").replace("1 GPUs", "1 GPU")
    return Help(f"{field} {value}".strip(), said, max(prices), sum(prices) * gpus)


def in_words(found: Sequence[Help]) -> str:
    """`raise max price to $0.62, or accept RTX4090, or begin with 3 workers`."""
    return ", or ".join(one.words for one in found)


def price_gap(offers: Sequence[Offer], bid: Bid) -> tuple[int, int] | None:
    """How far the limit is off: the lowest that would be enough on what is free now, and the lowest if all were free.

    None where no price would do even then. Nano-dollars per GPU-hour; the first is 0 where what is free is not enough.
    """
    wanted = max(1, bid.workers_min)
    passing = sorted(
        (offer for offer in offers if _passes_all_but({Reason.PRICE_TOO_LOW}, offer, bid)), key=_by_price
    )
    free = [seat.price_nanos_per_gpu_hour for seat in _free_seats(passing, bid)]
    idle = [
        offer.price_nanos_per_gpu_hour
        for offer in passing
        for _ in range(min(offer.gpus, offer.room_for(bid.customer)) // bid.requires.gpus)
    ]
    if len(idle) < wanted:
        return None
    return (free[wanted - 1] if len(free) >= wanted else 0), idle[wanted - 1]


def _smaller_workers(offers: Sequence[Offer], bid: Bid) -> list[Help]:
    for gpus in range(bid.requires.gpus - 1, 0, -1):
        smaller = replace(bid, requires=replace(bid.requires, gpus=gpus))
        seats = _free_seats([offer for offer in offers if fits(offer, smaller)], smaller)[: max(1, bid.workers_min)]
        if len(seats) == max(1, bid.workers_min) and covers(smaller, seats):
            return [_help("workers.gpus", str(gpus), "take {} GPUs a worker", seats, gpus)]
    return []


def _passes_all_but(loosened: Collection[Reason], offer: Offer, bid: Bid) -> bool:
    return all(test(offer, bid) for constraint, test in CONSTRAINTS if constraint not in loosened)


@dataclass(frozen=True, slots=True)
class _Loosen:
    """`also`: what the same change of the bid loosens besides."""

    rank: Callable[[Offer], tuple[float, int, str]]
    field: str
    value: Callable[[Sequence[Offer]], str]
    words: str
    would_do: Callable[[Offer, Bid], bool] = lambda offer, bid: True
    also: tuple[Reason, ...] = ()


def _by_price(offer: Offer) -> tuple[float, int, str]:
    return (0.0, offer.price_nanos_per_gpu_hour, offer.id)


def _stays_ms(offer: Offer) -> int:
    return 2**63 if offer.stays_ms is None else offer.stays_ms


def _lets_moved(offer: Offer, bid: Bid) -> bool:
    """Whether the job would be let to if it could be moved."""
    moved = replace(bid, lasts_ms=bid.requires.stays_ms)
    return offer.lets_as_long_as(moved) and offer.is_open_as_long_as(moved)


UNNAMED = "where none is named (leave it out)"
"""How a job accepts a machine whose owner says no region: by asking for none."""


def _names(values: set[str]) -> str:
    return ", ".join(sorted(values))


_LOOSEN: dict[Reason, _Loosen] = {
    Reason.PRICE_TOO_LOW: _Loosen(
        _by_price,
        "limits.max_usd_per_gpu_hour",
        lambda seats: format_usd(max(seat.price_nanos_per_gpu_hour for seat in seats)),
        "raise max price to ${}",
    ),
    Reason.GPU_MODEL: _Loosen(_by_price, "workers.gpu also", lambda seats: _names({seat.gpu for seat in seats}), "accept {}"),
    Reason.VRAM_TOO_SMALL: _Loosen(
        lambda offer: (-offer.vram_gib, offer.price_nanos_per_gpu_hour, offer.id),
        "workers.vram_gib",
        lambda seats: f"{min(seat.vram_gib for seat in seats):g}",
        "accept {} GiB of memory",
    ),
    Reason.REGION: _Loosen(
        _by_price, "workers.region also", lambda seats: _names({seat.region or UNNAMED for seat in seats}), "accept the region {}"
    ),
    Reason.ISOLATION: _Loosen(_by_price, "workers.isolation", lambda _: "process", "accept isolation by {} alone"),
    Reason.NETWORK: _Loosen(_by_price, "network", lambda _: "false", "do without a way out to the internet"),
    Reason.ENVIRONMENTS: _Loosen(_by_price, "no", lambda _: "requirements", "do without {}"),
    Reason.RELIABILITY: _Loosen(
        lambda offer: (-offer.reliability, offer.price_nanos_per_gpu_hour, offer.id),
        "workers.reliability",
        lambda seats: f"{min(seat.reliability for seat in seats):g}",
        "accept a reliability of {}",
    ),
    Reason.LEAVES_TOO_SOON: _Loosen(
        lambda offer: (-_stays_ms(offer), offer.price_nanos_per_gpu_hour, offer.id),
        "workers.available_hours",
        lambda seats: f"{min(map(_stays_ms, seats)) // _HUNDREDTH_MS / 100:g}",
        "accept machines that stay for {} h",
    ),
    Reason.MAX_LEASE: _Loosen(_by_price, "workers.movable", lambda _: "true", "let it be moved", _lets_moved, (Reason.MAINTENANCE,)),
}
