"""Objections: money in question is held, decided once with a reason, corrected by transfers, and shown on the invoice."""

from pathlib import Path

import pytest

from market.book_commands import CorrectTransfer
from market.commands import (
    AddMember,
    CancelJob,
    DecideDispute,
    OpenDispute,
    Payout,
    Reading,
    ReportReadings,
    StartLease,
    Tick,
)
from market.outcomes import Settings
from storage.billing import invoice
from storage.bills import bill_of
from storage.journal import Journal
from storage.projection import Projection
from storage.tenants import Tenant
from tests.market.scene import USD, Scene, digest

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def charged() -> tuple[Scene, str]:
    """A cancelled job of one lease of an hour, charged half a dollar; the lease."""
    scene = Scene()
    scene.offer("offer-1", "p1", 0.5)
    scene.submit(workers__min=1, workers__max=1)
    scene.clear()
    scene.start_all()
    scene.wait(HOUR_MS)
    scene.read(s0=HOUR_MS)
    scene.halt("failed", "exception")
    return scene, scene.view()["leases"][0]["id"]


def questioned() -> tuple[Scene, str]:
    """The same, but the run saw half of the hour that the worker says."""
    scene = Scene()
    scene.offer("offer-1", "p1", 0.5)
    scene.submit(workers__min=1, workers__max=1)
    scene.clear()
    lease = scene.view()["leases"][0]
    scene.do(StartLease(lease["id"], lease["epoch"], "w", 1, "node", "p1"))
    scene.wait(HOUR_MS)
    reading = Reading(lease["id"], lease["epoch"], HOUR_MS, HOUR_MS, 0, 0, 0, HOUR_MS // 2)
    scene.do(ReportReadings("job-1", 7, (reading,), (), (), "plane"))
    scene.halt("failed", "exception")
    return scene, f"meter-{lease['id']}"


def invoices_agree(scene: Scene, folder: Path) -> dict[str, object]:
    """The invoice of the books, which is the one that is made of the events alone."""
    with Journal.open(folder) as journal:
        for record in scene.records:
            journal.append([record])
    books = Projection.in_memory(folder)
    with books.cursor() as cursor:
        found = invoice(cursor, Tenant("ann", "customer"), "job-1")
    books.close()
    assert isinstance(found, dict)
    found.pop("estimate")
    own = [(at_ms, event) for at_ms, event in _timed(scene) if event.get("job") == "job-1" or event.get("lease")]
    mine = [(at_ms, event) for at_ms, event in own if event["type"] != "round_committed"]
    assert bill_of(mine) == found
    return found


def _timed(scene: Scene) -> list[tuple[int, dict[str, object]]]:
    from storage.canonical import parse_json

    bodies = [parse_json(record) for record in scene.records]
    return [(body["at_ms"], event) for body in bodies for event in body["events"]]


def test_an_objection_holds_the_earnings_and_upheld_gives_back_charge_and_fee(tmp_path: Path) -> None:
    scene, lease = charged()
    before = scene.balances()
    opened = scene.do(OpenDispute("x", "job-1", lease, None, "it did nothing", "my log", "ann"))
    assert (opened["state"], opened["amount_nanos"], opened["held_nanos"]) == ("open", USD // 2, USD // 2 * 95 // 100)
    assert opened["evidence"]["charged_nanos"] == USD // 2
    assert scene.say(OpenDispute("x", "job-1", lease, None, "it did nothing", "my log", "ann")).events == ()
    refusal = scene.refused(Payout("pay", "p1", 1, "op"))
    assert refusal.code == "insufficient_funds"
    assert "open disputes hold" in refusal.message
    scene.restart()
    decided = scene.do(DecideDispute("x", "upheld", None, "the log shows it", "op"))
    assert (decided["state"], decided["decided_nanos"]) == ("upheld", USD // 2)
    after = scene.balances()
    assert after["wallet:ann"] - before["wallet:ann"] == USD // 2
    assert (after["earnings:p1"], after["fee"]) == (0, 0)
    assert scene.say(DecideDispute("x", "upheld", None, "the log shows it", "op")).events == ()
    assert scene.refused(DecideDispute("x", "rejected", None, "no", "op")).code == "dispute_closed"
    assert scene.refused(OpenDispute("y", "job-1", lease, None, "again", "", "ann")).code == "nothing_to_dispute"
    bill = invoices_agree(scene, tmp_path / "journal")
    assert (bill["status"], bill["number"]) == ("final", "INV-job-1")
    assert (bill["billed_nanos"], bill["credited_nanos"], bill["due_nanos"]) == (USD // 2, USD // 2, 0)
    assert [note["number"] for note in bill["notes"]] == ["CN-x"]  # type: ignore[attr-defined]


def test_rejected_and_expired_free_the_earnings_and_move_nothing() -> None:
    for ending in ("rejected", "expired"):
        scene, lease = charged()
        before = scene.balances()
        scene.do(OpenDispute("x", "job-1", lease, USD // 10, "slow", "", "ann"))
        if ending == "rejected":
            scene.do(DecideDispute("x", "rejected", None, "it was as fast as it said", "op"))
        else:
            scene.now_ms += 31 * DAY_MS
            scene.do(Tick())
        (closed,) = scene.of_type("dispute_closed")
        assert closed["state"] == ending
        assert scene.balances() == before
        scene.do(Payout("pay", "p1", before["earnings:p1"], "op"))


def test_a_part_may_be_upheld_and_the_rest_objected_to_again() -> None:
    scene, lease = charged()
    scene.do(OpenDispute("x", "job-1", lease, USD // 10, "a", "", "ann"))
    scene.do(DecideDispute("x", "upheld", USD // 20, "half of it", "op"))
    assert scene.do(OpenDispute("y", "job-1", lease, None, "b", "", "ann"))["amount_nanos"] == USD // 2 - USD // 20


def test_a_correction_is_a_credit_note_and_nothing_is_given_back_twice(tmp_path: Path) -> None:
    scene, lease = charged()
    (charge,) = [one for one in scene.of_type("transfer") if one["kind"] == "charge"]
    scene.do(CorrectTransfer("slip", charge["id"], USD // 10, "a wrong price", "op"))
    assert scene.do(OpenDispute("x", "job-1", lease, None, "r", "", "ann"))["amount_nanos"] == USD // 2 - USD // 10
    assert scene.refused(CorrectTransfer("again", charge["id"], 1, "more", "op")).code == "corrected_already"
    scene.do(DecideDispute("x", "rejected", None, "the rest was right", "op"))
    bill = invoices_agree(scene, tmp_path / "journal")
    assert [note["number"] for note in bill["notes"]] == ["CN-slip"]  # type: ignore[attr-defined]
    assert (bill["credited_nanos"], bill["due_nanos"]) == (USD // 10, USD // 2 - USD // 10)


@pytest.mark.parametrize("verdict", ["upheld", "rejected", "expired"])
def test_time_in_question_stays_in_the_escrow_until_it_is_decided(verdict: str, tmp_path: Path) -> None:
    scene, name = questioned()
    (opened,) = scene.of_type("dispute_opened")
    assert (opened["dispute"], opened["by"], opened["amount_nanos"]) == (name, "market", USD // 4)
    before = scene.balances()
    assert before["escrow:job-1"] == USD // 4, "the rest of the escrow went back"
    scene.restart()
    if verdict == "expired":
        scene.now_ms += 31 * DAY_MS
        scene.do(Tick())
    else:
        scene.do(DecideDispute(name, verdict, None, "looked at both clocks", "op"))
    after = scene.balances()
    assert after["escrow:job-1"] == 0
    paid = verdict == "rejected"
    assert after["wallet:ann"] - before["wallet:ann"] == (0 if paid else USD // 4)
    assert after["earnings:p1"] + after["fee"] - before["earnings:p1"] - before["fee"] == (USD // 4 if paid else 0)
    bill = invoices_agree(scene, tmp_path / "journal")
    assert bill["due_nanos"] == USD // 4 + (USD // 4 if paid else 0)
    assert [note["number"] for note in bill["notes"]] == ([f"DN-{name}"] if paid else [])  # type: ignore[attr-defined]
    if verdict != "expired":
        again = scene.do(OpenDispute("x", "job-1", opened["lease"], None, "all of it", "", "ann"))
        assert again["amount_nanos"] == USD // 4


def test_another_worker_is_not_paid_out_of_what_the_escrow_keeps_for_a_question() -> None:
    scene = Scene()
    scene.running(workers__min=1, workers__max=2, limits__budget_nanos=USD)
    first, second = scene.view()["leases"]
    scene.wait(2 * HOUR_MS)
    asked = Reading(first["id"], first["epoch"], HOUR_MS, HOUR_MS, 0, 0, 0, HOUR_MS // 2)
    agreed = Reading(second["id"], second["epoch"], 2 * HOUR_MS, 2 * HOUR_MS, 0, 0, 0, 2 * HOUR_MS)
    scene.do(ReportReadings("job-1", 7, (asked, agreed), (), (), "plane"))
    scene.do(CancelJob("job-1", "ann"))
    (opened,) = scene.of_type("dispute_opened")
    assert opened["held_nanos"] == USD // 4
    assert scene.balances()["escrow:job-1"] == USD // 4, "all else was spent on the agreed time of both"
    scene.do(DecideDispute(f"meter-{first['id']}", "rejected", None, "looked at both clocks", "op"))
    assert scene.balances()["escrow:job-1"] == 0
    assert scene.view()["billed_nanos"] + USD // 4 == USD


def test_who_may_not_and_when_it_is_too_late() -> None:
    scene, lease = charged()
    assert scene.refused(OpenDispute("x", "job-1", lease, None, "r", "", "bob")).code == "unknown_job"
    assert scene.refused(OpenDispute("x", "job-1", lease, None, "r", "", "op")).code == "forbidden"
    assert scene.refused(OpenDispute("x", "job-1", "lease-9", None, "r", "", "ann")).code == "unknown_lease"
    assert scene.refused(OpenDispute("x", "job-1", lease, USD, "r", "", "ann")).field == "amount_nanos"
    assert scene.refused(OpenDispute("x", "job-1", lease, None, "", "", "ann")).field == "reason"
    assert scene.refused(DecideDispute("x", "upheld", None, "r", "op")).code == "unknown_dispute"
    scene.do(OpenDispute("x", "job-1", lease, USD // 10, "r", "", "ann"))
    assert scene.refused(OpenDispute("x", "job-1", lease, USD // 5, "r", "", "ann")).code == "conflict"
    assert scene.refused(DecideDispute("x", "upheld", None, "r", "ann")).code == "forbidden"
    assert scene.refused(DecideDispute("x", "maybe", None, "r", "op")).field == "verdict"
    assert scene.refused(DecideDispute("x", "upheld", USD, "r", "op")).field == "amount_nanos"
    scene.now_ms += Settings().dispute_window_ms + 1
    assert scene.refused(OpenDispute("y", "job-1", lease, None, "r", "", "ann")).code == "dispute_too_late"


def test_earnings_that_are_paid_out_already_cannot_be_held_nor_given_back() -> None:
    scene, lease = charged()
    scene.do(Payout("pay", "p1", scene.balances()["earnings:p1"], "op"))
    assert scene.do(OpenDispute("x", "job-1", lease, None, "r", "", "ann"))["held_nanos"] == 0
    assert scene.refused(DecideDispute("x", "upheld", None, "r", "op")).code == "earnings_short"
    scene.do(DecideDispute("x", "rejected", None, "nothing left to give back", "op"))


def test_an_operator_does_not_decide_about_a_job_of_its_own() -> None:
    scene = Scene()
    scene.do(AddMember("op2", "operator", digest("op2"), "op"))
    from market.commands import Deposit

    scene.do(Deposit("d2", "op2", 10 * USD, "op"))
    scene.offer("offer-1", "p1", 0.5)
    scene.submit("job-1", "op2", workers__min=1, workers__max=1)
    scene.clear()
    scene.start_all()
    scene.wait(HOUR_MS)
    scene.read(s0=HOUR_MS)
    scene.halt("failed", "exception")
    scene.do(OpenDispute("x", "job-1", scene.view()["leases"][0]["id"], None, "r", "", "op2"))
    assert scene.refused(DecideDispute("x", "upheld", None, "r", "op2")).code == "forbidden"
    scene.do(DecideDispute("x", "upheld", None, "r", "op"))
