"""Offers, bids and what a bid requires: frozen values that the book and the clearing work on.

Money is in nano-dollars per GPU-hour, memory in GiB, time in milliseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING

from market.owner_terms import OwnerTerms
from storage.units import MS_PER_HOUR
from storage.values import value

PPM = 1_000_000
"""What a weight of 1 is."""
LEAST_STAY_MS = 60_000
"""Nothing begins on a machine that is for rent for less."""

_UNBOUNDED = (None,) * 5

if TYPE_CHECKING:
    from market.book import OrderBook


@value
class Offer:
    """`gpus_free` units for rent now on one machine; pays nothing, asks its price."""

    id: str
    provider: str
    gpu: str
    gpus: int
    gpus_free: int
    vram_gib: float
    region: str
    reliability: float
    isolation: str
    price_nanos_per_gpu_hour: int
    shares: tuple[str, ...] = ()
    network: bool = False
    """Whether a command may have a way out to the public internet."""
    environments: bool = False
    """Whether a command may have a Python environment of its own."""
    terms: OwnerTerms = field(default_factory=OwnerTerms)
    units_of: Mapping[str, int] = field(default_factory=dict, hash=False)
    """What each customer has of it now, where its owner limits that."""
    unit_ms_of: Mapping[str, int] = field(default_factory=dict, hash=False)
    """For how long each customer has had it today (units times milliseconds), where its owner limits that."""
    stays_ms: int | None = None
    """For how long what begins now may work before its machine goes; None: it goes at no time that is known."""
    matchable: bool = True
    """False for an offer that is listed but cannot be matched now (offline, draining, suspect)."""
    floor_nanos_per_gpu_hour: int | None = None
    """What an interruptible lease pays at least; None: the ask."""
    closes_ms: int | None = None
    """When leases have notice of its next maintenance window (past: it is near, or has begun); None: none is known."""

    def room_for(self, customer: str) -> int:
        """How many more units the owner lets to this customer, free or not."""
        most = self.terms.max_units_per_customer
        return self.gpus if most is None or customer in self.terms.own else max(0, most - self.units_of.get(customer, 0))

    def has_hours_for(self, customer: str) -> bool:
        """Whether the owner lets to this customer any longer today."""
        most = self.terms.max_unit_ms_per_customer_day
        return most is None or customer in self.terms.own or self.unit_ms_of.get(customer, 0) < most

    def is_worth_it_for(self, bid: Bid) -> bool:
        """Whether the job takes as long as the owner wants a lease to be."""
        least = self.terms.min_lease_ms
        return least is None or max(bid.expected_ms, bid.requires.stays_ms) >= least or bid.customer in self.terms.own

    def lets_as_long_as(self, bid: Bid) -> bool:
        """Whether a lease may last as long as the job needs its machine."""
        most = self.terms.max_lease_ms
        return most is None or bid.lasts_ms <= most or bid.customer in self.terms.own

    def is_open_as_long_as(self, bid: Bid) -> bool:
        """Whether that is over before the next maintenance window; whoever may be moved needs a minute."""
        return self.closes_ms is None or bid.asked_ms + max(bid.lasts_ms, LEAST_STAY_MS) <= self.closes_ms

    @property
    def is_for_all(self) -> bool:
        """Whether it is nobody's own, and lets to every customer, as much as is free, whenever and for as long as it is asked for."""
        terms = self.terms
        bounds = (
            self.closes_ms, terms.max_units_per_customer, terms.max_unit_ms_per_customer_day, terms.min_lease_ms,
            terms.max_lease_ms,
        )  # fmt: skip
        return not (terms.own or terms.allow or terms.deny) and bounds == _UNBOUNDED

    def belongs_to(self, customer: str, providers: Collection[str]) -> bool:
        """Whether both say so: the customer names its provider, and the offer names the customer as its owner."""
        return self.provider in providers and customer in self.terms.own

    def seen_by(self, customer: str) -> Offer:
        """With the price that this customer pays: nothing where it is the owner."""
        return replace(self, price_nanos_per_gpu_hour=0) if customer in self.terms.own else self

    def free_for(self, customer: str) -> int:
        """How many units this customer could have now."""
        return min(self.gpus_free, self.room_for(customer))


@value
class Requirements:
    """What every worker of a gang needs. Empty tuples mean: any. launched: its processes cannot do without `isolation`;
    own: only machines of these providers, and only those that name the customer as their owner; stays_ms: for how long the
    machine must be there."""

    gpus: int = 1
    gpu: tuple[str, ...] = ()
    vram_gib: float = 0.0
    region: tuple[str, ...] = ()
    reliability: float = 0.0
    isolation: str = "process"
    share: str | None = None
    network: bool = False
    environments: bool = False
    launched: bool = False
    own: tuple[str, ...] = ()
    stays_ms: int = 0


@value
class Bid:
    """A job that wants between `workers_min` and `workers_max` more workers, each of `requires.gpus` on one offer.

    `spendable_nanos` is what is left for new workers after the accrued work of the living ones; it must cover
    `cover_ms` of the gang, of which `running_nanos_per_hour` is spent already.
    """

    job: str
    submitted_ms: int
    workers_min: int
    workers_max: int
    requires: Requirements
    max_price_nanos_per_gpu_hour: int
    spendable_nanos: int
    cover_ms: int = 60_000
    running_nanos_per_hour: int = 0
    avoid: frozenset[str] = field(default_factory=frozenset)
    essential: bool = True
    """False for a running gang that could grow but needs nobody: going empty is then no news."""
    team: str = ""
    customer: str = ""
    expected_ms: int = MS_PER_HOUR
    """For how long it is expected to hold its machines from now on (market/worth.py): part of what it is worth."""
    weight_ppm: int = PPM
    """What waiting makes of its worth (market/worth.py); a million counts once."""
    since_ms: int | None = None
    """Since when it has waited; None: since it was submitted."""
    due: bool = False
    """It has waited as long as anybody may have to: it goes first, and what it could use is kept for it."""
    told: str = ""
    """The reason that its customer knows already."""

    interruptible: bool = False
    """It takes what firm bids leave free, and may be outbid (market/spot.py)."""
    asked_ms: int = 0
    """The market's time at which it asks."""
    lasts_ms: int = 0
    """For how long it needs a machine from then on: what it asks for, and what it is expected to take unless it may be moved."""

    @property
    def waits_since_ms(self) -> int:
        """Since when it has waited."""
        return self.submitted_ms if self.since_ms is None else self.since_ms


@value
class Standing:
    """A team as a clearing sees it: `units` in use now, `used_unit_ms` lately (market/fair_share.py)."""

    team: str
    weight: int
    quota_units: int | None
    units: int
    used_unit_ms: int


@value
class Inputs:
    """What a snapshot was made of: with this and the journal it can be made again (market/replaying.py).

    Args:
        at_ms: the market's time.
        position: how many events had been applied; a whole record ends there.
        suspect: open offers that lost a lease and were not heard of since; signs of life are not in the journal.
        digest: SHA-256 of the snapshot (`digest_of_snapshot`).
        jobs: whose bids are in it, where not everybody's are.
    """

    at_ms: int
    position: int
    suspect: tuple[str, ...]
    digest: str
    jobs: tuple[str, ...] | None = None


@value
class BookSnapshot:
    """Everything that `clear()` may know."""

    offers: tuple[Offer, ...]
    bids: tuple[Bid, ...]
    standings: tuple[Standing, ...] = ()
    """Of every team that a bid is of; empty in a market without teams."""
    book: OrderBook | None = field(default=None, compare=False, repr=False)
    """The same offers, indexed already: whoever changes it makes a copy."""
    price_rule: str = "ask"
    inputs: Inputs | None = None
    """Of the live market; None for a book that somebody made up."""
