"""The exchange as a story: who is told what, who pays what, and what a restart forgets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.avoidance import LONGEST_MS, SERVED_WELL_MS, Avoidance, after_loss
from market.commands import (
    AddBudget,
    AddMember,
    CancelJob,
    ChangeOffer,
    Deposit,
    EndLease,
    HaltJob,
    Heard,
    LoseRay,
    Payout,
    Reading,
    ReopenMarket,
    ReportCheckpoint,
    ReportReadings,
    RevokeMember,
    RotateKey,
    StartLease,
    StopMarket,
    SubmitJob,
    Tick,
)
from market.exchange import Exchange, Refusal
from market.faults import BY_REASON, CAUSES, Charged, Fault, render_table
from market.outcomes import Settings
from storage.provenance import make_bundle, verify_bundle
from storage.units import charge_nanos, fee_total
from tests.market.scene import USD, Scene, digest, make_spec


def charged_ms(scene: Scene, job: str = "job-1") -> list[int]:
    return [lease["charged_ms"] for lease in scene.view(job)["leases"]]


def trained(scene: Scene, rounds: int = 2) -> None:
    """Rounds of a second each; all but the last are durable; half a second more is metered."""
    for number in range(1, rounds + 1):
        scene.wait(1_000)
        scene.round(number, {0: 1_000 * number, 1: 1_000 * number})
        if number < rounds:
            scene.checkpoint(number)
    scene.wait(500)
    scene.read(s0=1_000 * rounds + 500, s1=1_000 * rounds + 500)


def test_a_job_lives_its_whole_life() -> None:
    scene = Scene()
    scene.running(offers=3)
    assert [worker["offer"] for worker in scene.live()] == ["offer-1", "offer-2"]
    trained(scene, rounds=2)
    scene.lose(0, "worker_killed")
    scene.clear()
    scene.start_all()
    assert [(one["offer"], one["slot"], one["replaces"]) for one in scene.live()] == [
        ("offer-2", 1, None),
        ("offer-3", 2, "lease-000001"),
    ]
    scene.wait(1_000)
    scene.round(3, {1: 3_500, 2: 900})
    scene.evaluate("job-1", 1, 5.0)
    scene.evaluate("job-1", 3, 4.0)
    scene.checkpoint(3)
    assert scene.halt("done")["state"] == "done"
    view = scene.view()
    assert (view["loss_first"], view["loss_last"], view["escrow_nanos"], scene.live()) == (5.0, 4.0, 0, [])
    assert charged_ms(scene) == [2_000, 3_500, 900]
    paid = (
        charge_nanos(USD // 2, 1, 2_000) + charge_nanos(6 * USD // 10, 1, 3_500) + charge_nanos(7 * USD // 10, 1, 900)
    )
    assert view["billed_nanos"] == paid
    assert scene.balances()["wallet:ann"] == 100 * USD - paid
    # «done» is the last word, after the last settlement.
    assert scene.events[-1]["type"] == "job_state"
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_a_bundle_of_the_exchange_verifies_offline() -> None:
    scene = Scene()
    scene.running()
    trained(scene, rounds=3)
    scene.checkpoint(3)
    scene.halt("done")
    parts = scene.exchange.bundle("job-1")
    assert parts is not None
    bundle = make_bundle("job-1", parts["spec"], parts["statements"], parts["transfers"])
    found = verify_bundle(bundle)
    assert found.ok, found
    assert [one["predicate"]["rounds"] for one in parts["statements"]] == [
        {"first": number, "last": number} for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("cause", [cause for cause in CAUSES if cause.fault in (Fault.PROVIDER, Fault.MARKET) and not cause.by_market])
def test_a_worker_lost_without_the_customers_doing_is_paid_for_durable_rounds_only(cause: Any) -> None:
    scene = Scene()
    scene.running()
    trained(scene, rounds=2)
    scene.lose(0, cause.reason)
    assert charged_ms(scene) == [1_000, 1_000]
    scene.checkpoint(2)
    assert charged_ms(scene) == [2_000, 2_000]
    ended = scene.view()["leases"][0]
    assert (ended["reason"], ended["fault"], ended["metered_ms"]) == (cause.reason, str(cause.fault), 2_500)


@pytest.mark.parametrize("reason", ["exception", "nan", "hang", "memory", "shape", "import"])
def test_the_customers_own_failure_is_paid_to_the_last_reading(reason: str) -> None:
    scene = Scene()
    scene.running()
    trained(scene, rounds=2)
    scene.halt("failed", reason)
    assert scene.state() == ("failed", reason)
    assert charged_ms(scene) == [2_500, 2_500]
    assert BY_REASON[reason].charged is Charged.LAST_READING


def test_a_run_that_fails_by_the_markets_fault_is_paid_for_durable_rounds_only() -> None:
    scene = Scene()
    scene.running()
    trained(scene, rounds=2)
    scene.halt("failed", "run_died")
    assert charged_ms(scene) == [1_000, 1_000]


def test_a_cancelled_job_pays_to_the_last_reading_and_gets_the_rest_back() -> None:
    scene = Scene()
    scene.running()
    trained(scene)
    scene.do(CancelJob("job-1", "ann"))
    view = scene.view()
    assert (view["state"], charged_ms(scene), view["escrow_nanos"]) == ("cancelled", [2_500, 2_500], 0)
    assert scene.balances()["wallet:ann"] == 100 * USD - view["billed_nanos"]
    assert scene.exchange.runs()["runs"] == []
    late = scene.say(scene.make_round(3, {0: 9_000}))
    assert not late.created


def test_a_provider_cannot_blame_the_customer() -> None:
    scene = Scene()
    scene.running()
    trained(scene)
    scene.do(EndLease("lease-000001", 1, "exception", "it was them", "p1"))
    assert scene.view()["leases"][0]["fault"] == "provider"
    assert charged_ms(scene) == [1_000, 1_000]


def test_fees_never_drift() -> None:
    scene = Scene()
    scene.running()
    for number in range(1, 30):
        scene.wait(777)
        scene.round(number, {0: 777 * number, 1: 776 * number})
        scene.checkpoint(number)
    leases = scene.view()["leases"]
    fees = sum(fee_total(lease["charged_nanos"], 50_000) for lease in leases)
    assert scene.balances()["fee"] == fees
    assert leases[0]["charged_nanos"] == charge_nanos(USD // 2, 1, 777 * 29)


def test_the_escrow_runs_out_and_more_budget_resumes() -> None:
    scene = Scene()
    # 1.1 USD an hour: a minute costs 0.0183 USD.
    scene.running(limits__budget_nanos=USD // 50)
    meters = 0
    while scene.view()["wanted"] == "run":
        scene.wait(1_000)
        meters += 1_000
        scene.read(s0=meters, s1=meters)
    assert 55_000 < meters < 65_000
    scene.halt("paused")
    view = scene.view()
    assert (view["state"], view["reason"], scene.live()) == ("paused", "escrow_exhausted", [])
    assert 0 < view["escrow_nanos"] < USD // 500
    scene.do(AddBudget("more", "job-1", USD, "ann"))
    assert scene.say(AddBudget("more", "job-1", USD, "ann")).created is False
    assert scene.refused(AddBudget("more", "job-1", 2 * USD, "ann")).status == 409
    scene.clear()
    assert scene.state() == ("running", "matched")
    assert scene.view()["run"] == 2
    assert scene.view()["budget_nanos"] == USD // 50 + USD


def pausing(scene: Scene) -> None:
    """A job whose run has been asked to pause, because its escrow runs out."""
    scene.running(limits__budget_nanos=USD // 50)
    meters = 0
    while scene.view()["wanted"] == "run":
        scene.wait(1_000)
        meters += 1_000
        scene.read(s0=meters, s1=meters)


def test_budget_that_comes_while_the_job_is_pausing_resumes_it_when_the_run_has_halted() -> None:
    scene = Scene()
    pausing(scene)
    scene.do(AddBudget("more", "job-1", USD, "ann"))
    assert (scene.state()[0], scene.view()["wanted"]) == ("running", "pause")
    scene.restart()
    scene.halt("paused")
    assert scene.state() == ("pending", "budget_added")
    assert {lease["reason"] for lease in scene.view()["leases"]} == {"escrow_exhausted"}
    scene.clear()
    assert (*scene.state(), scene.view()["wanted"], scene.view()["run"]) == ("running", "matched", "run", 2)


def test_budget_that_comes_while_the_job_is_pausing_survives_a_run_that_never_confirms() -> None:
    scene = Scene()
    pausing(scene)
    scene.do(AddBudget("more", "job-1", USD, "ann"))
    scene.wait(30_001)
    assert scene.state() == ("pending", "budget_added")


def test_budget_that_comes_while_the_market_goes_down_does_not_keep_the_job_running() -> None:
    scene = Scene()
    scene.running()
    scene.do(StopMarket("op"))
    scene.do(AddBudget("more", "job-1", USD, "ann"))
    scene.halt("paused")
    assert scene.state() == ("paused", "market_down")


def test_a_charge_never_exceeds_the_escrow_and_keeps_the_formula() -> None:
    scene = Scene()
    scene.running(limits__budget_nanos=USD // 50)
    scene.wait(100_000)
    scene.start_all()
    scene.read(s0=100_000, s1=100_000)
    scene.halt("paused")
    view = scene.view()
    assert view["billed_nanos"] <= USD // 50
    for lease in view["leases"]:
        price = lease["price_nanos_per_gpu_hour"]
        assert lease["charged_nanos"] == charge_nanos(price, 1, lease["charged_ms"])


def test_a_meter_runs_no_faster_than_the_clock_and_never_back() -> None:
    scene = Scene()
    scene.running()
    scene.wait(1_000)
    scene.read(s0=10**9)
    assert scene.view()["leases"][0]["metered_ms"] == 1_000
    scene.read(s0=5)
    assert scene.view()["leases"][0]["metered_ms"] == 1_000


def test_the_same_id_twice() -> None:
    scene = Scene()
    scene.offer(gpus=2)
    first = scene.submit()
    again = scene.say(SubmitJob("job-1", make_spec(), "ann"))
    assert (again.created, again.events, again.answer["id"]) == (False, (), first["id"])  # type: ignore[index]
    assert scene.refused(SubmitJob("job-1", make_spec(seed=2), "ann")).status == 409
    assert scene.refused(SubmitJob("job-1", make_spec(), "bob")).status == 409
    assert scene.say(Deposit("d1", "ann", 100 * USD, "op")).created is False
    assert scene.refused(Deposit("d1", "ann", 99 * USD, "op")).code == "conflict"
    assert scene.balances()["wallet:ann"] == 95 * USD


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (Deposit("d2", "ann", USD, "ann"), 403),
        (Deposit("d2", "ann", USD, "p1"), 403),
        (Deposit("d2", "ann", USD, "nobody"), 401),
        (AddMember("eve", "operator", digest("eve"), "ann"), 403),
        (RevokeMember("ann", "p1"), 403),
        (RotateKey("ann", digest("new"), 0, "ann"), 403),
        (RotateKey("nobody", digest("new"), 0, "op"), 404),
        (RotateKey("plane", digest("new"), 0, "op"), 403),
        (RotateKey("ann", digest("bob"), 0, "op"), 409),
        (CancelJob("job-1", "bob"), 404),
        (AddBudget("x", "job-1", USD, "bob"), 404),
        (ChangeOffer("offer-1", "withdraw", "p2"), 404),
        (StartLease("lease-000001", 1, "w", 1, "n", "p2"), 404),
        (StartLease("lease-000001", 2, "w", 1, "n", "p1"), 409),
        (EndLease("lease-000001", 2, "drained", "", "p1"), 409),
        (HaltJob("job-1", "failed", "nan", "", None, "ann"), 403),
        (ReportCheckpoint("job-1", 1, 1, digest("m"), 1, 1, (), "p1"), 403),
        (StopMarket("ann"), 403),
        (Tick("ann"), 403),
        (Heard("offer-1", "p2"), 404),
    ],
)
def test_nobody_does_what_is_not_theirs(command: Any, status: int) -> None:
    scene = Scene()
    scene.running()
    assert scene.refused(command).status == status


def test_requirements_that_no_listed_hardware_meets_are_refused_unless_the_job_waits() -> None:
    scene = Scene()
    scene.offer(gpus=2)
    refusal = scene.refused(SubmitJob("job-1", make_spec(workers__gpu=["A100"]), "ann"))
    assert (refusal.code, refusal.field) == ("never_fits_gpu_model", "workers.gpu")
    assert "workers.gpu also cpu" in str(refusal.remedy)
    scene.submit(workers__gpu=["A100"], wait=True)
    scene.clear()
    assert scene.state() == ("pending", "gpu_model")
    scene.submit("job-2", limits__max_price_nanos_per_gpu_hour=USD // 10)
    scene.clear()
    assert scene.state("job-2") == ("pending", "price_too_low")
    explained = scene.exchange.explain("job-2")
    assert explained is not None
    assert explained["relaxations"] == ["limits.max_usd_per_gpu_hour 0.50"]


def test_a_job_waits_for_busy_and_for_absent_machines() -> None:
    scene = Scene()
    scene.submit("job-0")
    scene.clear()
    assert scene.state("job-0") == ("pending", "no_offers")
    scene.offer(gpus=2)
    scene.clear()
    scene.submit("job-1")
    scene.clear()
    assert (scene.state("job-0")[0], scene.state("job-1")) == ("running", ("pending", "busy"))
    scene.do(CancelJob("job-0", "ann"))
    assert scene.exchange.dirty
    scene.clear()
    assert scene.state("job-1")[0] == "running"


def test_a_budget_of_less_than_a_minute_and_an_empty_wallet() -> None:
    scene = Scene()
    scene.offer(gpus=2)
    small = scene.refused(SubmitJob("job-1", make_spec(limits__budget_nanos=USD // 100), "ann"))
    assert (small.code, small.field) == ("budget_too_small", "limits.budget_usd")
    assert "0.016666666" in str(small.remedy)
    poor = scene.refused(SubmitJob("job-1", make_spec(), "bob"))
    assert (poor.code, poor.status) == ("insufficient_funds", 402)


def test_a_gang_grows_to_its_maximum_when_machines_come() -> None:
    scene = Scene()
    scene.running(workers__min=1, workers__max=3)
    assert len(scene.live()) == 2
    scene.offer("offer-3", "p3", 0.6)
    scene.clear()
    scene.offer("offer-4", "p4", 0.6)
    scene.clear()
    assert [worker["offer"] for worker in scene.live()] == ["offer-1", "offer-2", "offer-3"]


def test_an_offer_that_loses_workers_is_avoided_by_that_job_for_longer_each_time() -> None:
    scene = Scene()
    scene.running(offers=2)
    for avoided_ms in (5_000, 10_000, 20_000):
        scene.wait(1_000)
        lost = next(worker["slot"] for worker in scene.live() if worker["offer"] == "offer-1")
        scene.lose(lost, "worker_killed")
        scene.clear()
        assert len(scene.live()) == 1
        scene.wait(avoided_ms - 1)
        scene.clear()
        assert len(scene.live()) == 1
        assert not scene.exchange.dirty
        scene.wait(1)
        assert scene.exchange.dirty
        scene.clear()
        assert [worker["offer"] for worker in scene.live()] == ["offer-2", "offer-1"]


@given(served_ms=st.lists(st.integers(0, 2 * SERVED_WELL_MS), max_size=100), settings=st.integers(0, 10**9))
def test_an_offer_is_avoided_for_as_long_as_its_losses_in_a_row_say(served_ms: list[int], settings: int) -> None:
    first = Settings(avoid_ms=settings)
    last: Avoidance | None = None
    for at_ms, served in enumerate(served_ms):
        before, last = last, after_loss(last, at_ms, served)
        if before is None or served >= SERVED_WELL_MS:
            assert last.until_ms(first) == at_ms + settings
        else:
            doubled = 2 * (before.until_ms(first) - before.at_ms)
            assert last.until_ms(first) == at_ms + min(doubled, max(settings, LONGEST_MS))


def test_an_offer_that_lost_a_worker_is_suspect_until_it_is_heard() -> None:
    scene = Scene()
    scene.running(offers=2)
    scene.wait(1_000)
    scene.lose(0, "worker_killed")
    scene.submit("job-2", workers__min=1, workers__max=1)
    scene.clear()
    explained = scene.exchange.explain("job-2")
    assert explained is not None
    assert explained["removed"] == [{"reason": "not_available", "gpus": 1}, {"reason": "busy", "gpus": 1}]
    scene.now_ms += 1
    scene.do(Heard("offer-1", "p1"))
    assert scene.exchange.dirty
    scene.clear()
    assert scene.live("job-2")[0]["offer"] == "offer-1"


def test_a_silent_offer_goes_offline_and_comes_back() -> None:
    scene = Scene()
    scene.offer()
    scene.wait(10_000, silent=("offer-1",))
    assert scene.exchange.offers(scene.now_ms)[0]["state"] == "open"
    scene.wait(1, silent=("offer-1",))
    assert scene.exchange.offers(scene.now_ms)[0]["state"] == "offline"
    scene.do(Heard("offer-1", "p1"))
    assert scene.exchange.offers(scene.now_ms)[0]["state"] == "open"


def test_timers_start_anew_after_a_restart() -> None:
    scene = Scene()
    scene.running()
    scene.now_ms += 3_600_000
    scene.restart()
    scene.do(Tick())
    assert [offer["state"] for offer in scene.exchange.offers(scene.now_ms)] == ["open", "open"]
    scene.wait(10_001, silent=("offer-1", "offer-2"))
    assert [offer["state"] for offer in scene.exchange.offers(scene.now_ms)] == ["offline", "offline"]
    assert len(scene.live()) == 2
    scene.wait(30_000, silent=("offer-1", "offer-2"))
    assert [lease["reason"] for lease in scene.view()["leases"]] == ["network_cut", "network_cut"]


def test_a_lease_that_never_starts_ends() -> None:
    scene = Scene()
    scene.offer(gpus=2)
    scene.submit()
    scene.clear()
    scene.wait(45_000)
    assert len(scene.live()) == 2
    scene.wait(1)
    assert [lease["reason"] for lease in scene.view()["leases"]] == ["start_timeout", "start_timeout"]
    refusal = scene.refused(StartLease("lease-000001", 1, "w", 1, "n", "p1"))
    assert refusal.code == "lease_ended"


def test_the_market_goes_down_and_up() -> None:
    scene = Scene()
    scene.running()
    trained(scene)
    scene.do(StopMarket("op"))
    assert scene.view()["wanted"] == "pause"
    assert scene.refused(SubmitJob("job-2", make_spec(), "ann")).code == "market_closing"
    scene.checkpoint(2)
    scene.halt("paused")
    assert scene.state() == ("paused", "market_down")
    scene.restart()
    scene.do(ReopenMarket("op"))
    assert scene.state() == ("pending", "market_up")
    scene.clear()
    directive = scene.exchange.directive("job-1")
    assert directive is not None
    assert (directive["wanted"], directive["run"], directive["durable"]["round"]) == ("run", 2, 2)
    assert [lease["slot"] for lease in directive["leases"]] == [2, 3]


def test_a_market_that_goes_down_stays_closed_through_a_restart() -> None:
    scene = Scene()
    scene.offer(gpus=2)
    scene.submit(workers__min=1, workers__max=1)
    scene.do(StopMarket("op"))
    scene.do(StopMarket("op"))
    scene.restart()
    assert scene.exchange.stopped
    assert scene.refused(SubmitJob("job-2", make_spec(), "ann")).code == "market_closing"
    scene.clear()
    assert scene.state()[0] == "pending"
    scene.do(ReopenMarket("op"))
    scene.do(ReopenMarket("op"))
    scene.restart()
    scene.clear()
    assert scene.state()[0] == "running"
    assert len(scene.of_type("market_stopped")) == len(scene.of_type("market_reopened")) == 1


def test_a_pause_that_nobody_confirms_ends_at_the_durable_round() -> None:
    scene = Scene()
    scene.running()
    trained(scene)
    scene.do(StopMarket("op"))
    scene.wait(30_000)
    assert scene.state()[0] == "running"
    scene.wait(1)
    assert scene.state() == ("paused", "market_down")
    assert charged_ms(scene) == [1_000, 1_000]


def test_a_deadline_ends_a_job_that_never_ran() -> None:
    scene = Scene()
    scene.offer(gpus=1)
    scene.submit(limits__deadline_ms=60_000)
    scene.wait(60_001)
    assert scene.state() == ("failed", "deadline")
    assert scene.balances()["wallet:ann"] == 100 * USD


def test_rounds_that_were_lost_with_every_machine_are_not_charged() -> None:
    scene = Scene()
    scene.running(offers=4)
    trained(scene, rounds=3)
    scene.lose(0, "node_died")
    scene.lose(1, "node_died")
    scene.clear()
    scene.start_all()
    scene.wait(1_000)
    scene.round(3, {2: 800, 3: 900}, mark="again")
    scene.round(3, {2: 800, 3: 900}, mark="again")
    scene.checkpoint(3)
    assert charged_ms(scene) == [2_000, 2_000, 800, 900]
    assert scene.refused(scene.make_round(3, {2: 950}, mark="other")).code == "round_out_of_order"
    assert scene.refused(scene.make_round(9, {2: 950})).code == "round_out_of_order"


def test_a_round_counts_once_whoever_tells_of_it_first() -> None:
    scene = Scene()
    scene.running(offers=3)
    scene.wait(1_000)
    lease = scene.view()["leases"][0]
    # The worker's meter has counted the commit before the run reports the round.
    early = Reading(lease["id"], lease["epoch"], 900, 900, 1, 1_000, 99)
    scene.do(ReportReadings("job-1", 77, (early,), (), (), "plane"))
    scene.round(1, {0: 1_000, 1: 1_000})
    assert [one["rounds"] for one in scene.view()["leases"]] == [1, 1]


def test_a_round_that_is_run_again_counts_once_for_a_lease() -> None:
    scene = Scene()
    scene.running(offers=3)
    trained(scene, rounds=3)
    scene.wait(1_000)
    scene.round(3, {0: 4_000, 1: 4_000}, mark="again")
    scene.round(3, {0: 4_000, 1: 4_000}, mark="again")
    scene.lose(1, "worker_killed")
    scene.round(4, {0: 4_500, 1: 4_500})
    # The second lease had ended when the round that it contributed to was reported.
    assert [one["rounds"] for one in scene.view()["leases"]] == [4, 4]
    assert [event["rounds"] for event in scene.of_type("lease_metered") if event["lease"] == "lease-000002"][-1] == 4


def started(lease: dict[str, Any], **changes: Any) -> StartLease:
    """What the provider said of this lease when it was started."""
    said = StartLease(lease["id"], lease["epoch"], lease["worker"], lease["pid"], lease["node"], lease["provider"])
    return replace(said, **changes)


@pytest.mark.parametrize("change", [{"worker": "worker-other"}, {"pid": 7}, {"node": "elsewhere"}])
def test_another_worker_for_an_active_lease_ends_it_and_the_job_gets_a_replacement(change: dict[str, Any]) -> None:
    scene = Scene()
    scene.running(offers=3)
    trained(scene)
    lease = scene.view()["leases"][0]
    assert scene.do(started(lease))["state"] == "active"
    answer = scene.do(started(lease, **change))
    assert (answer["state"], answer["reason"]) == ("ended", "worker_lost")
    assert scene.refused(started(lease, **change)).code == "lease_ended"
    assert scene.view()["leases"][0]["fault"] == "provider"
    scene.clear()
    assert [one["offer"] for one in scene.live() if one["state"] == "granted"] == ["offer-3"]


def test_a_provider_that_comes_back_on_another_node_has_lost_its_workers() -> None:
    scene = Scene()
    scene.running(offers=3)
    trained(scene)
    scene.do(scene.make_offer("offer-1", "p1", 0.5, 1, node="node"))
    assert len(scene.live()) == 2, "the node of the lease: nothing is lost"
    scene.do(scene.make_offer("offer-1", "p1", 0.5, 1, node="node-new"))
    lost = scene.view()["leases"][0]
    assert (lost["reason"], lost["fault"], lost["charged_ms"]) == ("worker_lost", "provider", 1_000)
    assert scene.exchange.offers(scene.now_ms)[0]["gpus_free"] == 1


def test_a_lease_that_was_not_started_may_be_started_on_another_node() -> None:
    scene = Scene()
    scene.offer(gpus=2)
    scene.submit()
    scene.clear()
    scene.do(scene.make_offer("offer-1", "p1", 0.5, 2, node="node-new"))
    scene.start_all()
    assert [one["state"] for one in scene.live()] == ["active", "active"]


@pytest.mark.parametrize(("silent_ms", "fault"), [(14_999, "provider"), (15_000, "market")])
def test_head_lost_is_the_markets_fault_only_when_the_market_has_not_heard_the_run_either(
    silent_ms: int, fault: str
) -> None:
    scene = Scene()
    scene.running(offers=3)
    trained(scene)
    scene.wait(silent_ms)
    scene.do(EndLease("lease-000001", 1, "head_lost", "no word from the run", "p1"))
    ended = scene.view()["leases"][0]
    assert (ended["fault"], ended["charged_ms"]) == (fault, 1_000)
    offer = scene.exchange.offer("offer-1")
    assert offer is not None
    assert (offer["suspect"], offer["reliability"] < 0.95) == (fault == "provider", fault == "provider")


def test_a_restarted_exchange_waits_before_it_believes_in_a_lost_head() -> None:
    scene = Scene()
    scene.running(offers=3)
    trained(scene)
    scene.now_ms += 3_600_000
    scene.restart()
    scene.do(EndLease("lease-000001", 1, "head_lost", "", "p1"))
    assert scene.view()["leases"][0]["fault"] == "provider"


def test_a_lost_ray_ends_everything_at_the_markets_expense_until_the_providers_have_joined_again() -> None:
    scene = Scene()
    scene.running(offers=3)
    trained(scene)
    assert scene.refused(LoseRay("p1")).status == 403
    assert scene.do(LoseRay("plane"))["ended"] == ["lease-000001", "lease-000002"]
    assert [(one["reason"], one["fault"]) for one in scene.view()["leases"]] == [("head_lost", "market")] * 2
    assert charged_ms(scene) == [1_000, 1_000]
    assert scene.state()[0] == "running"
    # A host polls on until it has noticed; its offer is no machine that could train.
    scene.wait(1_000)
    scene.restart()
    scene.wait(1_000)
    assert {offer["state"] for offer in scene.exchange.offers(scene.now_ms)} == {"offline"}
    scene.clear()
    assert scene.exchange.leases_of("offer-1")["leases"] == []  # type: ignore[index]
    for number in (1, 2, 3):
        scene.offer(f"offer-{number}", f"p{number}", 0.4 + 0.1 * number, node=f"node-new-{number}")
    scene.clear()
    assert [one["offer"] for one in scene.live()] == ["offer-1", "offer-2"]
    assert all(offer["reliability"] >= 0.95 for offer in scene.exchange.offers(scene.now_ms))


def test_a_drained_offer_is_listed_again_when_its_provider_places_it_again() -> None:
    scene = Scene()
    scene.offer()
    scene.do(ChangeOffer("offer-1", "drain", "p1"))
    assert scene.offer()["state"] == "open"
    assert scene.exchange.offers(scene.now_ms)[0]["state"] == "open"
    assert scene.say(scene.make_offer("offer-1", "p1", 0.5, 1)).created is False
    scene.do(ChangeOffer("offer-1", "drain", "op"))
    assert scene.do(ChangeOffer("offer-1", "relist", "op"))["state"] == "open"
    scene.do(LoseRay("plane"))
    assert scene.refused(ChangeOffer("offer-1", "relist", "p1")).code == "offline"


def test_a_checkpoint_of_another_step_than_its_round_is_refused() -> None:
    scene = Scene()
    scene.running()
    trained(scene)
    refusal = scene.refused(ReportCheckpoint("job-1", 2, 31, digest("m2"), 10, 1, (), "plane"))
    assert (refusal.code, refusal.field) == ("invalid", "step")
    assert scene.view()["round_durable"] == 1


def seats(scene: Scene) -> list[tuple[int, str]]:
    return [(worker["slot"], worker["state"]) for worker in scene.view()["workers"]]


def test_the_workers_of_a_job_are_the_newest_lease_of_each_seat() -> None:
    scene = Scene()
    scene.running(offers=3)
    assert seats(scene) == [(0, "active"), (1, "active")]
    trained(scene)
    scene.lose(0, "worker_killed")
    assert seats(scene) == [(0, "ended"), (1, "active")]
    scene.clear()
    assert seats(scene) == [(1, "active"), (2, "granted")]
    scene.start_all()
    scene.wait(1_000)
    scene.round(3, {1: 3_000, 2: 500})
    scene.checkpoint(3)
    scene.halt("done")
    assert seats(scene) == [(1, "ended"), (2, "ended")]
    assert {(one["name"], one["provider"]) for one in scene.view()["workers"]} == {("p2", "p2"), ("p3", "p3")}


def test_a_job_that_goes_on_after_a_pause_has_a_new_gang() -> None:
    scene = Scene()
    scene.running(offers=3)
    trained(scene)
    scene.do(StopMarket("op"))
    scene.halt("paused")
    assert seats(scene) == [(0, "ended"), (1, "ended")]
    scene.wait(1_000)
    scene.do(ReopenMarket("op"))
    scene.clear()
    assert seats(scene) == [(2, "granted"), (3, "granted")]


def test_done_is_not_said_before_the_last_round_is_durable() -> None:
    scene = Scene()
    scene.running()
    trained(scene)
    assert scene.refused(HaltJob("job-1", "done", "", "", None, "plane")).code == "not_durable"
    scene.checkpoint(2)
    assert scene.refused(HaltJob("job-1", "done", "", "", digest("other"), "plane")).code == "not_durable"
    scene.halt("done")
    assert scene.view()["manifest"] == digest("m2")
    assert scene.say(HaltJob("job-1", "failed", "nan", "", None, "plane")).created is False
    assert scene.state() == ("done", "done")


def test_the_word_of_an_earlier_attempt_ends_nothing() -> None:
    scene = Scene()
    scene.running(offers=3)
    trained(scene)
    scene.do(StopMarket("op"))
    scene.halt("paused")
    scene.wait(1_000)
    scene.do(ReopenMarket("op"))
    scene.clear()
    directive = scene.exchange.directive("job-1")
    assert directive is not None
    late = HaltJob("job-1", "failed", "nan", "", None, "plane", run=directive["run"] - 1)
    assert scene.say(late).created is False
    assert scene.state()[0] == "running"
    scene.do(HaltJob("job-1", "failed", "nan", "", None, "plane", run=directive["run"]))
    assert scene.state()[0] == "failed"


def test_a_withdrawn_offer_ends_its_leases_and_may_be_listed_again_with_other_terms() -> None:
    scene = Scene()
    scene.running()
    scene.do(ChangeOffer("offer-1", "drain", "p1"))
    directive = scene.exchange.directive("job-1")
    assert directive is not None
    assert [lease["draining"] for lease in directive["leases"]] == [True, False]
    cheaper = scene.make_offer("offer-1", "p1", 0.3, 1)
    assert scene.refused(cheaper).status == 409
    scene.do(ChangeOffer("offer-1", "withdraw", "p1"))
    assert scene.view()["leases"][0]["reason"] == "withdrew"
    scene.do(cheaper)
    assert scene.exchange.offers(scene.now_ms)[0]["price_nanos_per_gpu_hour"] == 3 * USD // 10


def test_a_provider_that_restarts_tells_newer_measurements() -> None:
    scene = Scene()
    scene.offer()
    newer = replace(scene.make_offer("offer-1", "p1", 0.5, 1), measured={"matmul_gflops": 70.0}, node="other")
    assert scene.say(newer).created is False
    assert scene.exchange.offers(scene.now_ms)[0]["measured"] == {"matmul_gflops": 70.0}
    assert scene.say(newer).events == ()
    assert scene.refused(replace(newer, by="p2")).status == 409


def test_a_revoked_provider_is_off_the_market_and_its_key_dead() -> None:
    scene = Scene()
    scene.running()
    scene.do(RevokeMember("p1", "op"))
    assert [offer["id"] for offer in scene.exchange.offers(scene.now_ms)] == ["offer-2"]
    known = scene.exchange.member_by_key(digest("p1"))
    assert known is not None
    assert known["revoked"]
    assert scene.refused(Heard("offer-1", "p1")).status == 401


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": True}, "steps"),
        ({"extra": 1}, "extra"),
        ({"name": "a/../b"}, "name"),
        ({"workers__max": 1}, "workers.max"),
        ({"workers__gpus": 0}, "workers.gpus"),
        ({"workers__vram_gib": float("nan")}, "spec"),
        ({"limits__budget_nanos": 1.5}, "limits.budget_nanos"),
        ({"limits__max_price_nanos_per_gpu_hour": 0}, "limits.max_price_nanos_per_gpu_hour"),
        ({"workload": {"kind": "file", "digest": "x", "class_name": "A", "filename": "a.py"}}, "workload.digest"),
        (
            {"workload": {"kind": "file", "digest": digest("x"), "class_name": "A", "filename": "../a"}},
            "workload.filename",
        ),
        ({"workload": 7}, "workload.kind"),
        ({"data": {"kind": "blob", "digest": digest("x"), "bytes": 0, "label": ""}}, "data.bytes"),
        ({"strategy__outer_momentum": 1}, "strategy.outer_momentum"),
        ({"tags": {"a": 1}}, "tags.a"),
        ({"options": {"x": "y" * 300_000}}, "spec"),
    ],
)
def test_a_spec_is_never_trusted(change: dict[str, Any], field: str) -> None:
    scene = Scene()
    scene.offer(gpus=2)
    answer = scene.say(SubmitJob("job-1", make_spec(**change), "ann")).answer
    assert isinstance(answer, Refusal)
    assert answer.field == field


def test_earnings_are_paid_out_once_and_never_beyond() -> None:
    scene = Scene()
    scene.running()
    trained(scene)
    scene.do(CancelJob("job-1", "ann"))
    earned = scene.balances()["earnings:p1"]
    paid = scene.say(Payout("pay-1", "p1", earned - 5, "op"))
    assert (paid.created, paid.answer["balance_nanos"]) == (True, 5)  # type: ignore[index]
    assert scene.say(Payout("pay-1", "p1", earned - 5, "op")).created is False
    over = scene.refused(Payout("pay-2", "p1", 6, "op"))
    assert (over.code, over.status) == ("insufficient_funds", 402)
    assert scene.refused(Payout("pay-1", "p1", 1, "op")).code == "conflict"
    assert scene.refused(Payout("d1", "p1", 1, "op")).code == "conflict", "an id of a deposit"
    assert scene.refused(Payout("pay-3", "ann", 1, "op")).code == "no_earnings"
    assert scene.refused(Payout("pay-3", "nobody", 1, "op")).status == 404
    assert scene.refused(Payout("pay-3", "p1", 1, "p1")).status == 403
    assert scene.refused(Payout("pay-3", "p1", 0, "op")).field == "amount_nanos"
    assert scene.exchange.transfers("p1")[0]["kind"] == "payout"
    assert scene.balances()["world"] == earned - 5 - 100 * USD
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_history_pages_from_the_newest() -> None:
    scene = Scene()
    scene.running()
    trained(scene)
    scene.do(CancelJob("job-1", "ann"))
    rows = scene.exchange.transfers("ann")
    assert [row["kind"] for row in rows] == ["release", "hold", "deposit"]
    assert [row["id"] for row in scene.exchange.transfers("ann", rows[0]["id"], 1)] == [rows[1]["id"]]
    assert rows[0]["balance_nanos"] == scene.exchange.balance("ann")["wallet_nanos"]
    assert scene.exchange.balance("p1")["balance_nanos"] == scene.balances()["earnings:p1"] > 0


def test_versions_change_when_a_poll_would_answer_something_new() -> None:
    scene = Scene()
    scene.running()

    def versions() -> tuple[int, int, int]:
        leases, directive = scene.exchange.leases_of("offer-1"), scene.exchange.directive("job-1")
        assert leases is not None
        assert directive is not None
        return leases["version"], directive["version"], scene.exchange.runs()["version"]

    before = versions()
    scene.wait(1_000)
    scene.read(s0=900, s1=900)
    scene.restart()
    assert versions() == before
    scene.lose(0, "worker_killed")
    assert versions()[:2] > before[:2]
    scene.do(CancelJob("job-1", "ann"))
    assert versions()[2] > before[2]


def test_the_table_of_faults_is_whole() -> None:
    lines = render_table().splitlines()
    assert len(lines) == 2 + len(CAUSES) == 2 + len(BY_REASON)
    for word in ("died", "does not answer", "cannot be reached", "raised", "not a number", "hangs",
                 "memory", "shape", "import", "RunActor died", "head node", "took the machine back", "drained", "cancelled",
                 "escrow ran out", "market down", "withdrew", "could not start"):  # fmt: skip
        assert any(word in line for line in lines), word


def test_a_rotated_keys_predecessor_opens_until_its_grace_is_over_also_after_a_replay() -> None:
    scene = Scene()

    def opens(exchange: Exchange, key: str) -> bool:
        found = exchange.member_by_key(digest(key))
        assert found is not None
        return not found["revoked"]

    scene.do(RotateKey("ann", digest("new"), 5_000, "op"))
    assert scene.say(RotateKey("ann", digest("new"), 5_000, "op")).created is False
    assert (opens(scene.exchange, "ann"), opens(scene.exchange, "new")) == (True, True)
    scene.now_ms += 5_000
    scene.do(Deposit("d9", "ann", USD, "op"))
    again = Exchange(scene.settings)
    for record in scene.records:
        body = json.loads(record)
        again.replay(body["at_ms"], body["events"])
    for exchange in (scene.exchange, again):
        assert (opens(exchange, "ann"), opens(exchange, "new")) == (False, True)
