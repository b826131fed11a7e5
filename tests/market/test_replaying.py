"""Every clearing of random markets, made again from the journal alone: the same to the bit."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from market.clearing import clear
from market.commands import (
    ApplyClearing,
    CancelJob,
    ChangeOffer,
    Deposit,
    EndLease,
    Heard,
    MoveMember,
    SetDueRule,
    SetPriceRule,
    SetTeam,
    Tick,
)
from market.outcomes import Refusal
from market.replaying import replay
from storage.canonical import parse_json
from tests.market.scene import USD, Scene

HOUR = 3_600_000


def records_of(scene: Scene) -> Any:
    def records() -> Any:
        for payload in scene.records:
            body = parse_json(payload)
            yield body["at_ms"], body["events"]

    return records


def again(scene: Scene, number: int | None = None) -> list[dict[str, Any]]:
    found = replay(records_of(scene), number)
    assert not isinstance(found, Refusal)
    return found


class Square:
    """A market in which everything happens at random."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.scene = Scene(funds_nanos=5_000 * USD)
        self.scene.do(Deposit("d2", "bob", 5_000 * USD, "op"))
        self.jobs = 0
        self.offers = 0
        if seed % 2:
            for team, member in (("physics", "ann"), ("bio", "bob")):
                self.scene.do(SetTeam(team, "op", self.rng.randint(1, 3), self.rng.choice([0, 6])))
                self.scene.do(MoveMember(member, team, "op"))

    def step(self) -> None:
        scene, rng = self.scene, self.rng
        scene.now_ms += rng.choice([5, 500, 60_000, HOUR])
        if rng.random() < 0.9:
            for offer in scene.exchange.offers(scene.now_ms):
                if rng.random() < 0.9:
                    scene.say(Heard(offer["id"], offer["provider"]))
        what = rng.choice(["offer", "job", "job", "price", "end", "cancel", "tick", "restart", "late", "rule"])
        listed = scene.exchange.offers(scene.now_ms)
        if what == "offer" and self.offers < 9:
            self.offers += 1
            by = f"p{rng.randint(1, 4)}"
            price = rng.choice([0.3, 0.4, 0.4, 0.7])
            scene.offer(f"offer-{self.offers}", by, price, rng.randint(1, 4), region=rng.choice(["eu", "us"]))
        elif what == "job":
            self.jobs += 1
            low = rng.randint(1, 4)
            scene.submit(
                f"job-{self.jobs}", rng.choice(["ann", "bob"]), workers__min=low, workers__max=low + rng.randint(0, 2), wait=True,
                workers__region=rng.choice([[], [], ["eu"]]),
                limits__max_price_nanos_per_gpu_hour=round(rng.choice([0.4, 0.5, 0.9]) * USD),
                limits__budget_nanos=rng.choice([1, 3, 20]) * USD,
            )  # fmt: skip
        elif what == "price" and listed:
            offer = rng.choice(listed)
            scene.say(ChangeOffer(offer["id"], "price", offer["provider"], round(rng.choice([0.3, 0.6]) * USD)))
        elif what == "end":
            workers = [one for job in scene.exchange.jobs(None) for one in job["workers"] if one["state"] != "ended"]
            if workers:
                one = rng.choice(workers)
                scene.say(EndLease(one["id"], one["epoch"], rng.choice(["drained", "worker_lost"]), "", one["provider"]))
        elif what == "cancel" and self.jobs:
            scene.say(CancelJob(f"job-{rng.randint(1, self.jobs)}", "op"))
        elif what == "tick":
            scene.do(Tick())
        elif what == "restart":
            scene.restart()
        elif what == "rule":
            scene.do(SetPriceRule(rng.choice(["ask", "uniform"]), "op"))
            scene.do(SetDueRule(rng.choice([None, 0, 4]), HOUR, "op"))
        if what == "late":  # its result comes when the market has gone on
            clearing = clear(scene.exchange.snapshot())
            self.step()
            scene.do(ApplyClearing(clearing))
        else:
            scene.clear()


@pytest.mark.parametrize("seed", range(6))
def test_every_clearing_of_a_random_market_comes_out_the_same(seed: int) -> None:
    square = Square(seed)
    for _ in range(80):
        square.step()
    found = again(square.scene)
    assert len(found) == len(square.scene.of_type("clearing"))
    assert sum(bool(one["matches"]) for one in found) > 5
    for one in found:
        assert one["same"], (one["number"], one["differs"])
        assert one["bound_nanos"] >= one["welfare_nanos"]
        assert one["rules"][one["price_rule"]]["matches"] == len({row["job"] for row in one["matches"]})
    assert [one["number"] for one in found] == list(range(1, len(found) + 1))
    assert square.scene.replayed().fingerprint() == square.scene.exchange.fingerprint()


def test_a_record_that_was_changed_is_found() -> None:
    scene = Scene()
    scene.running()
    [one] = again(scene, 1)
    assert (one["same"], one["differs"]) == (True, {})
    before = scene.records[:]
    for old, new, name in (
        (b'"price_nanos_per_gpu_hour":500000000,"region"', b'"price_nanos_per_gpu_hour":500000000,"region"', None),
        (b'"ask_nanos_per_gpu_hour":500000000,"gpus":1', b'"ask_nanos_per_gpu_hour":500000001,"gpus":1', "matches"),
        (b'"position":', b'"position":1', "replayable"),
    ):
        scene.records = [payload.replace(old, new) for payload in before]
        [one] = again(scene, 1)
        if name is None:
            assert one["same"]
        elif name == "replayable":
            assert one["replayable"] is False
        else:
            assert name in one["differs"]


def test_bills_are_the_invoices_by_the_rule_in_force_and_others_by_theirs() -> None:
    scene = Scene()
    scene.running()
    scene.wait(1_000)
    scene.round(1, {0: 60_000, 1: 50_000})
    scene.checkpoint(1)
    [one] = again(scene, 1)
    assert one["rules"]["ask"]["bills_nanos"] == {"job-1": scene.view()["billed_nanos"]}
    assert one["rules"]["uniform"]["bills_nanos"]["job-1"] >= scene.view()["billed_nanos"] > 0


def test_what_cannot_be_replayed_says_so() -> None:
    scene = Scene()
    scene.running()
    assert isinstance(replay(records_of(scene), 7), Refusal)
    old = Scene()
    old.offer()
    old.submit(workers__min=1, workers__max=1)
    clearing = clear(old.exchange.snapshot())
    old.do(ApplyClearing(replace(clearing, inputs=None)))
    [one] = again(old)
    assert (one["replayable"], one["same"]) == (False, None)
