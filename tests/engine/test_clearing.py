"""What every clearing of the engine must be, whatever the book: feasible, bounded, near the best, the same again."""

from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market.engine.book import Fairness
from market.engine.memory import BadMemory, Memory
from market.engine.solve import solve
from tests.engine import books
from tests.engine.checker import Row, best, check

pytest.importorskip("numba")
NANOS = 1_000_000_000
# The first example may compile the loops.
slow = settings(deadline=None, max_examples=books.EXAMPLES, suppress_health_check=[HealthCheck.too_slow])


@slow
@given(books.offers(30, 9), books.jobs(25, 8), st.integers(0, 2))
def test_every_constraint_holds_and_the_welfare_is_what_it_is_said_to_be(
    offers: list[Row], jobs: list[Row], budget: int
) -> None:
    matches, done = books.cleared(offers, jobs, budget=budget)
    welfare = check(offers, jobs, matches)
    assert done.welfare_nanos == welfare * NANOS // 1
    assert done.bound_nanos is not None
    assert done.bound_nanos >= welfare * NANOS


@slow
@given(books.offers(4, 3), books.jobs(4, 3))
def test_the_bound_is_above_the_best_and_the_engine_near_it(offers: list[Row], jobs: list[Row]) -> None:
    matches, done = books.cleared(offers, jobs)
    most = best(offers, jobs)
    assert done.bound_nanos is not None
    assert done.bound_nanos >= most * NANOS
    assert check(offers, jobs, matches) >= most * Fraction(9, 10)


@slow
@given(books.offers(20, 6), books.jobs(20, 6), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_decides_nothing(offers: list[Row], jobs: list[Row], random: Random) -> None:
    mixed_offers, mixed_jobs = random.sample(offers, len(offers)), random.sample(jobs, len(jobs))
    first, done = books.cleared(offers, jobs)
    second, again = books.cleared(mixed_offers, mixed_jobs)
    key = {"key": lambda match: (match["job"], match["offer"])}
    assert sorted(first, **key) == sorted(second, **key)
    assert (done.welfare_nanos, done.bound_nanos) == (again.welfare_nanos, again.bound_nanos)


@slow
@given(books.offers(20, 6), books.jobs(20, 6), st.integers(0, 2**63 - 1))
def test_a_clearing_again_is_the_same(offers: list[Row], jobs: list[Row], seed: int) -> None:
    assert books.cleared(offers, jobs, seed=seed)[0] == books.cleared(offers, jobs, seed=seed)[0]


@slow
@given(books.offers(20, 6), books.jobs(20, 6), st.randoms(use_true_random=False))
def test_a_changed_book_goes_on_from_memory_to_the_bit_and_breaks_nothing(
    offers: list[Row], jobs: list[Row], random: Random
) -> None:
    first = solve(books.book(offers, jobs), budget=1)
    memory = Memory.of_text(first.memory.as_text())
    offers, jobs = [one for one in offers if random.random() < 0.8], [one for one in jobs if random.random() < 0.8]
    made = books.book(offers, jobs)
    one, two = solve(made, budget=1, bound=True, memory=memory), solve(made, budget=1, memory=first.memory)
    assert books.matches(made, one) == books.matches(made, two)
    welfare = check(offers, jobs, books.matches(made, one))
    assert one.welfare_nanos == welfare * NANOS // 1
    assert one.bound_nanos is not None
    assert one.bound_nanos >= welfare * NANOS


@slow
@given(books.offers(20, 6), books.jobs(20, 6))
def test_an_unchanged_book_loses_nothing_by_going_on(offers: list[Row], jobs: list[Row]) -> None:
    made = books.book(offers, jobs)
    first = solve(made, budget=1)
    assert solve(made, budget=0, memory=first.memory).welfare_nanos >= first.welfare_nanos


@slow
@given(books.offers(12, 4), books.jobs(12, 4))
def test_weights_and_waiting_are_in_the_objective_and_not_in_the_welfare(offers: list[Row], jobs: list[Row]) -> None:
    fairness = Fairness({"red": 3 * NANOS, "blue": 0}, ageing_nanos=NANOS // 10)
    made = books.book(offers, jobs, fairness)
    done = solve(made, budget=1, bound=True)
    matches = books.matches(made, done)
    assert done.welfare_nanos == check(offers, jobs, matches) * NANOS // 1
    objective = Fraction(0)
    weights = {"red": 3, "blue": 0, "": 1}
    by_job = {row["id"]: row for row in jobs}
    for name in {match["job"] for match in matches}:
        own = [match for match in matches if match["job"] == name]
        row = by_job[name]
        bonus = Fraction(1, 10) * Fraction(row["waited_hours"] or 0) * sum(match["gpus"] for match in own)
        objective += weights[row["team"]] * (check(offers, jobs, own) + bonus)
    assert done.objective_nanos == objective * NANOS // 1
    assert done.bound_nanos is not None
    assert done.bound_nanos >= objective * NANOS


def test_a_memory_that_cannot_be_is_refused() -> None:
    good = Memory(["a"], np.ones(1), ["j"], np.zeros(1), np.asarray([[0], [0], [1]])).as_text()
    assert Memory.of_text(good).as_text() == good
    for text in (
        "",
        "[]",
        good.replace("memory/1", "memory/9"),
        good.replace("1.0", "-1.0"),
        good.replace("[0,0,1]", "[0,7,1]"),
    ):
        with pytest.raises(BadMemory):
            Memory.of_text(text)
