"""What offers and jobs of the state say to a clearing: orders."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from market.book import OrderBook
from market.elastic import is_interruptible, wish_of
from market.holding import is_paused
from market.lasting import lasts_ms, outlived_ms
from market.listing import Listing
from market.orders import PPM, Bid, Offer, Requirements
from market.outcomes import Json, Settings
from market.periods import DAY
from market.pricing import FIRST_COVER_MS, cover_ms, rate_nanos_per_hour, spendable_nanos
from market.state import Job, OfferRecord, State, Volatile
from market.worth import expected_ms, weight_ppm

MOST_REQUIREMENTS: Final = 4_096
_NOWHERE: Final[frozenset[str]] = frozenset()
_NO_COMMAND: Final[dict[str, Any]] = {}


def is_suspect(offer: OfferRecord, volatile: Volatile) -> bool:
    """Whether the offer lost a lease and its provider has not been heard of since."""
    return offer.lost_ms is not None and volatile.heard_ms.get(offer.id, -1) <= offer.lost_ms


def _stays_ms(offer: OfferRecord, volatile: Volatile) -> int | None:
    until_ms = offer.terms.until_ms
    return None if until_ms is None else max(0, until_ms - offer.terms.notice_ms - volatile.now_ms)


def has_network(offer: OfferRecord) -> bool:
    """Whether its owner allows it and its isolation can bound it: a command without a network of its own gets none."""
    return offer.terms.network and offer.isolation == "sandbox"


def offer_order(state: State, offer: OfferRecord, volatile: Volatile) -> Offer:
    """The offer as the book lists it now."""
    stays_ms = _stays_ms(offer, volatile)
    goes_soon = stays_ms is not None and stays_ms < FIRST_COVER_MS  # what begins now could not work for a minute
    return Offer(
        id=offer.id,
        provider=offer.provider,
        gpu=offer.gpu,
        gpus=offer.gpus,
        gpus_free=offer.gpus_free,
        vram_gib=offer.vram_gib,
        region=offer.region,
        reliability=state.providers[offer.provider].reliability,
        isolation=offer.isolation,
        price_nanos_per_gpu_hour=offer.price_nanos_per_gpu_hour,
        shares=offer.shares,
        network=has_network(offer),
        environments=offer.terms.environments,
        terms=offer.terms,
        units_of=_units_of(state, offer),
        unit_ms_of=_unit_ms_of(state, offer, volatile.now_ms),
        stays_ms=stays_ms,
        matchable=offer.state == "open"
        and not state.members[offer.provider].suspended
        and not (is_suspect(offer, volatile) or is_paused(offer) or goes_soon)
        and not (offer.doubt or offer.asked),
        floor_nanos_per_gpu_hour=offer.floor_price_nanos_per_gpu_hour,
        closes_ms=None if offer.window is None else offer.window.begin_ms - offer.terms.notice_ms,
    )


def _units_of(state: State, offer: OfferRecord) -> dict[str, int]:
    found: dict[str, int] = {}
    if offer.terms.max_units_per_customer is not None:
        for lease in (state.leases[name] for name in offer.live):
            found[lease.customer] = found.get(lease.customer, 0) + lease.gpus
    return found


def _unit_ms_of(state: State, offer: OfferRecord, now_ms: int) -> dict[str, int]:
    if offer.terms.max_unit_ms_per_customer_day is None:
        return {}
    today = DAY.number_of(now_ms)
    found = dict(offer.let_unit_ms) if offer.let_day == today else {}
    for lease in (state.leases[name] for name in offer.live):
        if not lease.own:
            found[lease.customer] = found.get(lease.customer, 0) + lease.unit_ms_since(DAY.begin_ms(today), now_ms)
    return found


def requirements_of(spec: Json) -> Requirements:
    """Equal ones are mostly the same object: whoever looks something up for many bids does so once."""
    workers, data, command = spec["workers"], spec["data"], spec.get("command", _NO_COMMAND)
    return _requirements(
        workers["gpus"],
        tuple(workers["gpu"]),
        float(workers["vram_gib"]),
        tuple(workers["region"]),
        float(workers["reliability"]),
        workers["isolation"],
        data["name"] if data["kind"] == "share" else None,
        bool(command.get("network", False)),
        bool(command.get("requirements")),
        bool(command.get("launch")),
        tuple(workers.get("own", ())),
        workers.get("available_ms", 0),
    )


_requirements: Final = lru_cache(maxsize=MOST_REQUIREMENTS)(Requirements)


def bid_of_spec(job: str, spec: Json, submitted_ms: int, customer: str) -> Bid:
    """The bid of a job that has nothing yet and its whole budget."""
    workers, limits = spec["workers"], spec["limits"]
    takes_ms, requires = expected_ms(spec, None), requirements_of(spec)
    return Bid(
        job=job,
        submitted_ms=submitted_ms,
        workers_min=workers["min"],
        workers_max=workers["max"],
        requires=requires,
        max_price_nanos_per_gpu_hour=limits["max_price_nanos_per_gpu_hour"],
        spendable_nanos=limits["budget_nanos"],
        customer=customer,
        expected_ms=takes_ms,
        interruptible=is_interruptible(spec),
        asked_ms=submitted_ms,
        lasts_ms=lasts_ms(spec, takes_ms),
    )


def expected_of(state: State, job: Job, now_ms: int, spendable: int | None = None) -> int:
    """For how long the job is expected to hold its machines from now on (market/worth.py)."""
    return expected_ms(
        job.spec,
        job.estimate,
        rounds_committed=job.rounds_committed,
        running_ms=now_ms - job.running_since_ms if job.live else 0,
        age_ms=now_ms - job.submitted_ms,
        spendable_nanos=spendable_nanos(state.escrow(job), state.leases_of(job)) if spendable is None else spendable,
    )


def bid_of(state: State, job: Job, settings: Settings, now_ms: int) -> Bid | None:
    """What the job still wants, or None if it wants nobody now."""
    workers = job.spec["workers"]
    live = state.live_leases_of(job) if job.live else []
    wish = wish_of(job.spec, len(live))
    if job.state not in ("pending", "running") or job.wanted != "run" or wish is None or job.promise is not None:
        return None
    if not live and state.members[job.customer].suspended:
        return None
    money = state.escrow(job)
    if job.leases:
        money = spendable_nanos(money, state.leases_of(job))
    takes_ms = expected_of(state, job, now_ms, money)
    longest_ms = max(takes_ms, outlived_ms(state, job)) if job.leases else takes_ms
    waited_ms, due_ms = max(0, now_ms - job.waits_since_ms), state.due_rule.after_ms(takes_ms)
    return Bid(
        job=job.id,
        submitted_ms=job.submitted_ms,
        workers_min=wish.least,
        workers_max=wish.most,
        requires=requirements_of(job.spec),
        max_price_nanos_per_gpu_hour=wish.limit_nanos_per_gpu_hour,
        spendable_nanos=money,
        cover_ms=cover_ms(len(live), workers["min"], job.last_round_ms),
        running_nanos_per_hour=rate_nanos_per_hour(live) if live else 0,
        avoid=_avoided(job, settings, now_ms) if job.avoided else _NOWHERE,
        essential=wish.essential,
        team=state.members[job.customer].team,
        customer=job.customer,
        interruptible=wish.flexible,
        expected_ms=takes_ms,
        weight_ppm=weight_ppm(waited_ms) if wish.essential else PPM,
        since_ms=job.waits_since_ms,
        due=wish.essential and (bool(live) or bool(workers.get("own")) or (due_ms is not None and waited_ms >= due_ms)),
        told="" if job.unmatched is None else job.unmatched["reason"],
        asked_ms=now_ms,
        lasts_ms=lasts_ms(job.spec, longest_ms, flexible=wish.flexible),
    )


def _avoided(job: Job, settings: Settings, now_ms: int) -> frozenset[str]:
    return frozenset(offer for offer, lost in job.avoided.items() if now_ms < lost.until_ms(settings))


def book_of(state: State, volatile: Volatile) -> OrderBook:
    """The offers as they stand, but the withdrawn ones. Whoever keeps or changes the book makes a copy."""
    return listing_of(state, volatile).book(volatile)


def listing_of(state: State, volatile: Volatile) -> Listing:
    if volatile.listing is None or not volatile.listing.of(state):
        volatile.listing = Listing(state, offer_order)
    return volatile.listing
