"""`torg statement`: a provider's movements of a time, from the market's own transfers."""

import pytest

from cli.verbs.statement import make_statement
from market.commands import CorrectTransfer, DecideDispute, OpenDispute, Payout
from market.views import transfers_view
from tests.market.scene import USD
from tests.market.test_disputes import charged


def entries(scene) -> list[dict[str, object]]:  # type: ignore[no-untyped-def]
    return transfers_view(scene.exchange._state, "p1", None, 1_000)


def test_a_statement_adds_up_and_may_begin_and_end_anywhere() -> None:
    scene, lease = charged()
    first_ms = scene.now_ms
    scene.now_ms += 1_000
    scene.do(OpenDispute("x", "job-1", lease, USD // 10, "r", "", "ann"))
    scene.do(DecideDispute("x", "upheld", None, "r", "op"))
    scene.now_ms += 1_000
    left = scene.balances()["earnings:p1"]
    scene.do(Payout("pay", "p1", left - 7, "op"))
    whole = make_statement(entries(scene), None, None)
    assert [(line["kind"], line["job"] or line["id"]) for line in whole["lines"]] == [
        ("earned", "job-1"), ("given back", "job-1"), ("paid out", "pay"),
    ]  # fmt: skip
    assert (whole["opening_nanos"], whole["closing_nanos"]) == (0, 7)
    assert whole["earned_nanos"] + whole["given_back_nanos"] + whole["paid_out_nanos"] == 7
    assert whole["given_back_nanos"] == -(USD // 10 - USD // 10 * 5 // 100)
    parts = [make_statement(entries(scene), start, end) for start, end in ((None, first_ms + 1), (first_ms + 1, None))]
    assert parts[0]["closing_nanos"] == parts[1]["opening_nanos"] == whole["earned_nanos"]
    assert parts[1]["closing_nanos"] == 7
    nothing = make_statement(entries(scene), scene.now_ms + 1, None)
    assert (nothing["lines"], nothing["opening_nanos"], nothing["closing_nanos"]) == ([], 7, 7)
    assert make_statement([], None, None)["closing_nanos"] == 0


def test_corrections_of_payouts_and_of_charges_are_in_it() -> None:
    scene, _ = charged()
    charge = next(one for one in entries(scene) if one["kind"] == "charge")
    scene.do(Payout("pay", "p1", 1_000, "op"))
    scene.do(CorrectTransfer("back", "pay", 400, "sent twice", "op"))
    scene.do(CorrectTransfer("less", str(charge["id"]), 500, "agreed", "op"))
    found = make_statement(entries(scene), None, None)
    assert found["corrected_nanos"] == 400 - 500
    assert [(line["kind"], line["amount_nanos"]) for line in found["lines"]][-2:] == [("corrected", 400), ("corrected", -500)]
    assert found["closing_nanos"] == scene.balances()["earnings:p1"]


def test_a_gap_in_the_transfers_is_no_statement() -> None:
    scene, _ = charged()
    scene.do(Payout("pay", "p1", 1, "op"))
    scene.do(Payout("pay-2", "p1", 2, "op"))
    found = entries(scene)
    with pytest.raises(AssertionError, match="gap"):
        make_statement([found[0], found[2]], None, None)
