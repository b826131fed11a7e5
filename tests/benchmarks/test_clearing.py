"""The benchmark's books are seeded and as loaded as asked; the baselines are feasible, and below the engine's bound."""

import pytest

pytest.importorskip("numba")

from benchmarks.clearing import changed
from benchmarks.clearing_baselines import akash, greedies, highs
from benchmarks.clearing_books import book, rows_of
from market.engine.columns import NANOS
from market.engine.solve import solve


def test_a_book_is_seeded_and_as_loaded_as_asked() -> None:
    assert rows_of(40, 20, 1.0, 1) == rows_of(40, 20, 1.0, 1) != rows_of(40, 20, 1.0, 2)
    for load in (1.0, 3.0):
        made = book(800, 300, load, 1)
        assert 0.7 * load < made.arrays.job["most"].sum() / made.arrays.offer["gpus"].sum() < 1.4 * load


def test_a_changed_book_has_a_percent_of_other_rows_under_ids_of_their_own() -> None:
    before, fresh = rows_of(400, 20, 1.0, 1)[0], rows_of(400, 20, 1.0, 2)[0]
    after = changed(before, fresh)
    assert len(after) == 400
    assert {row[0] for row in before} - {row[0] for row in after} == {"o000000", "o000001"}
    assert [row for row in after if row not in before] == [["newo000000", *fresh[0][1:]], ["newo000001", *fresh[1][1:]]]


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
    assert max(greedies(made).values()) * NANOS <= engine.welfare_nanos
