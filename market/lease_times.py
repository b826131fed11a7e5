"""How long leases of an offer may and must be, and its maintenance windows: what an owner says, and what the time makes of it.

A window in the state is a time in milliseconds, journaled when it is known (`offer_window`): when the offer is placed or its windows
change, and when the one before is over. A lease that reaches the longest time of its offer, or the offer's next window, has notice
before, as of a preemption: its host and its run carry that out at a boundary (`market/actors/noticed.py`), and it is over by then,
unless the window was set so late that the whole notice, which is always given, lasts into it.
"""

from __future__ import annotations

from typing import Final

from market.checking import invalid, is_int
from market.commands import KEEP, SetLeaseTimes
from market.granting import end_lease
from market.leases import Lease, LeaseState
from market.maintenance import next_window, over_window, wrong_windows
from market.outbidding import give_notice
from market.outcomes import Answer, Json, Refusal
from market.owner_terms import OwnerTerms
from market.state import OfferRecord, State
from market.turn import Turn
from storage.units import TEN_YEARS_MS, format_instant

LEAST_MS: Final = 1_000


def check_lease_times(terms: OwnerTerms) -> Refusal | None:
    """Whether an offer may have these times and windows."""
    least, most = terms.min_lease_ms, terms.max_lease_ms
    shortest = terms.notice_ms + LEAST_MS
    if most is not None and not is_int(most, shortest, TEN_YEARS_MS):
        return invalid("max_lease_ms", most, f"milliseconds from {shortest} (a second and the notice) to ten years, or none")
    if least is not None and not is_int(least, 1, TEN_YEARS_MS):
        return invalid("min_lease_ms", least, "milliseconds from 1, up to ten years, or none")
    if least is not None and most is not None and least > most:
        return invalid("min_lease_ms", least, f"milliseconds up to max_lease_ms, which is {most}")
    wrong = wrong_windows(terms.maintenance)
    return None if wrong is None else Refusal("invalid", f"maintenance: {wrong}", field="maintenance", remedy="such as '02:00-06:00 sun'")


def set_lease_times(turn: Turn, command: SetLeaseTimes) -> Answer | Refusal:
    """Change them on an offer that is listed: lease times for leases to come, windows for those that run, too."""
    offer = turn.find_offer(command.offer, command.by)
    if isinstance(offer, Refusal):
        return offer
    if offer.state == "withdrawn":
        return Refusal("withdrawn", f"{offer.id} is withdrawn", field="offer", status=409)
    asked = {"min_lease_ms": command.min_lease_ms, "max_lease_ms": command.max_lease_ms}
    said: Json = {name: ms for name, ms in asked.items() if ms != KEEP}
    if command.maintenance is not None:
        said["maintenance"] = list(command.maintenance)
    terms = OwnerTerms.of_json(offer.terms.as_json() | said)
    refusal = check_lease_times(terms) or _check_to_come(turn, offer, terms)
    if refusal is not None:
        return refusal
    if terms != offer.terms:
        turn.emit("offer_terms", {"offer": offer.id, "terms": terms.as_json()})
        turn.volatile.dirty = True
    follow_windows(turn, offer, anew=True)
    return Answer(lease_times_view(offer), created=bool(turn.events))


def _check_to_come(turn: Turn, offer: OfferRecord, terms: OwnerTerms) -> Refusal | None:
    # An offer that is placed is not asked: its owner's unit file may name a window that was to come when it was written.
    over = over_window((text for text in terms.maintenance if text not in offer.terms.maintenance), turn.now_ms)
    return None if over is None else Refusal("invalid", f"maintenance: {over!r} is over", field="maintenance", remedy="a window that is to come")


def follow_windows(turn: Turn, offer: OfferRecord, *, anew: bool = False) -> None:
    """Note the offer's next window when the one before is over; `anew`: also when its windows are others."""
    known = offer.window
    if (known is None and not (anew and offer.terms.maintenance)) or offer.state == "withdrawn":
        return
    if not anew and known is not None and turn.now_ms < known.end_ms:
        return
    found = next_window(offer.terms.maintenance, turn.now_ms)
    if found != (None if known is None else (known.begin_ms, known.end_ms)):
        begin_ms, end_ms = (None, None) if found is None else found
        turn.emit("offer_window", {"offer": offer.id, "begin_ms": begin_ms, "end_ms": end_ms})
        turn.volatile.dirty = True


def end_what_is_due(turn: Turn) -> None:
    """Give notice to leases whose time is over soon; one whose worker was never started ends at once."""
    state = turn.state
    for name in list(state.live_leases):
        lease = state.leases[name]
        if lease.ending is not None or (found := ends(lease, state.offers[lease.offer])) is None:
            continue
        ends_ms, reason = found
        if turn.now_ms < ends_ms - state.offers[lease.offer].terms.notice_ms:
            continue
        if lease.state is LeaseState.GRANTED:
            end_lease(turn, lease, reason, f"its offer lets it until {format_instant(ends_ms)}")
        else:
            give_notice(turn, lease, reason)
        turn.volatile.dirty = True


def ends(lease: Lease, offer: OfferRecord) -> tuple[int, str] | None:
    """When the lease is over by its offer's times, in milliseconds since the epoch, and by which cause; None: at no time that is known."""
    window = offer.window
    if window is None or (lease.longest_until_ms is not None and lease.longest_until_ms <= window.begin_ms):
        return None if lease.longest_until_ms is None else (lease.longest_until_ms, "max_lease")
    announced = lease.window_ms is not None and lease.window_ms <= window.begin_ms
    return window.begin_ms, "maintenance" if announced else "maintenance_unannounced"


def ends_by(state: State, lease: Lease) -> int | None:
    """When a living lease is over by its offer's times; None: at no time that is known."""
    found = ends(lease, state.offers[lease.offer]) if lease.live else None
    return None if found is None else found[0]


def lease_times_view(offer: OfferRecord) -> Json:
    """{id, min_lease_ms, max_lease_ms, maintenance, maintenance_next, version}."""
    return {"id": offer.id, **times_view(offer), "version": offer.version}


def times_view(offer: OfferRecord) -> Json:
    """What everybody may know of it; `maintenance_next` is {begin_ms, end_ms} of the window it is in, or of the next one."""
    window = offer.window
    return {
        "min_lease_ms": offer.terms.min_lease_ms,
        "max_lease_ms": offer.terms.max_lease_ms,
        "maintenance": list(offer.terms.maintenance),
        "maintenance_next": None if window is None else {"begin_ms": window.begin_ms, "end_ms": window.end_ms},
    }
