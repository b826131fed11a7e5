"""A frozen worker is waited for until it is known to be gone, and no longer: then the next one is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.trainers.ring import Ring, ring
from tests.trainers.ring_jobs import STRATEGIES, is_done, spec_of
from tests.trainers.ring_machines import hold

ROUNDS = 6


def freezes_after(job: Ring, method: str, when: Callable[[dict], bool] = lambda answer: True) -> None:
    """Slot 0 is frozen as soon as it has answered that call of the run."""

    def freeze(answer: dict) -> dict:
        if when(answer):
            job.seats[0].thawed.clear()
        return answer

    job.lies[0, method] = freeze


def set_aside_by(job: Ring, slot: int) -> list[int]:
    """The rounds that this worker set aside."""
    rounds: list[int] = []

    def note(answer: dict) -> dict:
        rounds.append(answer["round"])
        return answer

    job.lies[slot, "snapshot"] = note
    return rounds


def check_went_on(job: Ring) -> None:
    """Nobody but the frozen one is lost, and no round."""
    assert not job.bugs
    assert job.lost() == [(0, "worker_frozen")]
    assert job.numbers() == list(range(1, ROUNDS + 1))
    assert job.door.checkpoints[-1]["round"] == ROUNDS


@pytest.mark.parametrize("number", [3, ROUNDS])
def test_before_it_sets_a_round_aside(number: int) -> None:
    with ring(spec_of(STRATEGIES["ddp"], rounds=ROUNDS), lost_after_s=0.3) as job:
        freezes_after(job, "merge", lambda answer: answer.get("round") == number)
        asked, idle = set_aside_by(job, 1), threading.Event()
        job.at(1, number, "training", hold(idle))  # else that round may not be wanted, since another is on its way
        job.once(lambda: job.course.round == number - 1 and not job.keeper.busy, idle.set)
        assert is_done(job.run())
        assert asked[0] == number
        check_went_on(job)


@pytest.mark.parametrize("number", [3, ROUNDS])
def test_before_what_it_set_aside_is_serialised(number: int) -> None:
    with ring(spec_of(STRATEGIES["ddp"], rounds=ROUNDS), lost_after_s=0.3) as job:
        job.seats[1].step_s = 0.03
        freezes_after(job, "snapshot", lambda answer: answer["round"] >= number)
        asked = set_aside_by(job, 1)
        assert is_done(job.run())
        assert asked[0] in ((4, 5) if number == 3 else (ROUNDS,)), "the keeper was not busy any more"
        check_went_on(job)


def test_before_it_evaluates_the_last_round() -> None:
    with ring(spec_of(STRATEGIES["diloco"], rounds=ROUNDS), lost_after_s=0.3) as job:
        asked = []
        real = job.seats[0].worker.evaluate

        def evaluate(*arguments: object) -> dict:
            asked.append(0)
            job.seats[0].thawed.clear()
            return real(*arguments)

        job.seats[0].worker.evaluate = evaluate
        assert is_done(job.run())
        assert asked == [0]
        assert job.seats[1].evaluated == 1
        check_went_on(job)
