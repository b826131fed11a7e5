"""An owner takes its machine back: what is held is not let, who sits there gets notice, and the job goes on elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from market.commands import EndLease, HoldOffer
from market.orders import BookSnapshot
from market.owner_terms import OwnerTerms
from tests.market.scene import START_MS, Scene


def shown(scene: Scene, offer: str = "offer-1") -> dict[str, Any]:
    return next(one for one in scene.exchange.offers(scene.now_ms) if one["id"] == offer)


def snapshot_of(scene: Scene) -> BookSnapshot:
    return scene.exchange.snapshot()


def give_up(scene: Scene, lease: dict[str, Any]) -> None:
    scene.do(EndLease(lease["id"], lease["epoch"], "preempted", "the owner takes it back", lease["provider"]))


def test_a_reclaim_gives_notice_ends_by_preempted_and_the_job_moves_within_its_budget() -> None:
    scene = Scene()
    scene.running(offers=3)
    scene.wait(1_000)
    scene.round(1, {0: 1_000, 1: 1_000})
    scene.checkpoint(1)
    taken = scene.live()[0]
    said = scene.do(HoldOffer("offer-1", 1, "p1", why="mine for two hours", leases=(taken["id"],)))
    assert (said["state"], said["held"]["why"]) == ("paused", "mine for two hours")
    directive = scene.exchange.directive("job-1")
    assert directive is not None
    ending = {one["offer"]: one["ending"] for one in directive["leases"]}
    assert ending == {
        "offer-1": {"reason": "preempted", "notice_ms": 5_000, "ends_ms": scene.now_ms + 5_000},
        "offer-2": None,
    }
    scene.wait(2_000)
    scene.read(s0=3_000, s1=3_000)
    give_up(scene, taken)
    scene.clear()
    ended = scene.view()["leases"][0]
    assert (ended["reason"], ended["fault"], ended["metered_ms"], ended["charged_ms"]) == (
        "preempted", "provider", 3_000, 1_000,
    )  # fmt: skip
    assert [one["offer"] for one in scene.live()] == ["offer-2", "offer-3"]
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_what_is_held_is_not_let_until_it_is_released() -> None:
    scene = Scene()
    scene.offer(gpus=3)
    scene.do(HoldOffer("offer-1", 2, "p1"))
    assert (shown(scene)["state"], shown(scene)["gpus_free"]) == ("open", 1)
    scene.submit(workers__min=2, workers__max=2)
    assert not scene.clear().matches
    scene.do(HoldOffer("offer-1", 3, "p1"))
    assert [str(one.reason) for one in scene.clear().unmatched] == ["not_available"]
    scene.do(HoldOffer("offer-1", 0, "p1"))
    assert shown(scene)["held"] == {"gpus": 0, "reason": "", "why": "", "until_ms": None}
    assert scene.clear().matches


def test_a_hold_ends_when_its_time_is_over_and_outlasts_restarts_until_then() -> None:
    scene = Scene()
    scene.offer()
    scene.do(HoldOffer("offer-1", 1, "p1", until_ms=START_MS + 60_000))
    scene.restart()
    scene.do(replace(scene.make_offer("offer-1", "p1", 0.5, 1), node="another"))
    scene.wait(59_999)
    assert shown(scene)["state"] == "paused"
    scene.wait(1)
    assert shown(scene)["state"] == "open"
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_the_same_hold_again_changes_nothing() -> None:
    scene = Scene()
    scene.running(offers=2)
    lease = scene.live()[0]["id"]
    command = HoldOffer("offer-1", 1, "p1", leases=(lease,))
    assert scene.say(command).created
    assert not scene.say(command).events
    assert not scene.say(replace(command, leases=("lease-000002", "?"))).events, "not a lease of this offer"


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"by": "p2"}, "unknown_offer", "offer"),
        ({"by": "ann"}, "forbidden", None),
        ({"gpus": 2}, "invalid", "gpus"),
        ({"gpus": -1}, "invalid", "gpus"),
        ({"reason": "why not"}, "invalid", "reason"),
        ({"why": "x" * 100_000}, "invalid", "why"),
        ({"until_ms": -1}, "invalid", "until_ms"),
    ],
)
def test_a_hold_that_cannot_be(changes: dict[str, Any], code: str, field: str | None) -> None:
    scene = Scene()
    scene.offer()
    refusal = scene.refused(replace(HoldOffer("offer-1", 1, "p1"), **changes))
    assert (refusal.code, refusal.field) == (code, field)


def test_the_notice_is_the_offers_and_shown_to_customers() -> None:
    scene = Scene()
    scene.offer(terms=OwnerTerms(notice_ms=20_000))
    assert shown(scene)["notice_ms"] == 20_000
    scene.submit(workers__min=1, workers__max=1)
    scene.clear()
    scene.do(HoldOffer("offer-1", 1, "p1", leases=("lease-000001",)))
    assert scene.view()["leases"][0]["ending"]["notice_ms"] == 20_000
    assert scene.refused(scene.make_offer("o", "p2", 0.5, 1, terms=OwnerTerms(notice_ms=-1))).field == "notice_ms"
    assert scene.refused(scene.make_offer("o", "p2", 0.5, 1, terms=OwnerTerms(until_ms=1))).field == "until_ms"


def test_nothing_begins_on_a_machine_that_goes_within_the_minute() -> None:
    scene = Scene()
    scene.offer(terms=OwnerTerms(until_ms=START_MS + 70_000))
    offer = snapshot_of(scene).offers[0]
    assert offer.matchable
    scene.wait(6_000)
    assert not snapshot_of(scene).offers[0].matchable


def test_an_offer_without_terms_of_its_owner_is_journaled_as_ever() -> None:
    scene = Scene()
    scene.offer()
    assert not scene.of_type("offer_terms")
    scene.offer("offer-2", "p2", terms=OwnerTerms(notice_ms=1_000))
    assert scene.of_type("offer_terms") == [{"type": "offer_terms", "offer": "offer-2", "terms": {"notice_ms": 1_000}}]
    assert OwnerTerms.of_json({"notice_ms": 1_000}) == OwnerTerms(notice_ms=1_000)
