"""Interruptible jobs in a simulated market: outbid by the live exchange's own decision, saved, and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from market.simulation.churning import seats_of
from market.simulation.records import DONE
from market.simulation.report import page
from market.simulation.rule import interruptible, priced
from market.simulation.supply import Machine
from market.simulation.trace import TraceJob
from market.simulation.whole import Plan, Whole, simulate
from tests.simulation.samples import CHURN, HOUR_MS, MACHINES, USD, job, philly_like

TWO = [Machine("m", "", "A100", 2, 40.0, "eu", USD // 10)]
AS_LISTED = Plan(load=None, baselines=())
COSTS = {"seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_mib": 50.0}


def test_a_higher_bid_takes_the_seat_and_the_other_goes_on_from_what_it_had_saved() -> None:
    low = job("low", hours=4, usd=0.5, interruptible=True)
    whole = simulate([low, job("high", hours=1, at_h=1, usd=2.0)], [replace(TWO[0], gpus=1)], AS_LISTED)
    jobs = whole.records["market"].jobs
    assert jobs["high"].wait_ms == pytest.approx(5_000, abs=1)  # the notice of the lease that went
    assert (jobs["low"].outbid, jobs["low"].redone_gpu_ms, jobs["low"].state) == (1, 0, DONE)
    assert jobs["low"].leased_gpu_ms == low.gpu_ms + 60_000  # it starts once more
    assert jobs["low"].ended_ms == pytest.approx(5 * HOUR_MS, abs=3 * 60_000)
    told = whole.told["runs"]["market"]
    assert told["preemptions"] == {"churn": 0, "outbid": 1, "drain": 0}
    assert (told["by_terms"]["firm"]["outbid"], told["by_terms"]["interruptible"]["outbid"]) == (0, 1)
    assert whole.ledger_nanos == 0


@pytest.mark.parametrize(
    "low",
    [
        job("low", hours=4, usd=0.5),  # firm
        job("low", hours=4, usd=2.0, interruptible=True),  # held by the same limit
        job("low", hours=4, usd=1.99, interruptible=True),  # its restart costs more than is gained
    ],
)
def test_nobody_is_outbid_who_is_firm_or_bids_as_much_or_is_dear_to_restart(low: TraceJob) -> None:
    whole = simulate([low, job("high", hours=1, at_h=1.001, usd=2.0)], [replace(TWO[0], gpus=1)], AS_LISTED)
    assert whole.told["runs"]["market"]["preemptions"]["outbid"] == 0
    assert whole.records["market"].jobs["high"].state == DONE


def test_a_gang_shrinks_at_a_round_boundary_and_becomes_whole_again() -> None:
    gang = job("gang", hours=6, gpus=2, usd=0.5, interruptible=True)
    whole = simulate([gang, job("high", hours=1, at_h=2, usd=2.0)], TWO, AS_LISTED)
    jobs = whole.records["market"].jobs
    assert (jobs["gang"].outbid, jobs["gang"].redone_gpu_ms, jobs["gang"].state) == (1, 0, DONE)
    assert jobs["gang"].ended_ms == pytest.approx(6.5 * HOUR_MS, abs=5 * 60_000)  # an hour with one of two
    assert jobs["gang"].leased_gpu_ms == pytest.approx(gang.gpu_ms + 60_000, abs=60_000)


@pytest.fixture(scope="module")
def played() -> Whole:
    return simulate(philly_like(200), MACHINES, Plan(load=1.1, interruptible=0.4, price_rule="spot"), seats_of(CHURN))


def test_the_same_seed_outbids_the_same_and_money_is_conserved(played: Whole) -> None:
    again = simulate(philly_like(200), MACHINES, Plan(load=1.1, interruptible=0.4, price_rule="spot"), seats_of(CHURN))
    assert json.dumps(again.told) == json.dumps(played.told)
    assert played.ledger_nanos == 0
    record = played.records["market"]
    assert sum(one.paid_nanos for one in record.jobs.values()) == sum(record.revenue_nanos.values()) + record.fee_nanos
    told = played.told["runs"]["market"]
    assert min(told["preemptions"]["outbid"], told["preemptions"]["churn"]) > 10
    assert all(one.outbid == 0 for one in record.jobs.values() if not one.job.interruptible)
    for one in record.jobs.values():
        assert one.paid_nanos <= -(-one.job.limit_nanos * one.leased_gpu_ms // HOUR_MS)
        if one.state == DONE:
            assert one.leased_gpu_ms >= one.job.gpu_ms


def test_no_more_is_let_than_there_is_and_nobody_makes_more_than_the_bound(played: Whole) -> None:
    record = played.records["market"]
    for used, there in zip(record.used.bins(record.window_ms), record.supply.bins(record.window_ms), strict=True):
        assert 0 <= used <= there
    for one in played.told["runs"].values():
        assert one["welfare_usd"] <= played.told["bound_usd"]


def test_the_report_says_what_was_lost_by_it(played: Whole) -> None:
    html = page(played.told | COSTS)
    assert "Firm and interruptible" in html
    assert f"{played.told['runs']['market']['preemptions']['outbid']} by outbid" in html


def test_a_larger_share_has_those_of_a_smaller_one_and_changes_nothing_else() -> None:
    trace = list(priced(philly_like(300), MACHINES, 1))
    few, many = ([one.interruptible for one in interruptible(trace, share, 5)] for share in (0.2, 0.5))
    assert 40 < sum(few) < 80 < 120 < sum(many) < 180
    assert all(more or not less for less, more in zip(few, many, strict=True))
    assert [replace(one, interruptible=False) for one in interruptible(trace, 0.5, 5)] == trace
