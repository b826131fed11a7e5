"""What an owner says of its offer, and how much of that others hear."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from market.client import Market
from storage.provenance import verify_bundle
from tests.api.square import USD, FakeProvider, FakeRun, Json, Square, make_offer, make_spec, refusal


def seen_by(who: Market, offer: str) -> Json:
    return next(one for one in who.offers() if one["id"] == offer)


def test_others_hear_whether_an_offer_is_for_them_and_not_for_whom_it_is_nor_what_its_owner_does(square: Square) -> None:
    owner, region, offer = square.newcomer("provider")[1], square.name("region"), square.name("offer")
    friend_name, friend = square.newcomer("customer")
    stranger = square.newcomer("customer")[1]
    prices = [{"hours": "00:00-24:00", "price_nanos_per_gpu_hour": 7}]
    owner.place_offer(
        make_offer(offer, region, allow=[friend_name], deny=["dora"], max_units_per_customer=1, prices=prices, zone="UTC")
    )
    owner.hold_offer(offer, 1, reason="idle", why="user process 7 game on GPU 0")
    mine, theirs = seen_by(owner, offer), seen_by(stranger, offer)
    assert (mine["allow"], mine["deny"], mine["held"]["why"]) == ([friend_name], ["dora"], "user process 7 game on GPU 0")
    assert (theirs["allow"], theirs["deny"], theirs["held"]["why"], theirs["held"]["gpus"]) == ([], [], "", 1)
    assert [seen_by(one, offer)["for_you"] for one in (friend, stranger)] == [True, False]
    assert [seen_by(one, offer)["yours"] for one in (friend, stranger)] == [False, False]
    assert theirs["price_nanos_per_gpu_hour"] == 7
    plan = stranger.quote(make_spec(region, workers__min=1, workers__max=1))
    assert (plan["feasible"], plan["reason"]) == (False, "not_for_you")
    assert friend_name not in str(plan)
    assert friend_name not in str(theirs)
    assert seen_by(square.local("operator"), offer)["deny"] == ["dora"]
    wrong = refusal(lambda: owner.place_offer(make_offer(square.name("offer"), region, prices=prices, zone="Mars/Base")))
    assert (wrong.status, wrong.field) == (422, "zone")


def test_an_owner_bounds_leases_and_says_when_the_machine_is_not_for_rent(square: Square) -> None:
    owner, region, offer = square.newcomer("provider")[1], square.name("region"), square.name("offer")
    stranger = square.newcomer("customer")[1]
    now = f"{datetime.now(UTC) - timedelta(minutes=1):%Y-%m-%dT%H:%M}/2h"
    owner.place_offer(make_offer(offer, region, min_lease_ms=1_000, max_lease_ms=36_000_000, maintenance=[now]))
    found = seen_by(stranger, offer)
    assert (found["min_lease_ms"], found["max_lease_ms"], found["maintenance"], found["state"]) == (1_000, 36_000_000, [now], "maintenance")
    assert stranger.quote(make_spec(region, workers__min=1, workers__max=1))["reason"] == "maintenance"
    answer = owner.set_lease_times(offer, max_lease_ms=None, maintenance=["2099-12-24T18:00/4h Europe/Berlin"])
    assert (answer["min_lease_ms"], answer["max_lease_ms"]) == (1_000, None)
    next_ms = answer["maintenance_next"]
    assert next_ms["end_ms"] - next_ms["begin_ms"] == 4 * 3_600_000
    assert seen_by(stranger, offer)["maintenance_next"] == next_ms
    assert refusal(lambda: owner.set_lease_times(offer, maintenance=["sunday"])).field == "maintenance"
    assert refusal(lambda: stranger.set_lease_times(offer, min_lease_ms=None)).status == 403
    assert refusal(lambda: square.newcomer("provider")[1].set_lease_times(offer, min_lease_ms=None)).code == "unknown_offer"


def test_an_owners_own_job_is_metered_and_has_lines_of_nothing(square: Square) -> None:
    region, job = square.name("region"), square.name("job")
    name, ann = square.newcomer("customer", 20 * USD)
    plane, operator = square.local("plane"), square.local("operator")
    machine = FakeProvider(square.newcomer("provider")[1], make_offer(square.name("offer"), region, own=[name], gpus=2))
    try:
        ann.submit_job(job, make_spec(region))
        run = FakeRun(plane, job)
        workers = run.workers(2)
        for _ in range(3):
            run.read(workers)
            run.report(workers)
            run.checkpoint()
        plane.report_halted(job, state="done", reason="done", round=3, manifest=run.manifest)
        done = ann.job(job)
    finally:
        machine.close()
    assert (done["state"], done["billed_nanos"], ann.balance()["wallet_nanos"]) == ("done", 0, 20 * USD)
    assert {one["price_nanos_per_gpu_hour"] for one in done["leases"]} == {0}
    lines = ann.invoice(job)["lines"]
    assert [(line["kind"], line["unit_price_nanos_per_gpu_hour"], line["amount_nanos"]) for line in lines] == [
        ("usage", 0, 0)
    ] * 2
    assert all(line["charged_ms"] == line["metered_ms"] > 0 for line in lines)
    assert sum(line["gpu_ms"] for line in ann.billing(job=job)) > 0
    bundle = ann.provenance(job)
    assert verify_bundle(bundle, public_key=operator.status()["public_key"]).ok
    books = operator.verify_books()
    assert (books["ok"], books["balanced"], books["projection_ok"]) == (True, True, True)


def test_an_owner_without_money_runs_on_its_own_machine_and_has_an_invoice_of_nothing(square: Square) -> None:
    region, job, provider_name = square.name("region"), square.name("job"), ""
    name, ann = square.newcomer("customer")
    plane, operator = square.local("plane"), square.local("operator")
    provider_name, provider = square.newcomer("provider")
    offer = make_offer(square.name("offer"), region, own=[name], gpus=2, max_unit_ms_per_customer_day=1)
    machine = FakeProvider(provider, offer)
    spec = make_spec(region, limits__max_price_nanos_per_gpu_hour=0, limits__budget_nanos=0)
    spec["workers"]["own"] = [provider_name]
    try:
        assert seen_by(ann, offer["id"])["yours"]
        assert ann.quote(spec)["refusal"] is None
        ann.submit_job(job, spec)
        run = FakeRun(plane, job)
        workers = run.workers(2)
        run.read(workers)
        run.report(workers)
        run.checkpoint()
        plane.report_halted(job, state="done", reason="done", round=1, manifest=run.manifest)
        done = ann.job(job)
    finally:
        machine.close()
    assert (done["state"], done["billed_nanos"], done["escrow_nanos"], ann.balance()["wallet_nanos"]) == ("done", 0, 0, 0)
    invoice = ann.invoice(job)
    assert [(line["kind"], line["amount_nanos"]) for line in invoice["lines"]] == [("usage", 0)] * 2
    assert ann.transfers() == []
    bundle = ann.provenance(job)
    assert verify_bundle(bundle, public_key=operator.status()["public_key"]).ok
    books = operator.verify_books()
    assert (books["ok"], books["balanced"], books["projection_ok"]) == (True, True, True)
