"""Jobs that go wrong at every moment: each strategy, each kind of fault, and what must be true afterwards."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from tests.trainers.ring import ring
from tests.trainers.ring_jobs import BY_ROUND, STRATEGIES, is_done, spec_of, strategy_of
from tests.trainers.ring_machines import Seat, die, freeze, hold

AGREEING = tuple(name for name in STRATEGIES if name != "noloco")
MOMENTS = ("training", "exchange", "exchanged", "answering")
PLACES = [
    *((name, moment) for name in ("diloco", "ddp") for moment in MOMENTS),
    *((name, "exchanged") for name in STRATEGIES if name not in ("diloco", "ddp")),
]
"""Every moment for one strategy of rounds and one of steps, the nastiest for all."""
REDUCING = [
    strategy_of("diloco", topology="butterfly"), strategy_of("diloco", topology="star"),
    strategy_of("ddp", topology="butterfly"), strategy_of("ddp", topology="star"),
]  # fmt: skip


# deaths


@pytest.mark.parametrize(("name", "moment"), PLACES)
def test_a_death_at_any_moment_costs_the_dead_one_and_no_round(name, moment):
    with ring(spec_of(STRATEGIES[name], rounds=4)) as job:
        job.at(1, 2, moment, die)
        assert is_done(job.run())
        job.check(agree=name in AGREEING)
        assert job.fired == [(1, 2, moment)]
        assert job.lost() == [(1, "worker_killed")]
        assert len(job.door.rounds) == 4
        assert all({0, 2} <= set(slots) for slots in job.contributors())
        if name in BY_ROUND and moment == "training":
            assert job.contributors()[1] == [0, 2]


@pytest.mark.parametrize("moment", ["exchange", "exchanged"])
@pytest.mark.parametrize("strategy", REDUCING, ids=lambda one: f"{one['name']}-{one['topology']}")
@pytest.mark.parametrize("slot", [0])
def test_the_owner_of_a_slice_may_die_too(strategy, moment, slot):
    with ring(spec_of(strategy, rounds=3), slots=(0, 1, 2, 3)) as job:
        job.at(slot, 2, moment, die)
        assert is_done(job.run())
        job.check()
        assert job.fired == [(slot, 2, moment)]
        assert job.lost() == [(slot, "worker_killed")]


def test_two_deaths_in_one_merge_one_in_the_retry_of_the_other():
    with ring(spec_of(STRATEGIES["diloco"], rounds=4), slots=(0, 1, 2, 3)) as job:
        job.at(1, 2, "exchange", lambda seat: (job.at(2, 2, "exchange", die), die(seat)))
        assert is_done(job.run())
        job.check()
        assert job.fired[0] == (1, 2, "exchange")
        assert set(job.contributors()[3]) >= {0, 3}


@pytest.mark.parametrize("name", ["diloco", "distro"])
def test_a_frozen_worker_is_lost_and_the_others_go_on(name):
    with ring(spec_of(STRATEGIES[name], rounds=4), lost_after_s=0.3, complain_after_s=5.0) as job:
        job.at(2, 2, "exchange", freeze)
        assert is_done(job.run())
        job.check(agree=name in AGREEING)
        assert job.lost() == [(2, "worker_frozen")]
        assert len(job.door.rounds) == 4


@pytest.mark.parametrize("every", [1, 100])
@pytest.mark.parametrize("name", ["ddp", "streaming_diloco"])
def test_when_all_are_lost_newcomers_go_on_from_what_is_durable(name, every):
    with ring(spec_of(STRATEGIES[name], rounds=5, every=every)) as job:
        for slot in (0, 1, 2):
            job.at(slot, 4, "training", die)
        job.once(lambda: not job.living(), lambda: (job.join(3), job.join(4)))
        assert is_done(job.run())
        assert not job.bugs
        assert sorted(one for one, _ in job.lost()) == [0, 1, 2]
        numbers = [report["round"] for report in job.door.rounds]
        assert sorted(set(numbers)) == [1, 2, 3, 4, 5]
        assert numbers[-1] == 5
        assert job.door.rounds[-1]["step"] == job.spec["steps"]


@pytest.mark.parametrize(("said", "kept"), [({}, True), ({"inner_state": False}, False)])
def test_ddp_goes_on_with_the_inner_optimisers_state_unless_the_job_says_otherwise(said, kept):
    spec = spec_of(STRATEGIES["ddp"], rounds=5)
    spec["checkpoint"] |= said
    begun_with = []
    with ring(spec) as job:
        for slot in (0, 1, 2):
            job.at(slot, 4, "training", die)
        for slot, number in itertools.product((3, 4), (1, 2, 3, 4)):  # either may be ready first, and alone
            job.at(slot, number, "training", lambda seat: begun_with.append(seat.child.moments.copy()))
        job.once(lambda: not job.living(), lambda: (job.join(3), job.join(4)))
        assert is_done(job.run())
        assert not job.bugs
        first = min(number for slot, number, _ in job.fired if slot > 2)
        assert first > 1, "the newcomers go on from a checkpoint"
    assert begun_with[0].any() == kept


@pytest.mark.parametrize(
    ("evaluate", "times"),
    [({"every_rounds": 1}, 6), ({"every_rounds": 4}, 3), ({"every_ms": 3_600_000}, 2),
     ({"every_ms": 3_600_000, "every_rounds": 4}, 3)],
)  # fmt: skip
def test_held_out_data_are_evaluated_after_the_first_round_the_last_and_when_the_job_says(evaluate, times):
    with ring(spec_of(STRATEGIES["diloco"], rounds=6) | {"evaluate": evaluate}) as job:
        assert is_done(job.run())
        job.check()
        assert sum(seat.evaluated for seat in job.seats.values()) == times


# joiners


@pytest.mark.parametrize("name", ["ddp", "streaming_diloco", "noloco", "demo"])
def test_a_joiner_takes_part_from_the_next_boundary_on(name):
    with ring(spec_of(STRATEGIES[name], rounds=30)) as job:
        job.once(job.reported(2), lambda: job.join(3))
        assert is_done(job.run())
        job.check(agree=name in AGREEING)
        assert job.lost() == []
        assert job.contributors()[-1] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["diloco", "ddp", "streaming_diloco"])
def test_a_donor_may_die_while_it_gives_and_a_joiner_without_any_comes_again(name):
    with ring(spec_of(STRATEGIES[name], rounds=40)) as job:
        gate = threading.Event()

        def arrives() -> None:
            job.join(3)
            for number in range(2, 12):
                job.at(3, number, "fetching", lambda seat: job.kill(1))

        job.once(job.reported(2), arrives)
        job.once(lambda: any(moment == "fetching" for _, _, moment in job.fired), gate.set)
        assert is_done(job.run())
        job.check()
        assert gate.is_set()
        assert job.lost() == [(1, "worker_killed")]
        assert job.contributors()[-1] == [0, 2, 3]


# slow ones


def slow_round(job, slot: int, number: int) -> None:
    """That share is not done before the round was committed without it."""
    gate = threading.Event()
    job.at(slot, number, "training", hold(gate))
    job.once(job.reported(number), gate.set)


def test_late_work_is_in_a_later_update():
    with ring(spec_of(STRATEGIES["diloco"], rounds=14), first_deadline_ms=300, grace_ms=200, joining_ms=200) as job:
        slow_round(job, 1, 5)
        sent: dict[int, dict[int, np.ndarray]] = {}
        made: dict[int, np.ndarray] = {}
        owed: list[np.ndarray] = []

        def note(seat: Seat) -> Callable[[dict[int, bytes]], dict[int, bytes]]:
            def keep(results: dict[int, bytes]) -> dict[int, bytes]:
                pending = seat.training.member._pending
                if pending is None:  # its round is over here already
                    return results
                number, state = pending.order.round, seat.training.member.state
                sent.setdefault(number, {})[seat.slot] = pending.vectors[0].copy()
                if seat.slot == 1:
                    made[number] = state["parameters"] - seat.child.theta
                    if "residual" in state and number > 5 and not owed:
                        owed.append(state["residual"].copy())
                return results

            return keep

        for seat in job.seats.values():
            for number in range(1, 15):
                seat.spoil[number] = note(seat)
        assert is_done(job.run())
        job.check()
        assert (1, 5, "training") in job.fired
        assert job.door.rounds[4]["late"] == [1]
        assert job.lost() == []
        back = next(number for number in range(6, 15) if 1 in job.contributors()[number - 1])
        assert np.linalg.norm(owed[0]) > 0
        np.testing.assert_allclose(sent[back][1] - made[back], owed[0], rtol=1e-3, atol=1e-5)


def test_who_is_late_for_a_round_that_comes_to_nothing_is_waited_for():
    spec = spec_of(STRATEGIES["diloco"], rounds=12)
    with ring(spec, first_deadline_ms=300, grace_ms=2_000, joining_ms=200) as job:
        gate = threading.Event()
        job.at(2, 6, "training", hold(gate))
        job.once(lambda: bool(job.course._rounds.late), lambda: (job.kill(0), job.kill(1), gate.set()))
        for slot in (0, 1):
            job.at(slot, 6, "exchange", hold(gate))
        assert is_done(job.run())
        assert not job.bugs
        assert sorted(job.lost()) == [(0, "worker_killed"), (1, "worker_killed")]
        assert job.contributors()[-1] == [2]


def test_who_is_late_three_times_in_a_row_is_lost():
    with ring(spec_of(STRATEGIES["diloco"], rounds=14), first_deadline_ms=300, grace_ms=200, joining_ms=200) as job:
        for number in range(4, 14):
            slow_round(job, 1, number)
        assert is_done(job.run())
        job.check()
        late = [report["round"] for report in job.door.rounds if 1 in report["late"]]
        assert len(late) >= 2
        assert job.lost() == [(1, "worker_slow")]


@pytest.mark.parametrize("name", ["ddp", "demo"])
def test_a_round_of_steps_that_adapts_keeps_its_members_in_step(name):
    with ring(spec_of(strategy_of(name, adapt="steps") | {"inner_steps": 10}, rounds=4, members=2)) as job:
        job.seats[1].step_s = 0.002
        assert is_done(job.run())
        job.check()
        assert job.lost() == []
        shares = [[row["steps"] for row in report["members"]] for report in job.door.rounds]
        assert set(map(len, map(set, shares))) == {1}
        assert shares[-1] == [7, 7, 7]


# the run itself


@pytest.mark.parametrize(("name", "moment"), PLACES)
def test_a_run_that_is_replaced_in_mid_round_is_gone_on_with_and_no_round_is_lost_or_doubled(name, moment):
    with ring(spec_of(STRATEGIES[name], rounds=6, every=2)) as job:
        gate = threading.Event()
        job.at(1, 3, moment, hold(gate))
        job.once(job.is_fired(1, 3, moment), lambda: (gate.set(), job.replace_course()))
        assert is_done(job.run())
        assert job.fired == [(1, 3, moment)]
        job.check(agree=name in AGREEING)
        assert job.lost() == []
        assert job.numbers() == [1, 2, 3, 4, 5, 6]


def test_a_worker_in_the_middle_of_a_round_of_steps_does_not_say_that_it_holds_the_round():
    told = []

    def ask(seat: Seat) -> None:
        real = seat.training.member.step_result

        def step_result() -> np.ndarray:
            told.append(seat.worker.state())
            del seat.training.member.step_result
            return real()

        seat.training.member.step_result = step_result

    with ring(spec_of(STRATEGIES["ddp"], rounds=4)) as job:
        job.at(1, 3, "training", ask)
        assert is_done(job.run())
        job.check()
        assert [(one["round"], one["step"], one["digest"]) for one in told] == [(2, 6, job.door.rounds[1]["digest"])]


@pytest.mark.parametrize("moment", ["exchange", "exchanged"])
@pytest.mark.parametrize("name", ["diloco", "ddp", "demo"])
def test_a_run_and_a_worker_die_together(name, moment):
    with ring(spec_of(STRATEGIES[name], rounds=6)) as job:
        gate = threading.Event()

        def both(seat: Seat) -> None:
            gate.wait(20)
            die(seat)

        job.at(1, 3, moment, both)
        job.once(
            job.is_fired(1, 3, moment),
            lambda: (setattr(job.transport, "closed", True), gate.set(), job.kill(1), job.replace_course()),
        )
        assert is_done(job.run())
        job.check(agree=name in AGREEING)
        assert job.numbers() == [1, 2, 3, 4, 5, 6]


def test_retuning_meets_a_joiner_and_a_late_worker():
    with ring(spec_of(STRATEGIES["diloco"], rounds=40), first_deadline_ms=300, grace_ms=200) as job:
        slow_round(job, 1, 5)
        job.once(
            job.is_fired(1, 5, "training"),
            lambda: (job.join(3), job.retune(strategy_of("sparseloco"))),
        )
        assert is_done(job.run())
        job.check()
        assert job.lost() == []
        assert job.contributors()[-1] == [0, 1, 2, 3]


@pytest.mark.parametrize("after", ["ddp", "diloco"])
def test_any_strategy_may_follow_gossip(after):
    with ring(spec_of(STRATEGIES["noloco"], rounds=8)) as job:
        steps = STRATEGIES[after]["inner_steps"] // STRATEGIES[after].get("fragments", 1)
        assert steps == 3
        job.once(job.reported(3), lambda: job.retune(STRATEGIES[after]))
        assert is_done(job.run())
        job.check()
        assert job.lost() == []
        assert job.numbers() == list(range(1, 9))


# everything at once


def soak(seed: int) -> None:
    """One job with random faults; what must hold whatever happens."""
    drawn = random.Random(seed)
    name = drawn.choice(list(STRATEGIES))
    with ring(spec_of(STRATEGIES[name], rounds=8, every=drawn.choice([1, 3])), slots=(0, 1, 2, 3)) as job:
        joined = 3
        for _ in range(drawn.randrange(1, 4)):
            slot, number = drawn.randrange(4), drawn.randrange(1, 8)
            job.at(slot, number, drawn.choice(MOMENTS), die)
        for number in sorted(drawn.sample(range(1, 7), drawn.randrange(0, 3))):
            joined += 1
            job.once(job.reported(number), partial(job.join, joined))
        if drawn.random() < 0.4:
            job.once(job.reported(drawn.randrange(1, 7)), job.replace_course)
        if drawn.random() < 0.3:
            liar = job.seats[drawn.randrange(4)]
            liar.forge[drawn.randrange(1, 8)] = lambda payload: random.Random(seed).randbytes(len(payload))
        job.once(lambda: not job.living(), partial(job.join, 9))
        assert is_done(job.run()), (seed, name)
        job.check(agree=name in AGREEING)
        assert job.door.rounds[-1]["step"] == job.spec["steps"], (seed, name)


@pytest.mark.parametrize("seed", range(12))
def test_random_faults_at_random_moments(seed):
    soak(seed)
