"""Signs of life as part of the record: they come every few seconds, so it says every six hours for how long they came."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from market.state import OfferRecord
from market.turn import Turn

COUNT_MS: Final = 6 * 3_600_000
LEAST_MS: Final = 3_600_000


def count_heartbeats(turn: Turn, offers: Iterable[OfferRecord]) -> None:
    """Note each of these that is open and was heard of for six hours since it was last noted."""
    for offer in offers:
        note_heard(turn, offer, COUNT_MS)


def counts_at_ms(turn: Turn, offer: OfferRecord) -> int:
    """When it is to be noted, if it is heard of until then."""
    return max(offer.counted_ms, turn.volatile.awake_ms or 0) + COUNT_MS


def note_heard(turn: Turn, offer: OfferRecord, least_ms: int = LEAST_MS) -> None:
    """Note for how long the open offer was heard of, if that is long enough to be worth a record. The time in which the market was
    away counts for nobody."""
    if offer.state != "open":
        return
    heard_ms = turn.volatile.heard_ms.get(offer.id, 0) - max(offer.counted_ms, turn.volatile.awake_ms or 0)
    if heard_ms >= least_ms:
        turn.emit("offer_heard", {"offer": offer.id, "heard_ms": heard_ms})
