"""Jobs whose strategy is changed while they run: nothing is trained on twice, whatever shares follow."""

from __future__ import annotations

from tests.trainers.ring import Ring, ring
from tests.trainers.ring_jobs import STRATEGIES, is_done, spec_of, strategy_of


def drawn_twice(job: Ring) -> dict[int, set[int]]:
    """By slot, the numbers by which a worker drew more than one batch."""
    drawn = {slot: seat.drawn for slot, seat in job.seats.items()}
    return {
        slot: twice for slot, numbers in drawn.items() if (twice := {one for one in numbers if numbers.count(one) > 1})
    }


def shares_of(job: Ring, slot: int) -> list[int]:
    """Steps that a worker trained in each round."""
    return [steps for _, _, _, steps, _ in job.seats[slot].trained]


def test_shares_by_speed_may_begin_and_end_while_a_job_runs() -> None:
    with ring(spec_of(STRATEGIES["diloco"], rounds=15)) as job:
        job.seats[1].step_s = job.seats[2].step_s = 0.02
        job.once(job.reported(3), lambda: job.retune(strategy_of("diloco", adapt="steps")))
        job.once(job.reported(9), lambda: job.retune(STRATEGIES["diloco"]))
        assert is_done(job.run())
        job.check()
        assert job.lost() == []
        assert max(shares_of(job, 0)) > 3, "the fast one trained more of a round"
        assert set(shares_of(job, 0)[-3:]) == {3}, "and no more than the others in the end"
        assert drawn_twice(job) == {}
