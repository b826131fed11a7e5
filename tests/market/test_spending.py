"""Spending limits: refused when money would go into an escrow, paused when they were lowered, free again in time."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from market.commands import AddBudget, CancelJob, MoveMember, SetLimits, SetTeam, SubmitJob
from market.periods import DAY, MONTH, PERIODS
from tests.market.scene import USD, Scene, make_spec

HOUR = 3_600_000
DAY_MS = 24 * HOUR


@given(at_ms=st.integers(0, 253_402_300_799_999 - 32 * DAY_MS))
def test_periods_follow_on(at_ms: int) -> None:
    moment = datetime.fromtimestamp(at_ms // 1000, UTC)
    for period in PERIODS:
        number = period.number_of(at_ms)
        assert period.begin_ms(number) <= at_ms < period.next_ms(at_ms) == period.begin_ms(number + 1)
        assert period.number_of(period.next_ms(at_ms)) == number + 1
    assert MONTH.next_ms(at_ms) >= DAY.next_ms(at_ms)
    first = datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC)
    assert MONTH.next_ms(at_ms) == int(first.timestamp()) * 1000


def limit(scene: Scene, **usd: float | None) -> None:
    nanos = {f"{name}_nanos": None if value is None else round(value * USD) for name, value in usd.items()}
    scene.do(SetLimits("ann", None, "op", **nanos))  # type: ignore[arg-type]


def of_ann(scene: Scene) -> dict[str, int]:
    found = next(one for one in scene.exchange.members() if one["member"] == "ann")["limits"]
    assert isinstance(found, dict)
    return found


def test_a_limit_is_looked_at_when_money_goes_into_an_escrow() -> None:
    scene = Scene()
    limit(scene, per_day=8, per_month=20)
    scene.submit(limits__budget_nanos=5 * USD)
    refused = scene.refused(SubmitJob("job-2", make_spec(limits__budget_nanos=4 * USD), "ann"))
    assert (refused.code, refused.field, refused.status) == ("over_spending_limit", "limits.budget_usd", 402)
    assert refused.message == (
        "member ann may spend 8.00 USD a day: 5.00 are used (0.00 billed, 5.00 in escrow), and the budget is 4.00"
    )
    assert refused.remedy == (
        "ask for at most 3.00 USD: the next day begins 1970-01-02 00:00 UTC, and what open jobs do not spend is free when "
        "they end"
    )
    assert scene.refused(AddBudget("b", "job-1", 4 * USD, "ann")).field == "add_nanos"
    scene.do(AddBudget("b", "job-1", 3 * USD, "ann"))
    assert (of_ann(scene)["held_nanos"], of_ann(scene)["per_day_nanos"]) == (8 * USD, 8 * USD)
    scene.do(CancelJob("job-1", "ann"))
    scene.submit("job-2", limits__budget_nanos=8 * USD)
    scene.do(CancelJob("job-2", "ann"))
    limit(scene, per_day=None)
    assert scene.refused(SubmitJob("job-3", make_spec(limits__budget_nanos=21 * USD), "ann")).message.startswith(
        "member ann may spend 20.00 USD a month"
    )
    limit(scene, per_month=None)
    scene.submit("job-3", limits__budget_nanos=21 * USD)
    assert scene.refused(SetLimits("ann", None, "ann", 1)).status == 403
    assert scene.refused(SetLimits("eve", None, "op", 1)).code == "unknown_member"
    assert scene.refused(SetLimits(None, "bio", "op", 1)).code == "unknown_team"
    assert scene.refused(SetLimits("ann", None, "op", -2)).field == "per_day_nanos"


def test_what_was_billed_counts_until_the_day_is_over() -> None:
    scene = Scene()
    limit(scene, per_day=2)
    scene.running(limits__budget_nanos=2 * USD)
    scene.wait(HOUR)
    scene.round(1, {0: HOUR, 1: HOUR})
    scene.checkpoint(1)
    scene.do(CancelJob("job-1", "ann"))
    assert of_ann(scene)["day_billed_nanos"] == 1_100_000_000
    assert "1.10 billed, 0.00 in escrow" in scene.refused(SubmitJob("j", make_spec(limits__budget_nanos=USD), "ann")).message
    scene.wait(of_ann(scene)["day_ends_ms"] - scene.now_ms - 1)
    assert of_ann(scene)["day_billed_nanos"] == 1_100_000_000
    scene.wait(1)
    assert (of_ann(scene)["day_billed_nanos"], of_ann(scene)["month_billed_nanos"]) == (0, 1_100_000_000)
    scene.submit("j", limits__budget_nanos=2 * USD)
    assert scene.replayed().members() == scene.exchange.members()


def test_a_run_pauses_at_a_lowered_limit_and_goes_on_the_next_day() -> None:
    scene = Scene()
    scene.running(limits__budget_nanos=90 * USD)
    scene.wait(HOUR)
    scene.round(1, {0: HOUR, 1: HOUR})
    scene.checkpoint(1)
    assert scene.view()["wanted"] == "run"
    limit(scene, per_day=1)
    scene.read(s0=HOUR, s1=HOUR)
    assert scene.view()["wanted"] == "pause"
    scene.halt("paused")
    assert scene.state() == ("paused", "spending_limit")
    told = scene.exchange.explain("job-1")
    assert told is not None
    assert told["detail"] == "member ann: 1.10 of 1.00 USD a day are billed, until 1970-01-02 00:00 UTC"
    scene.wait(HOUR)
    assert scene.state()[0] == "paused"
    scene.wait(of_ann(scene)["day_ends_ms"] - scene.now_ms)
    assert scene.state() == ("pending", "limit_free")
    scene.clear()
    assert scene.state()[0] == "running"
    assert scene.replayed().fingerprint() == scene.exchange.fingerprint()


def test_a_teams_limit_is_for_all_of_it_and_keeps_what_waits_from_starting() -> None:
    scene = Scene()
    scene.do(SetTeam("bio", "op"))
    for member in ("ann", "bob"):
        scene.do(MoveMember(member, "bio", "op"))
    scene.submit(limits__budget_nanos=5 * USD)
    scene.do(SetLimits(None, "bio", "op", per_month_nanos=6 * USD))
    assert scene.refused(SubmitJob("j", make_spec(limits__budget_nanos=2 * USD), "ann")).message.startswith(
        "team bio may spend 6.00 USD a month: 5.00 are used"
    )
    scene.do(SetLimits(None, "bio", "op", per_month_nanos=0))
    scene.wait(1)
    assert scene.state() == ("paused", "spending_limit")
    assert next(row for row in scene.exchange.teams(scene.now_ms) if row["team"] == "bio")["limits"]["per_month_nanos"] == 0
    scene.do(MoveMember("ann", "", "op"))
    scene.wait(1)
    assert scene.state() == ("pending", "limit_free")


def test_without_limits_nothing_is_asked() -> None:
    scene = Scene()
    scene.submit()
    assert {one["limits"] for one in scene.exchange.members()} == {None}
    assert scene.exchange.fingerprint()["limits"] == {}
