"""What was spent last is given back first: bought money before granted credits, these in reverse order, to the nano-dollar."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.book_commands import CorrectTransfer
from market.commands import (
    CancelJob,
    DecideDispute,
    Deposit,
    GrantCredit,
    OpenDispute,
    Reading,
    ReportReadings,
    StartLease,
)
from market.invoice_page import invoice_page
from storage.billing import billing, invoice
from storage.bills import bill_of
from storage.journal import Journal
from storage.projection import Projection, projection_equal
from storage.records import encode_record
from storage.tenants import Tenant
from tests.market.scene import USD, Scene
from tests.market.test_credits import grant, money, trained
from tests.market.test_disputes import invoices_agree

HOUR = 3_600_000
PERCENT = USD // 100


def charged(*granted_usd: float, bought_usd: float = 10, expires_ms: int | None = None) -> tuple[Scene, str]:
    """A cancelled job of one lease of an hour, charged half a dollar, with such grants (`g0`, `g1`…) before bought money."""
    scene = Scene(funds_nanos=round(bought_usd * USD))
    for number, usd in enumerate(granted_usd):
        grant(scene, f"g{number}", usd, expires_ms and scene.now_ms + expires_ms)
        scene.now_ms += 1
    scene.offer("offer-1", "p1", 0.5)
    scene.submit(workers__min=1, workers__max=1, limits__budget_nanos=USD)
    scene.clear()
    scene.start_all()
    scene.wait(HOUR)
    scene.read(s0=HOUR)
    scene.halt("failed", "exception")
    return scene, scene.view()["leases"][0]["id"]


def left(scene: Scene) -> dict[str, int]:
    """What each grant has, in cents."""
    return {one["grant"]: one["left_nanos"] // PERCENT for one in scene.exchange.grants()}


def refund(scene: Scene, lease: str, cents: int, name: str = "x") -> dict[str, object]:
    scene.do(OpenDispute(name, "job-1", lease, cents * PERCENT, "slow", "", "ann"))
    return scene.do(DecideDispute(name, "upheld", None, "it was", "op"))


@pytest.mark.parametrize(
    ("grants", "cents", "bought_back", "granted_back"),
    [
        ((), 30, 30, []),
        ((0.4,), 5, 5, [0]),
        ((0.4,), 10, 10, [0]),
        ((0.4,), 30, 10, [20]),
        ((0.1, 0.2), 25, 20, [0, 5]),
        ((0.1, 0.2), 45, 20, [5, 20]),
        ((0.1, 5), 45, 0, [5, 40]),
        ((5,), 50, 0, [50]),
    ],
)
def test_a_refund_goes_back_the_way_it_came(grants: tuple[float, ...], cents: int, bought_back: int, granted_back: list[int]) -> None:
    scene, lease = charged(*grants)
    before, wallet = list(left(scene).values()), money(scene)[0]
    decided = refund(scene, lease, cents)
    assert [after - was for after, was in zip(left(scene).values(), before, strict=True)] == granted_back
    assert round((money(scene)[0] - wallet) * 100) == bought_back
    assert decided["granted_nanos"] == sum(granted_back) * PERCENT
    seen = [one["id"] for one in scene.exchange.transfers("p1")]
    assert not [id for id in seen if ":g" in id], "a provider does not see from what its customer had paid"
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_a_correction_goes_back_the_same_way_and_is_answered_alike_again(tmp_path: Path) -> None:
    scene, lease = charged(0.1, 0.2)
    (charge,) = [one for one in scene.of_type("transfer") if one["kind"] == "charge"]
    ask = CorrectTransfer("slip", charge["id"], 45 * PERCENT, "a wrong price", "op")
    told = scene.do(ask)
    assert (told["credit"], told["amount_nanos"], told["granted_nanos"]) == ("wallet:ann", 45 * PERCENT, 25 * PERCENT)
    made = [(one["id"], one["credit"]) for one in scene.of_type("transfer") if one["kind"] == "correction"]
    assert made == [("slip", "wallet:ann"), ("correction:slip:2", "credit:g1"), ("correction:slip:3", "credit:g0")]
    assert scene.do(ask) == told
    assert left(scene) == {"g0": 5, "g1": 20}
    bill = invoices_agree(scene, tmp_path / "journal")
    (note,) = bill["notes"]  # type: ignore[attr-defined]
    assert (note["number"], note["amount_nanos"], note["granted_nanos"], note["expired_nanos"]) == ("CN-slip", 45 * PERCENT, 25 * PERCENT, 0)
    assert (bill["due_nanos"], bill["due_granted_nanos"], bill["billed_granted_nanos"]) == (5 * PERCENT, 5 * PERCENT, 30 * PERCENT)
    assert scene.refused(OpenDispute("x", "job-1", lease, 6 * PERCENT, "r", "", "ann")).field == "amount_nanos"


@pytest.mark.parametrize("id", ["grant", "expire", "release", "job-1"])
@pytest.mark.parametrize("expires_ms", [HOUR // 2, 5 * HOUR])
def test_a_correction_may_have_any_name(id: str, expires_ms: int) -> None:
    scene, _ = charged(0.1, 0.2, 0.7, expires_ms=expires_ms)
    (charge,) = [one for one in scene.of_type("transfer") if one["kind"] == "charge"]
    told = scene.do(CorrectTransfer(id, charge["id"], 45 * PERCENT, "a wrong price", "op"))
    assert told["granted_nanos"] == 45 * PERCENT
    scene.wait(6 * HOUR)
    assert left(scene) == {"g0": 0, "g1": 0, "g2": 0}
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_what_goes_back_to_a_grant_that_is_over_ends_with_it_and_the_note_says_so(tmp_path: Path) -> None:
    scene, lease = charged(0.4, expires_ms=2 * HOUR)
    scene.wait(2 * HOUR)
    assert scene.of_type("credit_expired")
    bought = money(scene)[0]
    refund(scene, lease, 30)
    assert round((money(scene)[0] - bought) * 100) == 10
    assert money(scene)[1] == 0
    assert scene.balances()["credit:g0"] == 0
    assert scene.balances()["grants"] == -20 * PERCENT, "what was given and is neither spent nor over"
    bill = invoices_agree(scene, tmp_path / "journal")
    (note,) = bill["notes"]  # type: ignore[attr-defined]
    assert (note["granted_nanos"], note["expired_nanos"]) == (20 * PERCENT, 20 * PERCENT)
    assert "$0.20 to granted credits, $0.20 of them expired" in invoice_page(bill)


def test_what_was_kept_for_a_dispute_about_the_meter_goes_back_to_the_grant_it_came_from() -> None:
    scene = Scene()
    grant(scene, "g0", 0.4)
    scene.offer("offer-1", "p1", 0.5)
    scene.submit(workers__min=1, workers__max=1, limits__budget_nanos=USD)
    scene.clear()
    lease = scene.view()["leases"][0]
    scene.do(StartLease(lease["id"], lease["epoch"], "w", 1, "node", "p1"))
    scene.wait(HOUR)
    scene.do(ReportReadings("job-1", 7, (Reading(lease["id"], lease["epoch"], HOUR, HOUR, 0, 0, 0, HOUR // 2),), (), (), "plane"))
    scene.halt("failed", "exception")  # 25 cents are charged and 25 kept: 40 of these were granted
    assert (left(scene), scene.balances()["escrow:job-1"]) == ({"g0": 0}, 25 * PERCENT)
    bought = money(scene)[0]
    scene.do(DecideDispute(f"meter-{lease['id']}", "upheld", None, "the run is right", "op"))
    assert (left(scene), round((money(scene)[0] - bought) * 100)) == ({"g0": 15}, 10)
    assert scene.balances()["escrow:job-1"] == 0


def test_bills_say_what_went_back_to_credit_and_a_provider_does_not_hear_of_it(tmp_path: Path) -> None:
    scene, lease = charged(0.4)
    refund(scene, lease, 30)
    with Journal.open(tmp_path / "journal") as journal:
        journal.append(scene.records)
    with Projection.in_memory(tmp_path / "journal") as books:
        assert projection_equal(books)[0]
        with books.cursor() as cursor:
            for by in (("job",), ("provider", "day"), ()):
                lines = billing(cursor, Tenant("ann", "customer"), by=by)
                assert isinstance(lines, list)
                names = ("charged_nanos", "granted_nanos", "credited_nanos", "credited_granted_nanos", "debited_nanos")
                assert [sum(line[name] for line in lines) // PERCENT for name in names] == [50, 40, 30, 20, 0]
            theirs = billing(cursor, Tenant("p1", "provider"), by=("job",))
            assert isinstance(theirs, list)
            assert [(one["credited_nanos"] // PERCENT, one["credited_granted_nanos"]) for one in theirs] == [(30, 0)]
            seen = invoice(cursor, Tenant("p1", "provider"), "job-1")
    assert isinstance(seen, dict)
    assert not [name for note in seen["notes"] for name in note if name in ("granted_nanos", "expired_nanos")]
    assert "due_granted_nanos" not in seen


def test_a_journal_of_before_keeps_its_balances_and_goes_on_by_the_new_rule() -> None:
    """What was refunded as money then stays so; of what is still spent the granted part can only go back to the grant."""
    scene, lease = charged(5)
    before = scene.balances()
    moved = [
        {"type": "transfer", "id": f"refund:old:{name}", "kind": "refund", "debit": account, "credit": "wallet:ann",
         "amount_nanos": nanos, "job": "job-1", "lease": lease}
        for name, account, nanos in (("earnings", "earnings:p1", 19 * PERCENT), ("fee", "fee", PERCENT))
    ]  # fmt: skip
    opened = OpenDispute("old", "job-1", lease, 20 * PERCENT, "slow", "", "ann")
    scene.do(opened)
    closed = {"type": "dispute_closed", "dispute": "old", "job": "job-1", "state": "upheld", "amount_nanos": 20 * PERCENT, "reason": "so", "by": "op"}
    scene.records.append(encode_record(scene.now_ms, [closed, *moved]))
    scene.restart()
    assert scene.balances()["wallet:ann"] == before.get("wallet:ann", 0) + 20 * PERCENT
    wallet, credit = money(scene)[:2]
    refund(scene, lease, 30, "new")
    assert round((money(scene)[0] - wallet) * 100) == 0
    assert round((money(scene)[1] - credit) * 100) == 30


@given(st.data())
def test_nothing_granted_becomes_money_in_any_order_of_disputes(data: st.DataObject) -> None:
    """Rounds of training, refunds, corrections, more credit: at the end each source has what was not spent of it."""
    scene = Scene(funds_nanos=0)
    granted, bought = data.draw(st.integers(0, 2 * USD)), data.draw(st.integers(0, 2 * USD))
    if granted:
        scene.do(GrantCredit("g0", "ann", None, granted, None, "r", "op"))
    if bought:
        scene.do(Deposit("d", "ann", bought, "op"))
    if granted + bought < USD // 2:
        return
    scene.running(limits__budget_nanos=granted + bought)
    if scene.state()[0] == "running":
        trained(scene, data.draw(st.integers(1, 2 * HOUR)))
    leases = [one["id"] for one in scene.view()["leases"]]
    closed = data.draw(st.booleans())
    if closed:
        scene.do(CancelJob("job-1", "ann"))
    credited = 0
    for number in range(data.draw(st.integers(0, 4))):
        lease = data.draw(st.sampled_from(leases)) if leases else ""
        nanos = data.draw(st.integers(1, USD))
        if data.draw(st.booleans()):
            answer = scene.say(OpenDispute(f"x{number}", "job-1", lease, nanos, "r", "", "ann")).answer
            if isinstance(answer, dict):
                scene.do(DecideDispute(f"x{number}", "upheld", None, "r", "op"))
                credited += nanos
        else:
            booked = [one for one in scene.of_type("transfer") if one["kind"] in ("charge", "fee")]
            if booked:
                answer = scene.say(CorrectTransfer(f"c{number}", data.draw(st.sampled_from(booked))["id"], nanos, "r", "op")).answer
                credited += nanos if isinstance(answer, dict) else 0
    if not closed:
        scene.do(CancelJob("job-1", "ann"))
    due = scene.view()["billed_nanos"] - credited
    after = scene.exchange.balance("ann")
    spent_granted = granted - after["granted_nanos"]
    assert spent_granted + bought - after["bought_nanos"] == due
    assert after["bought_nanos"] <= bought, "nothing granted becomes money"
    if closed:
        assert spent_granted == min(due, granted), "granted credit is spent first, so it is given back last"
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()
    events = [(0, one) for one in scene.events if one.get("job") == "job-1" or one.get("lease") in leases]
    assert bill_of(events)["due_granted_nanos"] == spent_granted
