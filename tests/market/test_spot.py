"""Interruptible bids and outbidding: welfare never falls, nobody takes a lease back, nobody pays for uncommitted work."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market import outbidding
from market.commands import CancelJob, Deposit, EndLease, LostWorker
from market.orders import Bid, Offer, Requirements
from market.price_rules import ASK, SPOT
from market.spot import SpotClearing, Tenant, clear_spot, reserve_nanos
from storage.units import MS_PER_HOUR
from tests.market.scene import USD, Scene

CENT = USD // 100


def offer(name: str, ask: int, free: int, floor: int | None = None, gpus: int = 4) -> Offer:
    return Offer(
        name, "p", "cpu", gpus, free, 4.0, "eu", 0.99, "sandbox", ask * CENT,
        floor_nanos_per_gpu_hour=None if floor is None else floor * CENT,
    )  # fmt: skip


def bid(job: str, limit: int, least: int = 1, most: int = 1, *, firm: bool = False, hours: float = 1.0) -> Bid:
    return Bid(
        job, 0, least, most, Requirements(), limit * CENT, 100 * USD, customer=job, interruptible=not firm,
        expected_ms=round(hours * MS_PER_HOUR),
    )  # fmt: skip


@st.composite
def squares(draw: st.DrawFn) -> tuple[list[Offer], list[Bid], list[Bid], list[Tenant]]:
    offers, tenants = [], []
    for place in range(draw(st.integers(1, 4))):
        held = draw(st.lists(st.integers(5, 90), max_size=3))
        ask = draw(st.integers(10, 60))
        floor = draw(st.one_of(st.none(), st.integers(5, ask)))
        offers.append(offer(f"o{place}", ask, draw(st.integers(0, 4 - len(held))), floor))
        for limit in held:
            number = len(tenants)
            left, loss = draw(st.integers(60_000, 3 * MS_PER_HOUR)), draw(st.integers(0, USD // 20))
            tenants.append(Tenant(f"l{number}", number, f"t{number}", f"o{place}", 1, limit * CENT, left, loss))
    wanted = [
        bid(f"b{n}", limit, least, least + more, firm=firm, hours=hours / 10)
        for n, (limit, least, more, firm, hours) in enumerate(
            draw(st.lists(st.tuples(st.integers(5, 99), st.integers(1, 3), st.integers(0, 2), st.booleans(), st.integers(1, 40)), max_size=6))
        )
    ]
    return offers, [one for one in wanted if one.interruptible], [one for one in wanted if not one.interruptible], tenants


@settings(deadline=None)
@given(squares(), st.sampled_from([ASK, SPOT]))
def test_welfare_never_falls_nothing_is_sold_twice_and_prices_keep_to_floors_and_limits(
    square: tuple[list[Offer], list[Bid], list[Bid], list[Tenant]], rule: str
) -> None:
    offers, bids, losers, tenants = square
    found = clear_spot(offers, bids, losers, tenants, rule)
    by_job, by_offer = {one.job: one for one in (*bids, *losers)}, {one.id: one for one in offers}
    free = {one.id: one.gpus_free for one in offers}
    gone: set[str] = set()
    for one in found.preemptions:
        taker = by_job[one.job]
        assert one.surplus_nanos > 0
        assert len(one.offers) == taker.workers_min, "no more than the smallest gang needs"
        for victim in one.victims:
            assert victim.lease not in gone
            assert victim.limit_nanos_per_gpu_hour < taker.max_price_nanos_per_gpu_hour
            gone.add(victim.lease)
            free[victim.offer] += victim.gpus
    for job, names, prices in [
        *((one.job, one.offers, one.prices_nanos_per_gpu_hour) for one in found.matches),
        *((one.job, one.offers, one.prices_nanos_per_gpu_hour) for one in found.preemptions),
    ]:
        assert by_job[job].workers_min <= len(names) <= by_job[job].workers_max
        for name, price in zip(names, prices, strict=True):
            free[name] -= 1
            least = reserve_nanos(by_offer[name]) if by_job[job].interruptible else by_offer[name].price_nanos_per_gpu_hour
            assert least <= price <= by_job[job].max_price_nanos_per_gpu_hour
    assert all(units >= 0 for units in free.values())
    shuffled = clear_spot(offers[::-1], bids[::-1], losers[::-1], tenants[::-1], rule)
    assert shuffled == found, "the order of the input is nothing"


@settings(deadline=None)
@given(squares())
def test_nobody_takes_back_from_whom_it_was_outbid_by(
    square: tuple[list[Offer], list[Bid], list[Bid], list[Tenant]],
) -> None:
    """The leases that took the seats stand in the next clearing, and those that went bid for them."""
    offers, bids, losers, tenants = square
    first = clear_spot(offers, bids, losers, tenants)
    took = {one.job: one for one in first.preemptions}
    by_job = {one.job: one for one in (*bids, *losers)}
    went = {victim.lease: victim for one in first.preemptions for victim in one.victims}
    held = [tenant for tenant in tenants if tenant.lease not in went]
    for one in first.preemptions:
        taker = by_job[one.job]
        for name in one.offers:
            number = 100 + len(held)
            held.append(
                Tenant(f"n{number}", number, one.job, name, 1, taker.max_price_nanos_per_gpu_hour, taker.expected_ms, 0)
            )
    back = [
        replace(bid(victim.job, 1, hours=victim.remaining_ms / MS_PER_HOUR), max_price_nanos_per_gpu_hour=victim.limit_nanos_per_gpu_hour)
        for victim in went.values()
    ]
    second = clear_spot([replace(one, gpus_free=0) for one in offers], back, [], held)
    for one in second.preemptions:
        for victim in one.victims:
            if victim.job in took:
                assert one.job not in {gone.job for gone in took[victim.job].victims}


def test_the_highest_win_and_pay_the_highest_that_went_without() -> None:
    square = [offer("o", 50, 2, floor=10, gpus=2)]
    found = clear_spot(square, [bid("a", 40), bid("b", 30), bid("c", 20)], [], [], SPOT)
    assert [(one.job, one.prices_nanos_per_gpu_hour) for one in found.matches] == [("a", (20 * CENT,)), ("b", (20 * CENT,))]
    by_ask = clear_spot(square, [bid("a", 40), bid("b", 30), bid("c", 20)], [], [], ASK)
    assert {one.prices_nanos_per_gpu_hour for one in by_ask.matches} == {(10 * CENT,)}


def test_in_one_clearing_of_alike_single_units_no_other_limit_is_better_than_the_true_one() -> None:
    """Second price with a reserve: measured over every limit that one bidder could say against the others' true ones."""
    values = {"a": 42, "b": 35, "c": 35, "d": 21, "e": 12}
    square = [offer("o", 60, 2, floor=15, gpus=2)]

    def gain(liar: str, says: int) -> int:
        bids = [bid(job, says if job == liar else value) for job, value in values.items()]
        found = clear_spot(square, bids, [], [], SPOT)
        paid = next((one.prices_nanos_per_gpu_hour[0] for one in found.matches if one.job == liar), None)
        return 0 if paid is None else values[liar] * CENT - paid

    regrets = {job: max(gain(job, says) for says in range(5, 61)) - gain(job, value) for job, value in values.items()}
    assert regrets == dict.fromkeys(values, 0)


def test_a_restart_that_costs_more_than_is_gained_protects_the_lease() -> None:
    square = [offer("o", 30, 0, gpus=1)]

    def outbid(loss_nanos: int) -> SpotClearing:
        tenant = Tenant("l", 1, "t", "o", 1, 40 * CENT, MS_PER_HOUR, loss_nanos)
        return clear_spot(square, [], [bid("b", 50, firm=True)], [tenant])

    [taken] = outbid(10 * CENT - 1).preemptions
    assert (taken.gain_nanos, taken.value_nanos, taken.surplus_nanos) == (20 * CENT, 10 * CENT, 1)
    assert not outbid(10 * CENT).preemptions


# the market


def two_customers() -> Scene:
    scene = Scene()
    scene.do(Deposit("d2", "bob", 100 * USD, "op"))
    return scene


def outbid_scene() -> Scene:
    """`spot` of ann on offer-1 at its floor, outbid by `firm` of bob, who needs both offers."""
    scene = two_customers()
    scene.offer("offer-1", "p1", 0.5, floor_price_nanos_per_gpu_hour=USD // 5)
    scene.submit("spot", workers__min=1, workers__max=1, limits__interruptible=True, limits__max_price_nanos_per_gpu_hour=3 * USD // 10)
    scene.clear()
    scene.start_all("spot")
    scene.wait(10_000)
    scene.round(1, {0: 9_000}, "spot")
    scene.offer("offer-2", "p2", 0.6)
    scene.submit("firm", "bob", workers__min=2, workers__max=2)
    scene.clear()
    return scene


def leave(scene: Scene, job: str = "spot", reason: str = "outbid") -> None:
    lease = scene.view(job)["leases"][-1]
    scene.do(EndLease(lease["id"], lease["epoch"], reason, "", lease["provider"]))


def test_an_interruptible_lease_pays_the_floor_has_notice_and_pays_for_committed_work_only() -> None:
    scene = outbid_scene()
    [lease] = scene.view("spot")["leases"]
    assert lease["price_nanos_per_gpu_hour"] == USD // 5
    assert lease["ending"] == {"reason": "outbid", "notice_ms": 5_000, "ends_ms": scene.now_ms + 5_000}
    assert scene.exchange.explain("firm")["reason"] == "outbidding"  # type: ignore[index]
    scene.clear()
    assert not scene.view("firm")["leases"], "the seats are promised, and nobody sits there yet"
    scene.wait(2_000)
    scene.read("spot", s0=12_000)
    scene.do(scene.make_round(2, {0: 12_000}, "spot"))
    leave(scene)
    scene.wait(500)
    [ended] = scene.view("spot")["leases"]
    assert (ended["reason"], ended["fault"], ended["charged_ms"]) == ("outbid", "none", 0)
    assert [one["offer"] for one in scene.view("firm")["leases"]] == ["offer-2", "offer-1"]
    assert {one["price_nanos_per_gpu_hour"] for one in scene.view("firm")["leases"]} == {USD // 2, 6 * USD // 10}
    scene.checkpoint(2, "spot")
    assert scene.view("spot")["leases"][0]["charged_ms"] == 12_000, "its rounds, once they are durable"
    scene.clear()
    why = scene.exchange.explain("spot")
    assert why is not None
    assert (scene.view("spot")["state"], why["workers"]) == ("running", 0)
    assert [(one["change"], one["reason"]) for one in why["changes"]] == [("grew", "matched"), ("shrank", "outbid")]
    assert scene.exchange.offer("offer-1")["record"]["leases_lost"] == 0  # type: ignore[index]
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_who_runs_is_asked_what_its_restart_would_cost_only_where_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    restart_ms = outbidding.restart_ms
    monkeypatch.setattr(outbidding, "restart_ms", lambda state, job: asked.append(job.id) or restart_ms(state, job))
    scene = two_customers()
    scene.offer()
    scene.submit("spot", workers__min=1, workers__max=1, limits__interruptible=True)
    scene.clear()
    scene.start_all("spot")
    scene.offer("offer-2", "p2")
    scene.submit("firm", by="bob", workers__min=1, workers__max=1)
    scene.clear()
    assert scene.live("firm")
    assert asked == []
    scene.submit("waits", by="bob", workers__min=1, workers__max=1, limits__max_price_nanos_per_gpu_hour=2 * USD)
    scene.clear()
    assert set(asked) == {"spot"}


def test_who_was_outbid_comes_back_when_there_is_room() -> None:
    scene = outbid_scene()
    leave(scene)
    scene.wait(500)
    scene.clear()
    scene.do(CancelJob("firm", "bob"))
    scene.clear()
    assert [one["offer"] for one in scene.view("spot")["leases"]] == ["offer-1", "offer-1"]


def test_a_promise_goes_with_the_job_and_a_lease_that_stays_is_ended() -> None:
    scene = outbid_scene()
    scene.do(CancelJob("firm", "bob"))
    scene.wait(500)
    assert scene.events[-1] | {"why": ""} == {"type": "promise_ended", "job": "firm", "kept": False, "why": ""}
    scene.wait(14_499)
    assert scene.view("spot")["leases"][0]["state"] == "active"
    scene.wait(1)
    assert scene.view("spot")["leases"][0]["reason"] == "outbid"
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_nobody_may_say_outbid_of_a_lease_without_notice() -> None:
    scene = Scene()
    scene.running()
    first, second = scene.view()["leases"]
    scene.do(EndLease(first["id"], first["epoch"], "outbid", "", first["provider"]))
    scene.read(lost=(LostWorker(second["id"], second["epoch"], "outbid", ""),))
    assert {(one["reason"], one["fault"]) for one in scene.view()["leases"]} == {("worker_lost", "provider")}


def test_a_job_grows_below_its_price_and_gives_its_growth_to_who_bids_more_but_never_its_gang() -> None:
    scene = two_customers()
    for number, usd in enumerate((0.3, 0.4, 0.5), 1):
        scene.offer(f"offer-{number}", f"p{number}", usd)
    scene.submit("grow", workers__min=1, workers__max=3, workers__grow_below_nanos_per_gpu_hour=45 * CENT)
    scene.clear()
    assert [one["offer"] for one in scene.view("grow")["leases"]] == ["offer-1", "offer-2"], "offer-3 is too dear to grow"
    scene.start_all("grow")
    scene.wait(1_000)
    scene.submit("firm", "bob", workers__min=2, workers__max=2)
    scene.clear()
    ending = {one["offer"]: one["ending"] is not None for one in scene.view("grow")["leases"]}
    assert ending == {"offer-1": False, "offer-2": True}
    leave(scene, "grow")
    scene.wait(500)
    scene.submit("more", "bob", workers__min=1, workers__max=1)
    scene.clear()
    assert scene.live("grow")[0]["offer"] == "offer-1"
    assert scene.view("more")["state"] == "pending", "a gang that is not interruptible stays"
    why = scene.exchange.explain("grow")
    assert why is not None
    assert [(one["change"], one["workers"]) for one in why["changes"]] == [("grew", 1), ("grew", 2), ("shrank", 1)]
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()
