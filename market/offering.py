"""What providers say of their offers: place, price, drain, withdraw, relist, and signs of life."""

from __future__ import annotations

from market.checking import (
    ISOLATIONS,
    MAX_INT,
    MAX_VRAM_GIB,
    check_size,
    invalid,
    is_int,
    is_name,
    is_number,
    is_text,
)
from market.commands import SYSTEM, ChangeOffer, Heard, LoseRay, PlaceOffer
from market.granting import end_lease, end_lost
from market.lease_times import check_lease_times, follow_windows
from market.measurements import doubt_of
from market.order_making import is_suspect
from market.outcomes import Answer, Json, Refusal, conflict, unknown
from market.owner_terms import LONGEST_NOTICE_MS, MOST_NAMED, OwnerTerms
from market.schedules import MOST_WINDOWS, is_zone, price_at, wrong_hours
from market.selftests import fault, shown_isolation
from market.state import OfferRecord
from market.turn import Turn
from storage.canonical import digest_of

HEAD_LOST = "head_lost"


def place_offer(turn: Turn, command: PlaceOffer) -> Answer | Refusal:
    """List hardware. The same terms again are answered (newer measurements taken); other terms under a listed id are
    refused; an offer that drains, is offline or withdrawn is listed anew. Leases on a node that is gone end."""
    refusal = turn.require(command.by, ("provider",)) or _check_offer(turn, command)
    if refusal is not None:
        return refusal
    if turn.state.stopped:
        return closing()
    known = turn.state.offers.get(command.id)
    if known is not None and known.provider != command.by:
        return conflict("offer", command.id)
    digest = _digest(command)
    if known is None:
        refusal = turn.require_active(command.by) or _check_limits(turn, command)
        if refusal is not None:
            return refusal
        _list(turn, command, digest)
        return Answer({"id": command.id, "state": "open"})
    if known.state in ("open", "draining") and known.request_digest != digest:
        return _other_terms(known)
    if known.live and (command.gpu, command.gpus) != (known.gpu, known.gpus):
        return _other_terms(known)
    if known.state == "open" and _facts(command) == _known_facts(known):
        _hear(turn, known)
        return Answer({"id": known.id, "state": known.state}, created=False)
    was_open = known.state == "open"
    _end_left_behind(turn, known, command.node)
    _list(turn, command, digest)
    return Answer({"id": command.id, "state": "open"}, created=not was_open)


def _end_left_behind(turn: Turn, offer: OfferRecord, node: str) -> None:
    """A provider that comes with another node has lost the one before, and the workers that were on it."""
    for lease in [turn.state.leases[name] for name in offer.live]:
        if lease.node not in (None, node):
            end_lost(turn, lease, f"its provider came back on node {node}, the worker was on {lease.node}")


def _other_terms(offer: OfferRecord) -> Refusal:
    return Refusal(
        "conflict",
        f"offer {offer.id!r} is listed with other terms",
        field="id",
        remedy="withdraw it, change its price, or wait until it is offline",
        status=409,
    )


def closing() -> Refusal:
    return Refusal("market_closing", "the market is going down and takes no new work", remedy="wait for it", status=503)


def _terms(command: PlaceOffer) -> Json:
    return {
        "provider": command.by,
        "name": command.name,
        "gpu": command.gpu,
        "gpus": command.gpus,
        "region": command.region,
        "price_nanos_per_gpu_hour": command.price_nanos_per_gpu_hour,
        "floor_price_nanos_per_gpu_hour": command.floor_price_nanos_per_gpu_hour,
        "shares": sorted(command.shares),
    }


def _digest(command: PlaceOffer) -> str:
    asked = command.terms.as_json()
    return digest_of(_terms(command) | ({"terms": asked} if asked else {}))


def _facts(command: PlaceOffer) -> tuple[object, ...]:
    return (
        float(command.vram_gib),
        shown_isolation(command.isolation, command.selftest),
        dict(command.measured),
        command.node,
        dict(command.versions),
        command.selftest,
    )


def _known_facts(offer: OfferRecord) -> tuple[object, ...]:
    return (offer.vram_gib, offer.isolation, offer.measured_first, offer.node, offer.versions, offer.selftest)


def _list(turn: Turn, command: PlaceOffer, digest: str) -> None:
    fields = _terms(command) | {
        "offer": command.id,
        "vram_gib": float(command.vram_gib),
        "isolation": shown_isolation(command.isolation, command.selftest),
        "measured": dict(command.measured),
        "node": command.node,
        "versions": dict(command.versions),
        "request_digest": digest,
    }
    known = turn.state.offers.get(command.id)
    # Said by hand since, and not otherwise by whoever starts it again with the same words: that counts.
    terms = command.terms if known is None or known.request_digest != digest else known.terms
    turn.emit("offer_placed", fields)
    if terms.as_json():
        turn.emit("offer_terms", {"offer": command.id, "terms": terms.as_json()})
    offer = turn.state.offers[command.id]
    follow_schedule(turn, offer)
    follow_windows(turn, offer, anew=True)
    if command.selftest is not None:
        turn.emit("offer_tested", {"offer": command.id, "selftest": dict(command.selftest)})
    turn.volatile.heard_ms[command.id] = turn.now_ms
    turn.state.touched[command.id] = None


def _check_limits(turn: Turn, command: PlaceOffer) -> Refusal | None:
    settings, state = turn.settings, turn.state
    own = sum(state.offers[offer].state != "withdrawn" for offer in state.offers_of.get(command.by, ()))
    if own >= settings.max_offers_per_provider or len(state.offers) >= settings.max_offers:
        return Refusal("too_many_offers", "the market lists no more offers", remedy="withdraw one", status=429)
    return None


def _check_offer(turn: Turn, command: PlaceOffer) -> Refusal | None:
    settings = turn.settings
    for field, name in (("id", command.id), ("name", command.name), ("gpu", command.gpu)):
        if not is_name(name):
            return invalid(field, name, "1 to 64 letters, digits, dots, dashes")
    if command.region and not is_name(command.region):
        return invalid("region", command.region, "a name such as eu, or nothing")
    if not is_int(command.gpus, 1, settings.max_gpus_per_offer):
        return invalid("gpus", command.gpus, f"a whole number from 1 to {settings.max_gpus_per_offer}")
    if not is_number(command.vram_gib, 0, MAX_VRAM_GIB):
        return invalid("vram_gib", command.vram_gib, f"a number from 0 to {MAX_VRAM_GIB:g}")
    refusal = _check_price(turn, command.price_nanos_per_gpu_hour)
    if refusal is not None:
        return refusal
    floor = command.floor_price_nanos_per_gpu_hour
    if floor is not None and not is_int(floor, 1, command.price_nanos_per_gpu_hour):
        return invalid("floor_price_nanos_per_gpu_hour", floor, "a price from 1 nano-dollar to the asking price")
    if command.isolation not in ISOLATIONS:
        return invalid("isolation", command.isolation, "process or sandbox")
    for key, value in command.measured.items():
        if not (is_name(key) and is_number(value, 0, 1e18)):
            return invalid(f"measured.{key}", value, "a number from 0")
    for key, version in command.versions.items():
        if not (is_name(key) and is_text(version, 64)):
            return invalid(f"versions.{key}", version, "a short text")
    if len(command.shares) > 64 or not all(is_name(share) for share in command.shares):
        return invalid("shares", command.shares, "at most 64 names")
    if not is_text(command.node, 200):
        return invalid("node", command.node, "a short text")
    refusal = _check_terms(turn, command.terms)
    if refusal is not None:
        return refusal
    wanted = None if command.selftest is None else fault(command.selftest)
    if wanted is not None:
        return invalid("selftest", "this", wanted)
    doubt = doubt_of(command.gpu, command.gpus, command.vram_gib, command.measured)
    if doubt is not None:
        return Refusal("hardware_mismatch", doubt.message, field=doubt.field, remedy=doubt.remedy)
    everything = {"measured": dict(command.measured), "versions": dict(command.versions), "selftest": command.selftest}
    return check_size("offer", everything, settings.max_offer_bytes)


def _check_terms(turn: Turn, terms: OwnerTerms) -> Refusal | None:
    if not is_int(terms.notice_ms, 0, LONGEST_NOTICE_MS):
        return invalid("notice_ms", terms.notice_ms, f"milliseconds from 0 to {LONGEST_NOTICE_MS}")
    if terms.until_ms is not None and not is_int(terms.until_ms, turn.now_ms, MAX_INT):
        return invalid("until_ms", terms.until_ms, "a time to come, in milliseconds since the epoch")
    for field, names in (("allow", terms.allow), ("deny", terms.deny), ("own", terms.own)):
        if len(names) > MOST_NAMED or not all(is_name(name) for name in names):
            return invalid(field, list(names)[:8], f"at most {MOST_NAMED} members")
    if terms.max_units_per_customer is not None and not is_int(terms.max_units_per_customer, 1, MAX_INT):
        return invalid("max_units_per_customer", terms.max_units_per_customer, "a whole number from 1")
    day_ms = terms.max_unit_ms_per_customer_day
    if day_ms is not None and not is_int(day_ms, 1, MAX_INT):
        return invalid("max_unit_ms_per_customer_day", day_ms, "milliseconds times units from 1")
    return check_lease_times(terms) or _check_schedule(turn, terms)


def _check_schedule(turn: Turn, terms: OwnerTerms) -> Refusal | None:
    if len(terms.prices) > MOST_WINDOWS:
        return invalid("prices", len(terms.prices), f"at most {MOST_WINDOWS}")
    if terms.prices and not is_zone(terms.zone):
        return invalid("zone", terms.zone, "a zone of the market's own time zone rules, such as Europe/Berlin or UTC")
    for hours, nanos in terms.prices:
        wrong = wrong_hours(hours)
        if wrong is not None:
            return invalid("prices.hours", hours, wrong.partition("; ")[2] or wrong)
        if (refusal := _check_price(turn, nanos)) is not None:
            return refusal
    return None


def follow_schedule(turn: Turn, offer: OfferRecord) -> None:
    """Ask the price of the hour from now on, for leases to come; each change is a record."""
    if not offer.terms.prices or offer.state == "withdrawn":
        return
    nanos = price_at(offer.terms.prices, offer.terms.zone, offer.base_nanos, turn.now_ms)
    if nanos != offer.price_nanos_per_gpu_hour:
        turn.set_offer(offer, offer.state, nanos, "schedule")


def _check_price(turn: Turn, price: object) -> Refusal | None:
    most = turn.settings.max_price_nanos_per_gpu_hour
    if is_int(price, 1, most):
        return None
    return invalid("price_nanos_per_gpu_hour", price, f"a whole number of nano-dollars from 1 to {most}")


def change_offer(turn: Turn, command: ChangeOffer) -> Answer | Refusal:
    """price, drain, withdraw or relist; leases on a withdrawn offer end by the provider's fault."""
    offer = turn.find_offer(command.offer, command.by)
    if isinstance(offer, Refusal):
        return offer
    price = offer.price_nanos_per_gpu_hour
    if command.action == "price":
        new_price = command.price_nanos_per_gpu_hour
        refusal = _check_price(turn, new_price)
        if refusal is not None:
            return refusal
        assert new_price is not None
        if new_price == offer.base_nanos:
            return Answer(_offer_answer(offer), created=False)
        turn.set_offer(offer, offer.state, new_price, "price")
        follow_schedule(turn, offer)
        return Answer(_offer_answer(offer))
    target = {"drain": "draining", "withdraw": "withdrawn", "relist": "open"}.get(command.action)
    if target is None:
        return invalid("action", command.action, "price, drain, withdraw or relist")
    if offer.state == target:
        return Answer(_offer_answer(offer), created=False)
    if target == "draining" and offer.state == "withdrawn":
        return Refusal("withdrawn", f"{offer.id} is withdrawn already", field="offer", status=409)
    if target == "open" and offer.state == "offline":
        return Refusal(
            "offline",
            f"nobody is heard of {offer.id}",
            field="offer",
            remedy="start its provider, which lists it again",
            status=409,
        )
    if target == "withdrawn":
        for lease in list(offer.live):
            end_lease(turn, turn.state.leases[lease], "withdrew", "")
    turn.set_offer(offer, target, price, command.action)
    return Answer(_offer_answer(offer))


def _offer_answer(offer: OfferRecord) -> Json:
    return {"id": offer.id, "state": offer.state, "price_nanos_per_gpu_hour": offer.price_nanos_per_gpu_hour}


def heard(turn: Turn, command: Heard) -> Answer | Refusal:
    """The provider asked for its leases: it lives. Brings an offline offer back."""
    refusal = turn.require(command.by, ("provider",))
    if refusal is not None:
        return refusal
    offer = turn.state.offers.get(command.offer)
    if offer is None or (command.by not in (offer.provider, SYSTEM)):
        return unknown("offer", command.offer)
    _hear(turn, offer)
    return Answer(_offer_answer(offer), created=False)


def lose_ray(turn: Turn, command: LoseRay) -> Answer | Refusal:
    """End every living lease at the market's expense, and wait for the providers to place their offers again."""
    refusal = turn.require(command.by, ("plane",))
    if refusal is not None:
        return refusal
    ended = [turn.state.leases[name] for name in turn.state.live_leases]
    for lease in ended:
        end_lease(turn, lease, HEAD_LOST, "Ray's head was lost, and the cluster with it")
    for offer in list(turn.state.offers.values()):
        if offer.state != "withdrawn":
            turn.set_offer(offer, "offline", offer.price_nanos_per_gpu_hour, HEAD_LOST)
    return Answer({"ended": [lease.id for lease in ended]})


def _hear(turn: Turn, offer: OfferRecord) -> None:
    was_suspect, heard_ms = is_suspect(offer, turn.volatile), turn.volatile.heard_ms.get(offer.id)
    turn.volatile.heard_ms[offer.id] = turn.now_ms
    if turn.volatile.agenda is not None and (heard_ms is None or turn.now_ms - heard_ms > turn.settings.offer_timeout_ms):
        turn.volatile.agenda.stirred[offer.id] = None  # who was silent may be measured again
    if was_suspect and not is_suspect(offer, turn.volatile):
        turn.volatile.dirty = True
        turn.state.touched[offer.id] = None
    # A machine that was on a cluster that is gone polls on for a moment: it is back when it has joined the next one.
    if offer.state == "offline" and offer.away != HEAD_LOST:
        turn.set_offer(offer, offer.returns_to, offer.price_nanos_per_gpu_hour, "heard")
