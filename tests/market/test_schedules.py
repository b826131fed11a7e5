"""Prices by the hour: what is asked when, and that the exchange follows and records it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.commands import ChangeOffer
from market.owner_terms import OwnerTerms
from market.schedules import is_zone, next_change, price_at
from tests.market.scene import START_MS, USD, Scene

BERLIN = "Europe/Berlin"
NIGHT = (("22:00-06:00", 20), ("00:00-24:00 sat,sun", 30))
MINUTE_MS = 60_000


def at(text: str, zone: str = BERLIN, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()) * 1000


@pytest.mark.parametrize(
    ("when", "asked"),
    [
        ("2026-11-26T12:00", 40), ("2026-11-26T22:00", 20), ("2026-11-27T05:59", 20), ("2026-11-27T06:00", 40),
        ("2026-11-28T12:00", 30), ("2026-11-28T23:00", 20), ("2026-07-01T22:00", 20), ("2026-07-01T21:59", 40),
    ],
)  # fmt: skip
def test_the_price_is_that_of_the_hours_else_the_offers(when: str, asked: int) -> None:
    assert price_at(NIGHT, BERLIN, 40, at(when)) == asked


def test_the_night_in_which_clocks_change() -> None:
    prices = (("02:30-04:00", 20),)
    forward = at("2026-03-29T01:30")
    assert next_change(prices, BERLIN, 40, forward) == (at("2026-03-29T03:00"), 20), "02:30 is not there"
    first, second = at("2026-10-25T02:30"), at("2026-10-25T02:30", fold=1)
    assert second - first == 60 * MINUTE_MS
    assert next_change(prices, BERLIN, 40, at("2026-10-25T01:00")) == (first, 20)
    assert next_change(prices, BERLIN, 40, first) == (at("2026-10-25T02:00", fold=1), 40), "clocks go back to before it"
    assert next_change(prices, BERLIN, 40, at("2026-10-25T02:00", fold=1)) == (second, 20)


HOURS = st.tuples(st.integers(0, 23), st.sampled_from([0, 15, 30]), st.integers(0, 23), st.sampled_from(["", " sat,sun", " wed"]))


@given(
    st.lists(st.tuples(HOURS, st.integers(1, 3)), min_size=1, max_size=3), st.sampled_from([BERLIN, "Australia/Lord_Howe", "UTC"]),
    st.sampled_from(["2026-03-28T18:00", "2026-10-24T18:00", "2026-04-04T12:00", "2026-11-25T12:00"]), st.integers(0, 600),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_the_next_change_is_the_first_minute_of_another_price(
    rows: list[tuple[Any, int]], zone: str, day: str, minutes: int
) -> None:
    prices = tuple((f"{a:02d}:{b:02d}-{c:02d}:00{days}", nanos) for (a, b, c, days), nanos in rows)
    now_ms = at(day, "UTC") + minutes * MINUTE_MS
    now = price_at(prices, zone, 4, now_ms)
    found = next_change(prices, zone, 4, now_ms)
    last_ms = now_ms + 2 * 24 * 60 * MINUTE_MS if found is None or found[0] > now_ms + 2 * 24 * 60 * MINUTE_MS else found[0]
    assert all(price_at(prices, zone, 4, ms) == now for ms in range(now_ms, last_ms, 15 * MINUTE_MS))
    if found is not None:
        assert price_at(prices, zone, 4, found[0]) == found[1] != now
        assert price_at(prices, zone, 4, found[0] - MINUTE_MS) == now


def test_zones_are_those_of_the_machines_rules() -> None:
    assert [is_zone(name) for name in (BERLIN, "UTC", "", "Europe", "Mars/Base", "../etc/passwd", "/etc/passwd")] == [
        True, True, False, False, False, False, False,
    ]  # fmt: skip


TERMS = OwnerTerms(prices=(("00:20-01:00", USD // 5),), zone="UTC")


def shown(scene: Scene) -> tuple[int, Any]:
    found = scene.exchange.offer("offer-1")
    assert found is not None
    return found["price_nanos_per_gpu_hour"], found["price_next"]


def test_new_leases_follow_the_clock_and_those_that_run_keep_their_price() -> None:
    scene = Scene()
    scene.offer(terms=TERMS)  # 00:16:40, at 0.50
    begins_ms = START_MS + 200_000
    assert shown(scene) == (USD // 2, {"at_ms": begins_ms, "price_nanos_per_gpu_hour": USD // 5})
    scene.submit(workers__min=1, workers__max=1)
    scene.clear()
    scene.wait(200_000)
    assert shown(scene) == (USD // 5, {"at_ms": begins_ms + 40 * MINUTE_MS, "price_nanos_per_gpu_hour": USD // 2})
    [change] = scene.of_type("offer_changed")
    assert (change["reason"], change["price_nanos_per_gpu_hour"]) == ("schedule", USD // 5)
    assert scene.view()["leases"][0]["price_nanos_per_gpu_hour"] == USD // 2
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()
    scene.restart()
    assert shown(scene)[0] == USD // 5
    scene.wait(40 * MINUTE_MS)
    assert shown(scene)[0] == USD // 2


def test_a_price_that_is_said_by_hand_is_that_outside_the_hours() -> None:
    scene = Scene()
    scene.offer(terms=TERMS)
    scene.wait(200_000)
    scene.do(ChangeOffer("offer-1", "price", "p1", USD))
    assert shown(scene)[0] == USD // 5
    assert not scene.say(ChangeOffer("offer-1", "price", "p1", USD)).created
    scene.wait(40 * MINUTE_MS)
    assert shown(scene)[0] == USD
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"zone": "Mars/Base"}, "zone"),
        ({"zone": ""}, "zone"),
        ({"prices": (("8-18", 1),)}, "prices.hours"),
        ({"prices": (("08:00-18:00", 0),)}, "price_nanos_per_gpu_hour"),
        ({"prices": (("08:00-18:00", 1),) * 33}, "prices"),
    ],
)
def test_hours_that_cannot_be_asked(changes: dict[str, Any], field: str) -> None:
    scene = Scene()
    refusal = scene.refused(scene.make_offer("o", "p1", 0.5, 1, terms=replace(TERMS, **changes)))
    assert (refusal.code, refusal.field) == ("invalid", field)


def test_terms_are_read_as_they_are_written() -> None:
    assert OwnerTerms.of_json(TERMS.as_json()) == TERMS
    assert TERMS.as_json() == {"prices": [["00:20-01:00", USD // 5]], "zone": "UTC"}
