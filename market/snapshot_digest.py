"""The digest of a snapshot: that a clearing is made again from the very same book is seen before its result is compared.

The offers' part is a sum of one digest for each (2,048 bits, modulo 2^2048), so that a book that is kept from one look to the
next adds and subtracts what has changed, and the order is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256, shake_256
from operator import attrgetter
from typing import Final

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
SUM_BYTES: Final = 256
MODULUS: Final = 1 << (8 * SUM_BYTES)
SUMMED: Final = "sum1:"
"""What a digest that was made with a sum begins with; older ones hashed the sorted digests of all."""


def part_of(offer: Offer) -> int:
    """What an offer adds to the sum of its book."""
    return int.from_bytes(shake_256(_line(offer).encode()).digest(SUM_BYTES))


def _line(offer: Offer) -> str:
    """Of an offer without maintenance windows as it was before there were any."""
    line = repr(_offer(offer))
    return line if offer.closes_ms is None else f"{line} closes {offer.closes_ms}"


def sum_of(offers: Iterable[Offer]) -> int:
    """The sum of a whole book."""
    return sum(map(part_of, offers)) % MODULUS


def digest_of_snapshot(snapshot: BookSnapshot, offers_sum: int) -> str:
    """Of the figures of a book with this sum, whatever their order. Terms and requirements follow from the journal."""
    found = [*map(_bid_line, snapshot.bids), *_standing_lines(snapshot)]
    found.sort()
    whole = [snapshot.price_rule.encode(), offers_sum.to_bytes(SUM_BYTES), *found]
    return SUMMED + sha256(b"\n".join(whole)).hexdigest()


def older_digest(snapshot: BookSnapshot) -> str:
    """As markets wrote it before there was a sum."""
    found = [snapshot.price_rule.encode(), *(sha256(repr(_offer(one)).encode()).digest() for one in snapshot.offers)]
    found += [*map(_bid_line, snapshot.bids), *_standing_lines(snapshot)]
    found.sort()
    return sha256(b"".join(found)).hexdigest()


def _bid_line(bid: object) -> bytes:
    return repr(_bid(bid)).encode()


def _standing_lines(snapshot: BookSnapshot) -> list[bytes]:
    return [repr((one.team, one.weight, one.quota_units, one.units, one.used_unit_ms)).encode() for one in snapshot.standings]
