"""Commands about offers and the leases on them: what providers and their hosts say (market/commands.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from market.owner_terms import OwnerTerms
from market.team_commands import KEEP
from storage.values import value


@value
class PlaceOffer:
    """List hardware. An offer that is offline or withdrawn may be placed again under its id with other terms.

    `selftest`: signed, see `market/selftests.py`; without one by which a sandbox held the offer shows isolation `process`.
    """

    id: str
    name: str
    gpu: str
    gpus: int
    vram_gib: float
    region: str
    price_nanos_per_gpu_hour: int
    floor_price_nanos_per_gpu_hour: int | None
    isolation: str
    measured: Mapping[str, float]
    shares: tuple[str, ...]
    node: str
    versions: Mapping[str, str]
    by: str
    terms: OwnerTerms = field(default_factory=OwnerTerms)
    selftest: Mapping[str, Any] | None = None


@value
class ChangeOffer:
    """`action`: price, drain, withdraw or relist; only `price` takes `price_nanos_per_gpu_hour`."""

    offer: str
    action: str
    by: str
    price_nanos_per_gpu_hour: int | None = None


@value
class HoldOffer:
    """The owner holds `gpus` units of an offer back (0 releases them), until `until_ms` if that is said, and gives notice
    to `leases`. `reason` is one of market/holding.py, `why` a sentence for people."""

    offer: str
    gpus: int
    by: str
    reason: str = "reclaim"
    why: str = ""
    until_ms: int | None = None
    leases: tuple[str, ...] = ()


@value
class SetLeaseTimes:
    """How long leases of an offer may and must be, in milliseconds (KEEP: as it is, None: no bound), for leases to come; and its
    maintenance windows (None: as they are), which those that run leave, too."""

    offer: str
    by: str
    min_lease_ms: int | None = KEEP
    max_lease_ms: int | None = KEEP
    maintenance: tuple[str, ...] | None = None


@value
class Heard:
    """A sign of life from the provider of this offer; journaled only when the offer was offline."""

    offer: str
    by: str


@value
class ReportMeasured:
    """What an offer's machine measured when the market asked for it, by the seed that it was given."""

    offer: str
    seed: int
    measured: Mapping[str, float]
    by: str


@value
class LoseRay:
    """Ray's head is another one than before: what ran on the cluster of the old one is gone, by nobody's fault but the
    market's. Offers come back when their providers have joined the new cluster and place them again."""

    by: str


@value
class StartLease:
    """The provider's word that a worker holds the lease. `meter_key`: the public key, hex, by which that worker signs its
    meter; empty where it signs nothing. `machine`: what it runs on, signed (storage/machines.py)."""

    lease: str
    epoch: int
    worker: str
    pid: int
    node: str
    by: str
    meter_key: str = ""
    machine: Mapping[str, Any] | None = None


@value
class EndLease:
    """The provider's word that a lease is over; whatever the reason, the customer is not at fault."""

    lease: str
    epoch: int
    reason: str
    detail: str
    by: str


OfferCommand = PlaceOffer | ChangeOffer | SetLeaseTimes | HoldOffer | Heard | ReportMeasured | LoseRay | StartLease | EndLease
