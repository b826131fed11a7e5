"""What an owner holds back of its own offer, and the notice that leases get before they end for it.

A hold is beside the offer's state: units that are held are not for rent, and an offer of which all are held is paused. It
outlasts restarts of the market and of the provider, and ends when it is released or its time is over. The provider's
host ends the leases themselves (`market/actors/provider_host.py`); a lease that has notice says so in the run's directive.
"""

from __future__ import annotations

from collections.abc import Iterable

from market.checking import MAX_INT, invalid, is_int, is_text
from market.commands import HoldOffer
from market.outcomes import Answer, Json, Refusal
from market.state import OfferRecord
from market.turn import Turn

HOLD_REASONS = ("reclaim", "idle", "hours")
NOTHING_HELD: Json = {"gpus": 0, "reason": "", "why": "", "until_ms": None}


def hold_offer(turn: Turn, command: HoldOffer) -> Answer | Refusal:
    """Hold units back, give notice to leases, or (0 units) release. The same again is answered."""
    offer = turn.find_offer(command.offer, command.by)
    if isinstance(offer, Refusal):
        return offer
    refusal = _check(turn, offer, command)
    if refusal is not None:
        return refusal
    wanted = NOTHING_HELD
    if command.gpus:
        wanted = {"gpus": command.gpus, "reason": command.reason, "why": turn.cut(command.why)}
        wanted = {**wanted, "until_ms": command.until_ms}
    noticed = [name for name in command.leases if name in offer.live and turn.state.leases[name].ending is None]
    if offer.held != wanted:
        turn.emit("offer_held", {"offer": offer.id, **wanted})
    for name in noticed:
        lease = turn.state.leases[name]
        fields = {"lease": lease.id, "epoch": lease.epoch, "job": lease.job, "reason": "preempted"}
        turn.emit("lease_noticed", fields | {"notice_ms": offer.terms.notice_ms})
    return Answer(held_view(offer, turn.now_ms), created=bool(turn.events))


def _check(turn: Turn, offer: OfferRecord, command: HoldOffer) -> Refusal | None:
    if not is_int(command.gpus, 0, offer.gpus):
        return invalid("gpus", command.gpus, f"a whole number from 0 to {offer.gpus}, which the offer has")
    if command.gpus and command.reason not in HOLD_REASONS:
        return invalid("reason", command.reason, ", ".join(HOLD_REASONS))
    if not is_text(command.why, turn.settings.max_text):
        return invalid("why", command.why, "a short text")
    if command.until_ms is not None and not is_int(command.until_ms, 1, MAX_INT):
        return invalid("until_ms", command.until_ms, "milliseconds since the epoch, or nothing")
    if offer.state == "withdrawn":
        return Refusal("withdrawn", f"{offer.id} is withdrawn", field="offer", status=409)
    return None


def release_what_is_over(turn: Turn, offers: Iterable[OfferRecord]) -> None:
    """End the holds of these whose time has passed."""
    for offer in offers:
        until_ms = offer.held["until_ms"]
        if until_ms is not None and until_ms <= turn.now_ms:
            turn.emit("offer_held", {"offer": offer.id, **NOTHING_HELD})


def is_paused(offer: OfferRecord) -> bool:
    """Whether its owner holds all of it."""
    return bool(offer.held["gpus"] >= offer.gpus)


def shown_state(offer: OfferRecord, now_ms: int) -> str:
    """The offer's state as people see it."""
    if offer.state == "open" and offer.is_in_maintenance(now_ms):
        return "maintenance"
    return "paused" if offer.state == "open" and is_paused(offer) else offer.state


def held_view(offer: OfferRecord, now_ms: int) -> Json:
    return {"id": offer.id, "state": shown_state(offer, now_ms), "held": dict(offer.held), "version": offer.version}
