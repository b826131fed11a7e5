"""Events of offers become state; called by market/reducer.py alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from market.events import Event
from market.measurements import STRIKES
from market.owner_terms import OwnerTerms
from market.reliability import ProviderRecord
from market.state import Maintenance, OfferRecord, State


def _offer_placed(state: State, event: Event, at_ms: int) -> None:
    before = state.offers.get(event["offer"])
    offer = OfferRecord(
        id=event["offer"],
        provider=event["provider"],
        name=event["name"],
        gpu=event["gpu"],
        gpus=event["gpus"],
        vram_gib=event["vram_gib"],
        region=event["region"],
        price_nanos_per_gpu_hour=event["price_nanos_per_gpu_hour"],
        floor_price_nanos_per_gpu_hour=event["floor_price_nanos_per_gpu_hour"],
        isolation=event["isolation"],
        measured=dict(event["measured"]),
        shares=tuple(event["shares"]),
        node=event["node"],
        versions=dict(event["versions"]),
        request_digest=event["request_digest"],
        placed_ms=at_ms,
        base_nanos=event["price_nanos_per_gpu_hour"],
        counted_ms=at_ms,
        measured_first=dict(event["measured"]),
        measured_ms=at_ms,
    )
    if before is not None:
        offer.counted_ms = before.counted_ms if before.state == "open" else at_ms
        if offer.measured == before.measured_first:  # said again, not measured again
            names = ("measured", "measured_first", "measured_ms", "asked", "answered", "strikes", "doubt")
            for name in names:
                setattr(offer, name, getattr(before, name))
        elif before.doubt:
            offer.strikes = 1  # its new figures are looked at soon
        offer.version = before.version + 1
        offer.earned_nanos = before.earned_nanos
        offer.lost_ms = before.lost_ms
        offer.live = before.live
        offer.gpus_used = before.gpus_used
        offer.held = before.held
        offer.window = before.window
        offer.promised = before.promised
        offer.pace = before.pace
        offer.let_day, offer.let_unit_ms = before.let_day, before.let_unit_ms
    state.offers[offer.id] = offer
    state.offers_of.setdefault(offer.provider, {})[offer.id] = None
    state.providers.setdefault(offer.provider, ProviderRecord())
    state.touched[offer.id] = None


def _offer_terms(state: State, event: Event, at_ms: int) -> None:
    state.offers[event["offer"]].terms = OwnerTerms.of_json(event["terms"])
    state.touched[event["offer"]] = None


def _offer_window(state: State, event: Event, at_ms: int) -> None:
    offer = state.offers[event["offer"]]
    offer.window = None if event["begin_ms"] is None else Maintenance(event["begin_ms"], event["end_ms"])
    offer.version += 1
    state.touched[offer.id] = None
    for name in offer.live:
        lease = state.leases[name]
        state.jobs[lease.job].version += 1
        if lease.window_ms is not None:  # a window that was taken back or put off is none to come back to without a word
            lease.window_ms = None if offer.window is None else max(lease.window_ms, offer.window.begin_ms)


def _offer_tested(state: State, event: Event, at_ms: int) -> None:
    state.offers[event["offer"]].selftest = event["selftest"]


def _offer_held(state: State, event: Event, at_ms: int) -> None:
    offer = state.offers[event["offer"]]
    offer.held = {name: event[name] for name in ("gpus", "reason", "why", "until_ms")}
    offer.version += 1
    state.touched[offer.id] = None


def _offer_heard(state: State, event: Event, at_ms: int) -> None:
    offer = state.offers[event["offer"]]
    state.providers[offer.provider].heard(at_ms - event["heard_ms"], at_ms)
    state.touch_provider(offer.provider)
    offer.counted_ms = at_ms


def _measurement_asked(state: State, event: Event, at_ms: int) -> None:
    offer = state.offers[event["offer"]]
    offer.asked = {name: event[name] for name in ("seed", "until_ms")}
    offer.version += 1
    state.touched[offer.id] = None


def _offer_measured(state: State, event: Event, at_ms: int) -> None:
    offer = state.offers[event["offer"]]
    offer.asked, offer.answered = None, event["seed"]
    offer.measured = dict(event["measured"]) or offer.measured
    offer.measured_ms = at_ms
    offer.strikes = offer.strikes + 1 if event["below"] else 0
    offer.doubt = event["below"] if offer.strikes >= STRIKES else ""
    offer.version += 1
    state.touched[offer.id] = None


def _offer_changed(state: State, event: Event, at_ms: int) -> None:
    offer = state.offers[event["offer"]]
    if event["state"] == "open" and offer.state != "open":
        offer.counted_ms = at_ms
    if event["state"] == "offline" and offer.state == "open" and event["reason"] == "not_heard":
        if not offer.is_in_maintenance(at_ms):
            state.providers[offer.provider].fell_silent(at_ms)
        state.touch_provider(offer.provider)
    if event["state"] == "offline" and offer.state != "offline":
        offer.returns_to = offer.state
    offer.state = event["state"]
    offer.away = event["reason"] if offer.state == "offline" else ""
    offer.price_nanos_per_gpu_hour = event["price_nanos_per_gpu_hour"]
    if event["reason"] == "price":
        offer.base_nanos = offer.price_nanos_per_gpu_hour
    offer.version += 1
    state.touched[offer.id] = None
    for lease in offer.live:
        state.jobs[state.leases[lease].job].version += 1


OFFER_HANDLERS: Final[Mapping[str, Callable[[State, Event, int], Any]]] = {
    "offer_placed": _offer_placed,
    "offer_terms": _offer_terms,
    "offer_window": _offer_window,
    "offer_tested": _offer_tested,
    "offer_changed": _offer_changed,
    "offer_held": _offer_held,
    "offer_heard": _offer_heard,
    "measurement_asked": _measurement_asked,
    "offer_measured": _offer_measured,
}
