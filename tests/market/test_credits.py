"""Granted credits beside bought money: spent first, given back to where they came from, gone when their time is over."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from market.commands import AddBudget, CancelJob, Deposit, GrantCredit, MoveMember, Payout, RemoveTeam, SetTeam
from storage.billing import billing, invoice
from storage.journal import Journal
from storage.ledger import KINDS
from storage.projection import Projection, projection_equal
from storage.provenance import make_bundle, verify_bundle
from storage.tenants import Tenant
from tests.market.scene import USD, Scene

HOUR = 3_600_000


def grant(scene: Scene, id: str, usd: float, expires_ms: int | None = None, **holder: str) -> dict[str, object]:
    who = {"member": None, "team": None, **(holder or {"member": "ann"})}
    return scene.do(GrantCredit(id, who["member"], who["team"], round(usd * USD), expires_ms, "first steps", "op"))


def money(scene: Scene, member: str = "ann") -> tuple[float, float, float]:
    """Bought, granted, of the team, in dollars."""
    found = scene.exchange.balance(member)
    assert found["wallet_nanos"] == found["bought_nanos"] + found["granted_nanos"]
    return tuple(found[f"{name}_nanos"] / USD for name in ("bought", "granted", "team_granted"))  # type: ignore[return-value]


def trained(scene: Scene, ms: int) -> None:
    """Both workers of job-1 have trained so long, durably."""
    scene.wait(ms)
    scene.round(1, {0: ms, 1: ms})
    scene.checkpoint(1)


def test_credit_is_spent_first_soonest_to_expire_first_and_goes_back_where_it_came_from() -> None:
    scene = Scene(funds_nanos=10 * USD)
    grant(scene, "late", 1, scene.now_ms + 1_000 * HOUR)
    grant(scene, "soon", 1, scene.now_ms + 900 * HOUR)
    grant(scene, "ever", 1)
    scene.running(limits__budget_nanos=5 * USD)  # 0.5 and 0.6 dollars an hour
    assert money(scene) == (8, 0, 0)
    held = [(one["debit"], one["amount_nanos"] // USD) for one in scene.of_type("transfer") if one["kind"] == "hold"]
    assert held == [("credit:soon", 1), ("credit:late", 1), ("credit:ever", 1), ("wallet:ann", 2)]
    trained(scene, HOUR)
    view = scene.view()
    assert (view["billed_nanos"], view["granted_nanos"]) == (1_100_000_000, 3 * USD)
    assert view["billed_granted_nanos"] == 1_100_000_000
    scene.do(CancelJob("job-1", "ann"))
    left = {one["grant"]: one["left_nanos"] for one in scene.exchange.grants()}
    assert left == {"soon": 0, "late": 900_000_000, "ever": USD}
    assert money(scene) == (10, 1.9, 0)
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_credit_ends_by_the_markets_clock_also_what_was_in_an_escrow_then() -> None:
    scene = Scene(funds_nanos=10 * USD)
    grant(scene, "g", 7, scene.now_ms + HOUR)
    scene.submit(limits__budget_nanos=5 * USD)
    scene.now_ms += HOUR
    assert money(scene)[1] == 2, "nothing has happened yet"
    scene.submit("job-2", limits__budget_nanos=USD)
    assert money(scene)[0] == 9, "what has expired is not held, also before the tick that says so"
    scene.wait(1)
    assert [one["amount_nanos"] for one in scene.of_type("credit_expired")] == [2 * USD]
    assert money(scene) == (9, 0, 0)
    assert scene.balances()["grants"] == -5 * USD
    scene.do(CancelJob("job-1", "ann"))
    assert scene.balances()["grants"] == 0
    assert money(scene) == (9, 0, 0)
    scene.wait(HOUR)
    assert len(scene.of_type("credit_expired")) == 1


def test_a_team_shares_its_credit_and_loses_it_with_its_end() -> None:
    scene = Scene(funds_nanos=0)
    scene.do(SetTeam("bio", "op"))
    for member in ("ann", "bob"):
        scene.do(MoveMember(member, "bio", "op"))
    grant(scene, "g", 6, team="bio")
    grant(scene, "own", 1)
    assert (money(scene), money(scene, "bob")) == ((0, 1, 6), (0, 0, 6))
    scene.submit(limits__budget_nanos=3 * USD)
    assert (money(scene), money(scene, "bob")) == ((0, 1, 3), (0, 0, 3))
    scene.do(MoveMember("ann", "", "op"))
    assert money(scene) == (0, 1, 0)
    scene.do(CancelJob("job-1", "ann"))
    scene.do(MoveMember("bob", "", "op"))
    scene.do(RemoveTeam("bio", "op"))
    assert scene.balances()["grants"] == -USD


def test_more_budget_is_taken_from_credit_too_and_may_be_asked_for_again() -> None:
    scene = Scene(funds_nanos=5 * USD)
    scene.submit(limits__budget_nanos=USD)
    grant(scene, "g", 2)
    for _ in range(2):
        scene.do(AddBudget("b", "job-1", 3 * USD, "ann"))
    assert money(scene) == (3, 0, 0)
    assert scene.refused(AddBudget("b", "job-1", USD, "ann")).code == "conflict"
    assert scene.refused(AddBudget("c", "job-1", 4 * USD, "ann")).code == "insufficient_funds"


def test_what_is_granted_is_the_operators_to_give_and_nobodys_to_take_out() -> None:
    scene = Scene()
    ask = GrantCredit("g", "ann", None, USD, None, "a reason", "op")
    scene.do(ask)
    assert not scene.say(ask).created
    assert scene.refused(GrantCredit("g", "ann", None, 2 * USD, None, "a reason", "op")).code == "conflict"
    assert scene.refused(GrantCredit("h", "ann", None, USD, None, "a reason", "ann")).status == 403
    assert scene.refused(GrantCredit("h", "p1", None, USD, None, "a reason", "op")).code == "no_wallet"
    assert scene.refused(GrantCredit("h", "eve", None, USD, None, "a reason", "op")).code == "unknown_member"
    assert scene.refused(GrantCredit("h", None, "bio", USD, None, "a reason", "op")).code == "unknown_team"
    assert scene.refused(GrantCredit("h", None, None, USD, None, "a reason", "op")).field == "member"
    assert scene.refused(GrantCredit("h", "ann", None, USD, None, "", "op")).field == "reason"
    assert scene.refused(GrantCredit("h", "ann", None, 0, None, "a reason", "op")).field == "amount_nanos"
    assert scene.refused(GrantCredit("h", "ann", None, USD, scene.now_ms, "a reason", "op")).field == "expires_ms"
    assert scene.refused(Payout("p", "ann", 1, "op")).code == "no_earnings"
    assert [kind for kind, (debits, _) in KINDS.items() if "credit" in debits] == ["expire", "hold"]


def test_bills_show_it_apart_and_the_proof_holds(tmp_path: Path) -> None:
    scene = Scene(funds_nanos=10 * USD)
    grant(scene, "g", 1)
    scene.running(limits__budget_nanos=5 * USD)
    trained(scene, HOUR)
    scene.halt("failed", "customer_code")
    with Journal.open(tmp_path / "journal") as journal:
        journal.append(scene.records)
    with Projection.in_memory(tmp_path / "journal") as books:
        assert projection_equal(books)[0]
        with books.cursor() as cursor:
            for by in (("job",), ("provider",), ("day", "gpu"), ()):
                lines = billing(cursor, Tenant("ann", "customer"), by=by)
                assert isinstance(lines, list)
                assert sum(line["granted_nanos"] for line in lines) == USD
                assert sum(line["charged_nanos"] for line in lines) == 1_100_000_000
            theirs = billing(cursor, Tenant("p1", "provider"), by=("job",))
            assert isinstance(theirs, list)
            assert [line["granted_nanos"] for line in theirs] == [0]
            bill = invoice(cursor, Tenant("ann", "customer"), "job-1")
    assert isinstance(bill, dict)
    assert (bill["billed_nanos"], bill["billed_granted_nanos"], bill["escrow_nanos"]) == (1_100_000_000, USD, 0)
    shown = [(one["kind"], one["granted"], one["amount_nanos"]) for one in bill["payments"]]
    assert shown == [("hold", True, USD), ("hold", False, 4 * USD), ("release", False, 3_900_000_000)]
    parts = scene.exchange.bundle("job-1")
    assert parts is not None
    bundle = make_bundle(
        parts["job"], parts["spec"], parts["statements"], parts["transfers"], journal=(1, "0" * 64), signing_key=None
    )
    verified = verify_bundle(bundle)
    assert verified.ok, [check for check in verified.checks if not check.ok]


@given(st.data())
def test_to_the_nano_dollar(data: st.DataObject) -> None:
    """Whatever is granted, bought, held and billed: nothing is lost, and each kind gets back what was not spent of it."""
    scene = Scene(funds_nanos=0)
    granted = data.draw(st.lists(st.integers(1, 3 * USD), max_size=4))
    bought = data.draw(st.integers(0, 3 * USD))
    for number, nanos in enumerate(granted):
        scene.do(GrantCredit(f"g{number}", "ann", None, nanos, None, "r", "op"))
    if bought:
        scene.do(Deposit("d", "ann", bought, "op"))
    have = sum(granted) + bought
    if have < 50_000_000:
        return
    budget = data.draw(st.integers(50_000_000, have))
    scene.running(limits__budget_nanos=budget)
    if scene.state()[0] == "running":
        trained(scene, data.draw(st.integers(1, 2 * HOUR)))
    scene.do(CancelJob("job-1", "ann"))
    billed = scene.view()["billed_nanos"]
    spent_granted = min(billed, sum(granted), budget)
    after = scene.exchange.balance("ann")
    assert after["granted_nanos"] == sum(granted) - spent_granted
    assert after["bought_nanos"] == bought - (billed - spent_granted)
    assert sum(scene.balances().values()) == 0
    assert min(nanos for name, nanos in scene.balances().items() if name not in ("world", "grants")) >= 0


