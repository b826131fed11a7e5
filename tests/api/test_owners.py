"""What an owner says of its offer, and how much of that others hear."""

from __future__ import annotations

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
