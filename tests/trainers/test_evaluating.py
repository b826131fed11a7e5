"""When the held-out loss is measured, by rounds and by the clock."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.evaluating import Evaluation, Evaluations

LAST = Evaluation(round=4, began_ms=10_000)
ROUNDS, CLOCK, BOTH = Evaluations(5), Evaluations(None, 60_000), Evaluations(5, 60_000)


# fmt: off
CASES = [
    (ROUNDS, 0,  0,      None, False),  # nothing is trained yet
    (ROUNDS, 1,  0,      None, True),   # what every later one is held against
    (CLOCK,  1,  0,      None, True),
    (ROUNDS, 4,  99_999, None, False),
    (ROUNDS, 5,  10_001, LAST, True),
    (ROUNDS, 6,  99_999, LAST, False),
    (CLOCK,  5,  69_999, LAST, False),
    (CLOCK,  5,  70_000, LAST, True),   # the first boundary at least so long after the last one began
    (CLOCK,  6,  99_999, LAST, True),
    (CLOCK,  7,  10_001, None, True),   # a run that has just begun knows of none
    (BOTH,   5,  10_001, LAST, True),
    (BOTH,   6,  10_001, LAST, False),
    (BOTH,   6,  70_000, LAST, True),
    (CLOCK,  4,  10_001, LAST, True),   # the round after it came to nothing: perhaps nothing was measured
    (ROUNDS, 4,  10_001, LAST, True),
    (CLOCK,  0,  99_999, LAST, False),  # everything was lost
]
# fmt: on


@pytest.mark.parametrize(("plan", "round", "now_ms", "last", "due"), CASES)
def test_an_evaluation_is_due(plan: Evaluations, round: int, now_ms: int, last: Evaluation | None, due: bool) -> None:
    assert plan.due(round, now_ms, last) is due


@pytest.mark.parametrize(
    ("spec", "plan"),
    [
        ({}, Evaluations(1, None)),
        ({"evaluate": {}}, Evaluations(1, None)),
        ({"evaluate": {"every_rounds": 3}}, Evaluations(3, None)),
        ({"evaluate": {"every_ms": 5_000}}, Evaluations(None, 5_000)),
    ],
)
def test_a_job_of_before_is_evaluated_as_it_was(spec: dict[str, dict[str, int]], plan: Evaluations) -> None:
    assert Evaluations.of(spec) == plan


@given(st.lists(st.integers(0, 30_000), min_size=5, max_size=60))
def test_by_the_clock_two_evaluations_are_never_nearer_and_no_boundary_is_missed(lengths_ms: list[int]) -> None:
    now_ms, last, began = 0, None, []
    for round, length_ms in enumerate(lengths_ms, 1):
        now_ms += length_ms
        before = last
        if CLOCK.due(round, now_ms, last):
            last = Evaluation(round, now_ms)
            began.append(now_ms)
        else:
            assert before is not None
            assert now_ms - before.began_ms < 60_000
    assert all(after - earlier >= 60_000 for earlier, after in pairwise(began))
