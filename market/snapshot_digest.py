"""The digest of a snapshot: that a clearing is made again from the very same book is seen before its result is compared."""

from __future__ import annotations

from hashlib import sha256
from operator import attrgetter

from market.orders import BookSnapshot, Offer

_OFFER = (
    "id", "provider", "gpu", "gpus", "gpus_free", "vram_gib", "region", "reliability", "isolation", "price_nanos_per_gpu_hour",
    "shares", "network", "environments", "stays_ms", "matchable",
)  # fmt: skip
_BID = (
    "job", "submitted_ms", "workers_min", "workers_max", "max_price_nanos_per_gpu_hour", "spendable_nanos", "cover_ms",
    "running_nanos_per_hour", "essential", "team", "customer", "expected_ms", "weight_ppm", "since_ms", "due",
)  # fmt: skip
_offer, _bid = attrgetter(*_OFFER), attrgetter(*_BID)


Lines = dict[str, tuple[Offer, bytes]]
"""The digest of each offer's figures, by id, as long as the offer is that very object."""


def digest_of_snapshot(snapshot: BookSnapshot, known: Lines | None = None) -> str:
    """SHA-256 of the book's figures, whatever their order. Terms and requirements follow from the journal."""
    known = {} if known is None else known
    found: list[bytes] = [snapshot.price_rule.encode()]
    for offer in snapshot.offers:
        line = known.get(offer.id)
        if line is None or line[0] is not offer:
            line = known[offer.id] = (offer, sha256(repr(_offer(offer)).encode()).digest())
        found.append(line[1])
    found.extend(repr(_bid(one)).encode() for one in snapshot.bids)
    found.extend(
        repr((one.team, one.weight, one.quota_units, one.units, one.used_unit_ms)).encode() for one in snapshot.standings
    )
    found.sort()
    return sha256(b"".join(found)).hexdigest()
