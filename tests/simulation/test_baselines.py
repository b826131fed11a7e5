"""Who is served in a baseline: as if at each clearing everybody who waits was tried, in the order of the baseline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.simulation.baselines import BaselineRun
from market.simulation.churning import seats_of
from market.simulation.rule import priced
from market.simulation.supply import Machine, with_providers
from market.simulation.terms import Terms
from market.simulation.waiting import Class, Price, Waiting, _Line, _Stand
from tests.simulation.samples import CHURN, HOUR_MS, MACHINES, USD, philly_like


class Plain(Waiting):
    """Everybody is looked at, one after another."""

    def served(self, price: Price, room: int) -> Iterator[str]:
        """Each for whom there is enough free when it is his turn."""
        for line, stand in sorted(self._stands.values(), key=lambda one: one[1]):
            if price(line.takes, line.need, stand.limit_nanos, False) <= stand.limit_nanos:
                yield stand.job


@pytest.mark.parametrize("churn", [False, True])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(["auction", "greedy"]), sellers=st.integers(1, 3))
def test_to_look_only_where_something_changed_serves_the_same(churn: bool, seed: int, name: str, sellers: int) -> None:
    machines = with_providers(MACHINES[:sellers + 1] * 2)
    trace = list(priced(philly_like(60, seed), machines, seed))
    terms = Terms(window_ms=trace[-1].submitted_ms, horizon_ms=trace[-1].submitted_ms + 100 * 24 * HOUR_MS)
    runs = [BaselineRun(name, machines, terms, seats_of(CHURN) if churn else None) for _ in range(2)]
    runs[1]._waiting = Plain(len(machines), runs[1]._taken_by)
    quick, plain = (run.play(trace) for run in runs)
    assert quick.jobs == plain.jobs


ANY: Class = ((), (), 0.0)
ONE_OF_TWO = [Machine("a", "one", "A100", 2, 40.0, "eu", USD), Machine("b", "two", "A100", 2, 40.0, "eu", 2 * USD)]


@pytest.mark.parametrize(
    ("name", "prices"),
    [("auction", [USD, USD, float("inf"), float("inf")]), ("greedy", [USD, USD, 2 * USD, 2 * USD])],
)
def test_the_price_of_so_many_units_is_that_of_the_last_one_of_one_provider_in_the_auction(name: str, prices: list[float]) -> None:
    run = BaselineRun(name, ONE_OF_TWO, Terms())
    assert [run._price(run._taken_by(ANY), need, 2 * USD, False) for need in (1, 2, 3, 4)] == prices
    assert run._price(run._taken_by(ANY), 1, USD - 1, False) == float("inf")


def test_who_comes_later_does_not_pass_whoever_could_take_the_same() -> None:
    waiting = Waiting(1, lambda _kind: frozenset({0}))
    for order, (limit, need) in enumerate([(1, 1), (5, 2), (5, 1), (9, 1)]):
        waiting.add(f"job-{order}", ANY, need, limit, order, order)
    free = [2]

    def price(_takes: frozenset[int], need: int, _most_nanos: int, _again: bool) -> float:
        return 3 if free[0] >= need else float("inf")

    served = []
    for job in waiting.served(price, free[0]):
        waiting.discard(job)
        served.append(job)
        free[0] -= 2 if job == "job-1" else 1
    assert served == ["job-1"]
    free[0] = 1
    waiting.freed(0, 3)
    assert next(waiting.served(price, free[0])) == "job-2"


@given(moves=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=40))
def test_the_first_of_a_line_who_pays_is_known_whoever_comes_and_goes(moves: list[tuple[int, int, bool]]) -> None:
    line, there = _Line(frozenset({0}), 1), list[_Stand]()
    for order, (rank, limit, leaves) in enumerate(moves):
        if leaves and there:
            line.remove(there.pop(rank % len(there)))
        else:
            stand = _Stand(rank, order, limit, f"job-{order}")
            line.add(stand)
            there = sorted([*there, stand])
        assert line.most_nanos == max((one.limit_nanos for one in there), default=-1)
        assert [line.first(price) for price in range(7)] == [
            next((one for one in there if one.limit_nanos >= price), None) for price in range(7)
        ]
