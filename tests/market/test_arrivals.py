"""New bids against a settled book: alone they get what a clearing of everybody would have given them, and replay says so too."""

from __future__ import annotations

import random
from typing import Any

import pytest

from market import snapshots
from market.clearing import cleared, of_arrivals
from market.commands import ApplyClearing, CancelJob, Deposit, EndLease, SetPriceRule
from market.orders import BookSnapshot
from market.replaying import replay
from market.worth import DueRule
from storage.canonical import parse_json
from tests.market.scene import USD, Scene


@pytest.fixture(autouse=True)
def _every_book_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SMALL_BOOK", 0)


def settled(scene: Scene) -> None:
    while scene.exchange.dirty:
        scene.do(ApplyClearing(cleared(scene.exchange.snapshot())))


def arrive(scene: Scene) -> bool:
    """Clear new bids alone, if that is enough; whether it was."""
    found = scene.exchange.arrivals()
    if found is not None:
        scene.do(ApplyClearing(of_arrivals(found)))
    return found is not None


def ask(scene: Scene, name: str, rng: random.Random) -> None:
    low = rng.randint(1, 4)
    scene.submit(
        name, rng.choice(["ann", "bob"]), workers__min=low, workers__max=low + rng.randint(0, 3), wait=True,
        limits__max_price_nanos_per_gpu_hour=round(rng.choice([0.4, 0.5, 0.9]) * USD),
        limits__budget_nanos=rng.choice([1, 20]) * USD,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_who_comes_alone_gets_what_a_clearing_of_everybody_would_give(seed: int) -> None:
    rng, scene, alone = random.Random(seed), Scene(funds_nanos=5_000 * USD), 0
    scene.do(Deposit("d2", "bob", 5_000 * USD, "op"))
    for number in range(8):
        scene.offer(f"offer-{number}", f"p{number % 4 + 1}", rng.choice([0.3, 0.4, 0.7]), rng.randint(1, 6))
    for number in range(25):
        settled(scene)
        ask(scene, f"job-{number}", rng)
        twin = scene.replayed()
        everybody: BookSnapshot = twin.snapshot()
        wanted = {match.job: match for match in cleared(everybody).matches}
        if arrive(scene):
            alone += 1
            got: dict[str, int] = {}
            for one in scene.live(f"job-{number}"):
                got[one["offer"]] = got.get(one["offer"], 0) + 1
            match = wanted.get(f"job-{number}")
            assert got == ({} if match is None else {name: match.offers.count(name) for name in match.offers})
            assert set(wanted) <= {f"job-{number}"}
            assert scene.exchange.dirty == (match is None)
        settled(scene)
        live = [one for job in scene.exchange.jobs(None) for one in job["workers"] if one["state"] != "ended"]
        if live and rng.random() < 0.5:
            one = rng.choice(live)
            scene.do(CancelJob(next(j["id"] for j in scene.exchange.jobs(None) if one in j["workers"]), "op"))
            scene.say(EndLease(one["id"], one["epoch"], "drained", "", one["provider"]))
        scene.now_ms += rng.choice([10, 5_000])
    assert alone > 8
    found: Any = replay(lambda: ((body["at_ms"], body["events"]) for body in map(parse_json, scene.records)))
    assert [one["differs"] for one in found if not one["same"]] == []
    assert len(found) == len(scene.of_type("clearing"))
    assert any(event["jobs"] for event in scene.of_type("clearing"))


def test_who_gets_nothing_is_weighed_against_everybody_and_told_why() -> None:
    scene = Scene()
    scene.offer(gpus=2)
    scene.submit("first", workers__min=2, workers__max=2)
    settled(scene)
    scene.submit("second", workers__min=1, workers__max=1)
    assert arrive(scene)
    assert scene.view("second")["workers"] == []
    assert scene.exchange.dirty
    settled(scene)
    assert [one["job"] for event in scene.of_type("clearing") for one in event["unmatched"]] == ["second"]


def test_everybody_is_looked_at_after_any_other_change_and_after_a_minute() -> None:
    scene = Scene()
    scene.offer(gpus=8)
    settled(scene)
    scene.submit("one", workers__min=1, workers__max=1)
    scene.offer("more", "p2")
    assert scene.exchange.arrivals() is None
    settled(scene)
    scene.submit("two", workers__min=1, workers__max=1)
    scene.now_ms += snapshots.SETTLED_MS + 1
    scene.do(CancelJob("one", "ann"))
    assert scene.exchange.arrivals() is None
    settled(scene)
    scene.do(SetPriceRule("uniform", "op"))
    settled(scene)
    scene.submit("three", workers__min=1, workers__max=1)
    assert scene.exchange.arrivals() is None, "one price for a class depends on everybody"


def test_seats_that_are_kept_for_a_due_gang_stay_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DueRule, "after_ms", lambda rule, takes_ms: 0)
    scene = Scene(funds_nanos=5_000 * USD)
    scene.offer("large", gpus=4)
    scene.submit("sits", workers__min=2, workers__max=2, limits__budget_nanos=50 * USD)
    settled(scene)
    scene.submit("other", workers__min=3, workers__max=3)
    scene.submit("gang", workers__min=4, workers__max=4, limits__budget_nanos=100 * USD)
    settled(scene)
    scene.now_ms += 10
    scene.do(CancelJob("other", "ann"))
    settled(scene)
    scene.now_ms += 10
    scene.submit("late", workers__min=1, workers__max=1)
    assert arrive(scene)
    assert scene.view("late")["workers"] == []
    scene.do(CancelJob("gang", "ann"))
    settled(scene)
    assert len(scene.view("late")["workers"]) == 1
