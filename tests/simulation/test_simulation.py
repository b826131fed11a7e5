"""A trace through the real exchange: what must come out whatever the trace, and a few traces that can be done by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.simulation.churning import seats_of
from market.simulation.figures import jain, quantile, span_of, spread
from market.simulation.outlooks import calibration
from market.simulation.records import DONE, GAVE_UP, REFUSED, JobRecord
from market.simulation.report import page
from market.simulation.steps import StepSum
from market.simulation.supply import Machine, gpus_of
from market.simulation.trace import BareJob, TraceJob
from market.simulation.whole import NothingToDo, Plan, Whole, simulate, supply_for
from tests.simulation.samples import CHURN, HOUR_MS, MACHINES, USD, job, philly_like

ONE = [Machine("m", "", "A100", 1, 40.0, "eu", USD // 2)]
AS_LISTED = Plan(load=None, baselines=())


def ends(whole: Whole, run: str = "market") -> dict[str, tuple[str, float | None, float | None]]:
    """By job: state, hours until the first GPU, hours until the end."""
    found = {}
    for name, one in whole.records[run].jobs.items():
        wait = None if one.wait_ms is None else one.wait_ms / HOUR_MS
        took = None if one.ended_ms is None else (one.ended_ms - one.job.submitted_ms) / HOUR_MS
        found[name] = (one.state, wait, took)
    return found


def test_one_job_after_another_on_one_machine() -> None:
    whole = simulate([job("a", hours=2), job("b", hours=1, at_h=0.5)], ONE, AS_LISTED)
    assert ends(whole) == {"a": (DONE, 0, 2), "b": (DONE, 1.5, 2.5)}
    told = whole.told["runs"]["market"]
    assert (told["value_usd"], told["asked_usd"], told["paid_usd"], told["welfare_usd"]) == (3.0, 1.5, 1.5, 1.5)
    assert told["revenue_usd"] == {"provider-1": 1.43}  # five percent of 1.5 are the market's
    assert told["fee_usd"] in (0.07, 0.08)
    assert told["welfare_share_of_bound"] == pytest.approx(1.0, abs=1e-3)


def test_a_gang_starts_whole_and_is_paid_for_by_the_hour() -> None:
    whole = simulate([job("one", hours=2), job("gang", gpus=4, at_h=0.1)], [Machine("m", "", "A100", 4, 40.0, "eu", USD // 2)], AS_LISTED)
    assert ends(whole)["gang"] == (DONE, pytest.approx(1.9, abs=0.02), pytest.approx(2.9, abs=0.02))
    assert whole.records["market"].jobs["gang"].paid_nanos == 4 * USD // 2


def test_an_elastic_gang_begins_with_what_there_is_and_grows() -> None:
    machines = [Machine("m", "", "A100", 4, 40.0, "eu", USD // 2)]
    whole = simulate([job("single", hours=1, gpus=2), job("grows", at_h=0.1, hours=1, gpus=4, least=2)], machines, AS_LISTED)
    # 2 GPUs for 0.9 hours leave 2.2 of 4 GPU-hours, for 4 GPUs.
    assert ends(whole)["grows"] == (DONE, pytest.approx(0, abs=0.02), pytest.approx(0.9 + 0.55, abs=0.04))


@pytest.mark.parametrize(
    ("one", "state", "reason"),
    [
        (job("j", usd=0.1, patience_ms=HOUR_MS), GAVE_UP, "price_too_low"),
        (job("j", gpus=3, patience_ms=HOUR_MS), GAVE_UP, "gang_too_big"),
        (job("j", vram_gib=80.0, patience_ms=HOUR_MS), REFUSED, "never_fits_vram_too_small"),
        (job("j", models=("H100",), patience_ms=HOUR_MS), REFUSED, "never_fits_gpu_model"),
        (job("j", regions=("mars",), patience_ms=HOUR_MS), REFUSED, "never_fits_region"),
        (job("j", usd=0.1), "unfinished", "waits"),
    ],
)
def test_who_cannot_be_served_is_told_why(one: TraceJob, state: str, reason: str) -> None:
    whole = simulate([one, job("other", at_h=0.2)], ONE, AS_LISTED)
    record = whole.records["market"].jobs["j"]
    assert (record.state, record.reason, record.started_ms) == (state, reason, None)
    assert ends(whole)["other"][0] == DONE


def test_who_waits_behind_others_is_busy_out() -> None:
    whole = simulate([job("long", hours=10), job("late", at_h=1, patience_ms=HOUR_MS)], ONE, AS_LISTED)
    record = whole.records["market"].jobs["late"]
    assert (record.state, record.reason, record.ended_ms) == (GAVE_UP, "busy", 2 * HOUR_MS)


def test_a_budget_that_was_too_small_is_topped_up() -> None:
    whole = simulate([job("j", hours=20, estimate_ms=HOUR_MS)], ONE, AS_LISTED)
    assert ends(whole)["j"] == (DONE, 0, 20)
    assert whole.records["market"].jobs["j"].paid_nanos == 10 * USD


def test_what_a_machine_takes_with_it_is_done_again_from_the_last_save() -> None:
    seats = seats_of(CHURN)
    assert seats is not None
    plan = Plan(load=None, baselines=("greedy",), save_ms=HOUR_MS)
    whole = simulate([job("j", hours=8, gpus=2), job("k", hours=5)], [Machine("m", "", "A100", 4, 40.0, "eu", USD // 2)] * 1, plan, seats)
    for run in ("market", "greedy"):
        assert {state for state, _, _ in ends(whole, run).values()} == {DONE}
        assert whole.told["runs"][run]["workers_lost"] > 0
        assert all(one.leased_gpu_ms > one.job.gpu_ms for one in whole.records[run].jobs.values() if one.lost)
    assert whole.told["money_conserved"]


@pytest.fixture(scope="module")
def played() -> Whole:
    return simulate(philly_like(300), MACHINES, Plan())


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(played: Whole) -> None:
    again = simulate(philly_like(300), MACHINES, Plan())
    assert json.dumps(again.told) == json.dumps(played.told)
    assert json.dumps(simulate(philly_like(300), MACHINES, Plan(seed=2)).told) != json.dumps(played.told)


def test_money_is_conserved_and_nobody_makes_more_than_the_bound(played: Whole) -> None:
    assert played.ledger_nanos == 0
    for one in played.told["runs"].values():
        assert one["welfare_usd"] <= played.told["bound_usd"]
        assert 0 < one["utilisation"] <= 1
        assert 0 < one["fairness"] <= 1
        assert sum(one["states"].values()) == 300
    market = played.records["market"]
    paid = sum(one.paid_nanos for one in market.jobs.values())
    assert paid == sum(market.revenue_nanos.values()) + market.fee_nanos
    assert all(one.paid_nanos <= -(-one.job.limit_nanos * one.leased_gpu_ms // HOUR_MS) for one in market.jobs.values())


def test_no_more_is_let_than_there_is(played: Whole) -> None:
    for record in played.records.values():
        for used, there in zip(record.used.bins(record.window_ms), record.supply.bins(record.window_ms), strict=True):
            assert 0 <= used <= there


def test_a_uniform_price_costs_no_less_than_the_asks() -> None:
    whole = simulate(philly_like(120), MACHINES, Plan(baselines=(), price_rule="uniform"))
    told = whole.told["runs"]["market"]
    assert told["paid_usd"] >= told["asked_usd"]
    assert whole.told["money_conserved"]


def test_the_report_is_one_page_that_loads_nothing(played: Whole) -> None:
    html = page(played.told | {"seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_mib": 50.0})
    assert html.count("<svg") == html.count("</svg>") == 7
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in html
    assert "prefers-color-scheme" in html


def test_a_load_is_mean_demand_over_supply() -> None:
    jobs = philly_like(200)
    for load in (0.5, 0.9, 1.1):
        machines = supply_for(jobs, MACHINES, Plan(load=load), None)
        demand = sum(one.gpus * one.duration_ms for one in jobs) / span_of(jobs)
        assert gpus_of(machines) == pytest.approx(demand / load, abs=0.51)


def test_nothing_to_do_is_said() -> None:
    with pytest.raises(NothingToDo, match="no jobs"):
        simulate([], MACHINES, Plan())
    with pytest.raises(NothingToDo, match="no offers"):
        simulate([BareJob("j", "t", 0, 1_000, 1)], [], Plan())


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 300), st.integers(1, 9)), max_size=20))
def test_sums_by_bins_are_those_of_every_moment(spans: list[tuple[int, int, int]]) -> None:
    sums = StepSum(50)
    for begin, long, amount in spans:
        sums.add(begin, begin + long, amount)
    by_hand = [sum(amount for at in range(place * 50, place * 50 + 50) for begin, long, amount in spans if begin <= at < begin + long) for place in range(17)]
    assert sums.bins(17 * 50) == by_hand


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["fifo", "auction", "greedy"]))
def test_no_baseline_sells_a_gpu_twice_or_above_a_limit(seed: int, name: str) -> None:
    whole = simulate(philly_like(25, seed), MACHINES, Plan(load=None, baselines=(name,)))
    record = whole.records[name]
    for used, there in zip(record.used.bins(record.end_ms), record.supply.bins(record.end_ms), strict=True):
        assert 0 <= used <= there
    for one in record.jobs.values():
        assert one.cost_nanos <= one.job.limit_nanos * one.leased_gpu_ms // HOUR_MS
        if one.state == DONE:
            assert one.leased_gpu_ms == one.job.gpu_ms
    assert whole.told["runs"][name]["welfare_usd"] <= whole.told["bound_usd"]


def test_small_sums() -> None:
    assert jain([1, 1, 1]) == 1
    assert jain([1, 0, 0, 0]) == 0.25
    assert quantile([1, 2, 3, 4], 50) == 2
    assert spread([])["p99"] is None
    assert spread(range(1, 101)) == {"count": 100, "mean": 50.5, "p50": 50, "p90": 90, "p99": 99}


def test_what_plans_said_is_compared_with_what_came() -> None:
    played = simulate(philly_like(80), MACHINES[:1], Plan(baselines=(), outlook_every=2))
    told = played.told["outlooks"]
    asked = played.records["market"].outlooks
    assert len(asked) == 40
    assert set(told["begins"]) <= {"now", "leases", "recent"}
    assert "recent" in told["begins"]
    for one in (*told["begins"].values(), told["done"]):
        assert one["jobs"] == one["within"] + one["sooner"] + one["later"] + one["gave_up"]
    at_once = told["begins"]["now"]
    assert at_once["within_share"] == 1.0
    assert simulate(philly_like(80), MACHINES[:1], Plan(baselines=())).records["market"].jobs == played.records["market"].jobs
    assert "What plans said" in page(played.told | {"seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_mib": 50.0})


@pytest.mark.parametrize(
    ("wait_h", "state", "came"),
    [(2, DONE, "within"), (0.5, DONE, "sooner"), (9, DONE, "later"), (None, GAVE_UP, "gave_up")],
)
def test_a_range_that_was_said_holds_or_not(wait_h: float | None, state: str, came: str) -> None:
    record = JobRecord(job("j", at_h=1), state=state, ended_ms=4 * HOUR_MS)
    record.started_ms = None if wait_h is None else round((1 + wait_h) * HOUR_MS)
    said = {"begins": {"basis": "leases", "low_ms": HOUR_MS, "middle_ms": 2 * HOUR_MS, "high_ms": 5 * HOUR_MS}, "done": None}
    found = calibration({"j": said}, {"j": record}, 60_000)
    assert found["begins"]["leases"][came] == found["begins"]["leases"]["jobs"] == 1
    assert found["done"]["jobs"] == 0
