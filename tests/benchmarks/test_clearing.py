"""The benchmark's books are seeded and as loaded as asked; the baselines are feasible, and below the engine's bound."""

import pytest

pytest.importorskip("numba")

from benchmarks.clearing import akash, highs
from benchmarks.clearing_books import book, rows_of
from market.engine.columns import NANOS
from market.engine.solve import by_value, greedy, solve


def test_a_book_is_seeded_and_as_loaded_as_asked() -> None:
    assert rows_of(40, 20, 1.0, 1) == rows_of(40, 20, 1.0, 1) != rows_of(40, 20, 1.0, 2)
    for load in (1.0, 3.0):
        made = book(800, 300, load, 1)
        assert 0.7 * load < made.arrays.job["most"].sum() / made.arrays.offer["gpus"].sum() < 1.4 * load


def test_no_baseline_is_above_the_bound_and_no_greedy_above_the_engine() -> None:
    pytest.importorskip("scipy")
    made = book(60, 25, 2.0, 1)
    engine = solve(made, budget=2, bound=True)
    assert engine.bound_nanos is not None
    best, bound = highs(made, 10.0)
    assert best * NANOS <= engine.bound_nanos * (1 + 1e-6)
    assert engine.welfare_nanos <= bound * NANOS * (1 + 1e-4)
    assert engine.welfare_nanos >= 0.97 * best * NANOS
    assert akash(made, list(range(25))) * NANOS <= engine.welfare_nanos
    assert greedy(made, by_value(made.arrays)).welfare_nanos <= engine.welfare_nanos
