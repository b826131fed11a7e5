"""What a job is told: step by step, how far the price is off, the cheapest change that would do, and when it would begin."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.clearing import clear
from market.orders import Bid, BookSnapshot, Offer
from market.reasons import helps, in_words
from tests.market.scene import USD, Scene, make_spec
from tests.market.test_clearing import BIDS, BOOK, OFFERS, bid, offer

BOOK_OFFERS = [offer(row) for row in BOOK.strip().splitlines()]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("j1 1-1x1 H100 1.90", "accept A100, or raise max price to $1.95"),
        ("j1 6-6x1 A100 9.00", "begin with 5 workers, or accept H100"),
        ("j1 2-2x1 A100 1.00", "begin with 1 worker, or raise max price to $1.10"),
        ("j1 1-1x1 A100 9.00 region=asia", "accept the region us"),
        ("j1 1-1x9 H100 9.00", "take 8 GPUs a worker"),
        ("j1 1-1x1 any 9.00 vram=96", "accept 80 GiB of memory"),
        ("j1 1-1x1 A100 9.00 budget=0.01", "add $0.005 of budget"),
        ("j1 1-1x1 H100 9.00 network=out", "accept A100, or do without a way out to the internet"),
    ],
)
def test_the_cheapest_single_change_comes_first_in_words(asked: str, words: str) -> None:
    assert in_words(helps(BOOK_OFFERS, bid(asked))) == words


@settings(deadline=None, max_examples=60)
@given(st.lists(OFFERS, max_size=10, unique_by=lambda one: one.id), BIDS)
def test_every_change_of_a_price_or_a_gang_is_enough(offers: list[Offer], wanted: Bid) -> None:
    from dataclasses import replace

    if clear(BookSnapshot(tuple(offers), (wanted,))).matches:
        return
    found = helps(offers, wanted)
    assert [one.price_nanos_per_gpu_hour for one in found] == sorted(one.price_nanos_per_gpu_hour for one in found)
    for one in found:
        field, _, value = one.change.rpartition(" ")
        changed: dict[str, Any] = {
            "limits.max_usd_per_gpu_hour": {"max_price_nanos_per_gpu_hour": one.price_nanos_per_gpu_hour},
            "workers.min": {"workers_min": int(value) if value.isdigit() else 0},
        }.get(field, {})
        if changed:
            assert clear(BookSnapshot(tuple(offers), (replace(wanted, **changed),))).matches, one.change


def told(scene: Scene, job: str = "job-1") -> dict[str, Any]:
    found = scene.exchange.explain(job)
    assert found is not None
    return found


def test_each_step_says_what_it_took_away_and_what_is_left() -> None:
    scene = Scene()
    scene.offer("offer-1", "p1", 0.5)
    scene.offer("offer-2", "p2", 0.95, 2)
    scene.offer("offer-3", "p3", 0.2, gpu="RTX4090")
    scene.submit(workers__min=2, workers__max=2)
    scene.clear()
    why = told(scene)
    assert [(one["reason"], one["gpus"], one["left"]) for one in why["steps"]] == [
        ("offered", 0, 4), ("gpu_model", 1, 3), ("price_too_low", 2, 1),
    ]  # fmt: skip
    assert why["price_short"] == {
        "limit_nanos": 9 * USD // 10, "needed_nanos": 95 * USD // 100, "short_nanos": 5 * USD // 100, "short_percent": 6,
        "free_now": True,
    }  # fmt: skip
    assert why["would_help"] == "begin with 1 worker, or accept RTX4090, or raise max price to $0.95"
    scene.submit("job-2", workers__min=1, workers__max=1)
    scene.clear()
    assert scene.state("job-2")[0] == "running"


def test_who_is_outbid_hears_what_the_last_seat_went_for() -> None:
    scene = Scene()
    scene.offer()
    scene.submit("job-1", workers__min=1, workers__max=1, limits__max_price_nanos_per_gpu_hour=6 * USD // 10)
    scene.submit("job-2", workers__min=1, workers__max=1)
    scene.clear()
    why = told(scene)
    assert why["reason"] == "outbid"
    assert why["detail"].startswith("others make more of these machines: the last seat went for $0.50 per GPU-hour")
    assert "job-2" not in str(why), "nobody's name"
    assert why["recent"] == {
        "jobs": 1, "median_ms": 0, "p90_ms": 0, "p99_ms": 0, "gang": "1",
        "of_gang": {"jobs": 1, "median_ms": 0, "p90_ms": 0, "p99_ms": 0},
    }  # fmt: skip


def plan(scene: Scene, **changes: Any) -> dict[str, Any]:
    found = scene.exchange.quote(make_spec(**changes), "ann", scene.now_ms)
    assert isinstance(found, dict)
    return found


def test_a_plan_foretells_begin_price_and_end_as_ranges() -> None:
    scene = Scene()
    scene.offer("offer-1", "p1", 0.5)
    scene.offer("offer-2", "p2", 0.6)
    soon = plan(scene)["outlook"]
    assert soon["begins"]["basis"] == "now"
    assert (soon["price"]["low_nanos"], soon["price"]["high_nanos"]) == (USD // 2, 6 * USD // 10)
    assert soon["recent"] is None
    scene.submit()
    scene.clear()
    scene.start_all()
    later = plan(scene)["outlook"]
    begins = later["begins"]
    assert begins["basis"] == "leases"
    assert 0 < begins["low_ms"] <= begins["middle_ms"] <= begins["high_ms"]
    assert later["price"] == {
        "basis": "trades", "low_nanos": USD // 2, "middle_nanos": USD // 2, "high_nanos": 6 * USD // 10, "trades": 2,
    }  # fmt: skip
    assert later["recent"]["jobs"] == 1
    never = plan(scene, workers__gpu=["H100"])
    assert never["outlook"]["begins"] is None
    assert never["would_help"] is None


def test_a_plan_behind_others_waits_for_them_too() -> None:
    scene = Scene()
    scene.offer("offer-1", "p1", 0.5)
    alone = {"workers__min": 1, "workers__max": 1}
    scene.submit("job-1", **alone)
    scene.clear()
    scene.start_all("job-1")
    first = plan(scene, **alone)["outlook"]["begins"]
    scene.submit("job-2", **alone)
    behind = plan(scene, **alone)["outlook"]["begins"]
    assert behind["middle_ms"] > first["middle_ms"]


def test_a_plan_says_what_the_rule_of_the_market_is() -> None:
    assert plan(Scene())["price_rule"] == "ask"
