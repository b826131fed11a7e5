"""What every clearing of the engine must be, whatever the book: feasible, bounded, near the best, the same again."""

from fractions import Fraction
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine import books
from tests.engine.checker import Row, best, check

pytest.importorskip("numba")
NANOS = 1_000_000_000
# The first example may compile the loops.
slow = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


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
