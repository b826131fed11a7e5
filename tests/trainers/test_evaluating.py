"""When the held-out loss is measured, by rounds and by the clock; by whom, and whose word ends a job."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.evaluating import Evaluation, Evaluations, HeldOut

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


SPEC = {"until_loss": 2.0, "evaluate": {"every_rounds": 5}}
TWO = [(0, "p0"), (1, "p1")]


def test_who_is_first_measures_and_after_a_claim_the_next_boundary_is_another_providers() -> None:
    held_out = HeldOut(SPEC)
    assert held_out.evaluator(TWO, 0, 0) is None
    assert [held_out.evaluator(TWO, done, 0) for done in range(1, 6)] == [0, None, None, None, 0]
    held_out.hear("p0", 1.9)
    assert held_out.evaluator(TWO, 6, 0) == 1  # not due by rounds
    assert held_out.reached({"p0", "p1"}) is None
    held_out.hear("p1", 2.5)
    assert held_out.evaluator(TWO, 7, 0) == 1
    assert held_out.reached({"p0", "p1"}) is None
    held_out.hear("p1", 1.95)
    assert held_out.reached({"p0", "p1"}) == 1.95


def test_a_lone_provider_is_believed_and_one_that_comes_later_may_contradict_it() -> None:
    held_out = HeldOut(SPEC)
    held_out.hear("p0", 1.9)
    assert held_out.reached({"p0"}) == 1.9
    assert held_out.reached({"p0", "p1"}) is None
    assert held_out.evaluator([(0, "p0"), (2, "p0")], 6, 0) is None  # nobody could contradict it


def test_a_job_that_wants_no_loss_is_never_there() -> None:
    held_out = HeldOut({})
    held_out.hear("p0", 0.0)
    held_out.hear("p1", 0.0)
    assert held_out.reached({"p0"}) is None
    assert held_out.evaluator(TWO, 3, 0) == 0


@given(st.lists(st.tuples(st.sampled_from(["p0", "p1", "p2"]), st.floats(0, 4))))
def test_no_single_provider_ends_a_job_of_several(said: list[tuple[str, float]]) -> None:
    held_out = HeldOut(SPEC)
    for provider, loss in said:
        held_out.hear(provider, loss)
    claims = {provider for provider, loss in said if loss <= 2.0}
    assert (held_out.reached({"p0", "p1", "p2"}) is not None) == (len(claims) >= 2)
