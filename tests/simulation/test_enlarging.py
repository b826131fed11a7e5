"""A trace several times as large has the shape of the trace."""

from __future__ import annotations

from collections import Counter

import pytest

from market.simulation.enlarging import enlarged
from market.simulation.whole import Plan, simulate
from storage.units import MS_PER_DAY
from tests.simulation.samples import MACHINES, job, philly_like


def test_every_gang_comes_as_often_as_before_and_demand_grows_as_much() -> None:
    jobs = philly_like(400)
    found = enlarged(jobs, 5, 1)
    assert Counter(one.gpus for one in found) == Counter({size: 5 * count for size, count in Counter(one.gpus for one in jobs).items()})
    asked, wanted = (sum(one.gpus * one.duration_ms for one in own) for own in (found, jobs))
    assert asked == pytest.approx(5 * wanted, rel=0.05)
    assert [one.submitted_ms for one in found] == sorted(one.submitted_ms for one in found)
    assert found[-1].submitted_ms < -(-(jobs[-1].submitted_ms + 1) // MS_PER_DAY) * MS_PER_DAY
    assert len({one.id for one in found}) == len(found)


def test_its_own_jobs_are_in_it_and_a_copy_of_a_tenant_comes_whole_days_later() -> None:
    jobs = philly_like(50)
    found = {one.id: one for one in enlarged(jobs, 3, 1)}
    assert all(found[one.id] == one for one in jobs)
    for one in jobs:
        copied = found[f"{one.id}-2"]
        assert copied.tenant == f"{one.tenant}-2"
        assert (copied.submitted_ms - one.submitted_ms) % MS_PER_DAY == 0
    assert enlarged(jobs, 3, 1) == list(found.values()) != enlarged(jobs, 3, 2)


def test_a_trace_with_prices_can_be_played_larger() -> None:
    whole = simulate([job("a", hours=2), job("b", at_h=30, usd=2.0)], MACHINES, Plan(load=None, baselines=(), times=4))
    assert whole.told["trace"]["jobs"] == whole.told["runs"]["market"]["states"]["done"] == 8
    assert whole.ledger_nanos == 0
