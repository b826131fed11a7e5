"""Whole jobs in which the numbers of one worker, or of all, are not finite."""

from __future__ import annotations

import threading

import pytest

from tests.trainers.ring import ring
from tests.trainers.ring_jobs import STRATEGIES, is_done, spec_of, strategy_of
from tests.trainers.ring_machines import Seat, die
from trainers.codecs import BadPayload

AGREEING = tuple(name for name in STRATEGIES if name != "noloco")
MOMENTS = ("training", "exchange", "exchanged", "answering")


@pytest.mark.parametrize("name", STRATEGIES)
def test_who_diverges_once_is_warned_and_goes_on_from_what_the_others_made(name):
    with ring(spec_of(STRATEGIES[name], rounds=6)) as job:
        job.seats[1].diverges = {3: 0 if name == "streaming_diloco" else 2}
        assert is_done(job.run())
        job.check(agree=name in AGREEING)
        assert job.lost() == []
        assert [(one["slot"], "the loss is nan at step" in one["reason"]) for one in job.warned(3)] == [(1, True)]
        assert job.contributors() == [[0, 1, 2]] * 2 + [[0, 2]] + [[0, 1, 2]] * 3
        assert not any(job.warned(number) for number in (1, 2, 4, 5, 6))


@pytest.mark.parametrize("name", ["ddp", "demo", "distro"])
def test_a_gradient_that_is_not_finite_is_sent_to_nobody_and_named_with_its_step(name):
    with ring(spec_of(STRATEGIES[name], rounds=5)) as job:
        job.seats[1].spoilt_gradient = {3: 2}
        assert is_done(job.run())
        job.check()
        assert job.lost() == []
        [warned] = job.warned(3)
        assert (warned["slot"], "the gradients of step" in warned["reason"]) == (1, True)
        assert job.contributors() == [[0, 1, 2]] * 2 + [[0, 2]] + [[0, 1, 2]] * 2


def test_who_diverges_while_it_trains_ahead_is_warned_in_the_round_that_this_belongs_to():
    with ring(spec_of(strategy_of("streaming_diloco", overlap_steps=2), rounds=6)) as job:
        job.seats[1].diverges = {3: 1}
        assert is_done(job.run())
        job.check()
        assert job.lost() == []
        assert [one["slot"] for one in job.warned(4)] == [1]
        assert job.contributors() == [[0, 1, 2]] * 3 + [[0, 2]] + [[0, 1, 2]] * 2


@pytest.mark.parametrize("name", ["diloco", "ddp", "streaming_diloco"])
def test_who_diverges_twice_loses_its_place_to_a_newcomer(name):
    with ring(spec_of(STRATEGIES[name], rounds=30)) as job:
        job.seats[1].diverges = {2: 0, 4: 0}
        job.once(lambda: bool(job.lost()), lambda: job.join(3))
        assert is_done(job.run())
        job.check()
        assert job.lost() == [(1, "bad_contribution")]
        assert "not finite" in job.door.lost[0]["detail"]
        assert "for the second time" in job.door.lost[0]["detail"]
        assert job.contributors()[-1] == [0, 2, 3]


@pytest.mark.parametrize("name", ["diloco", "demo"])
def test_when_all_diverge_the_job_has(name):
    with ring(spec_of(STRATEGIES[name], rounds=8)) as job:
        for seat in job.seats.values():
            seat.diverges = {2: 0, 5: 1} if seat.slot == 1 else {5: 1}
        halt = job.run()
        assert (halt.state, halt.reason) == ("failed", "nan")
        assert all(f"slot {slot}: the loss is nan at step" in halt.detail for slot in (0, 1, 2))
        assert "learning rate" in halt.detail
        assert "train.clip" in halt.detail
        assert job.lost() == [], "no provider bears it, not even who was warned before"
        assert job.numbers() == [1, 2, 3, 4]


def test_when_the_only_one_diverges_the_job_has():
    with ring(spec_of(STRATEGIES["diloco"], rounds=4, members=1), slots=(0,)) as job:
        job.seats[0].diverges = {2: 0}
        halt = job.run()
        assert (halt.state, halt.reason) == ("failed", "nan")


@pytest.mark.parametrize("name", ["diloco", "ddp"])
def test_one_diverges_and_the_others_die_so_that_the_round_is_tried_again(name):
    with ring(spec_of(STRATEGIES[name], rounds=4)) as job:
        gate = threading.Event()
        job.seats[1].diverges = {2: 0}
        for slot in (0, 2):
            job.at(slot, 2, "training", lambda seat: (gate.wait(20), die(seat)))

        def heal() -> None:
            job.seats[1].diverges = {}
            gate.set()

        job.once(lambda: 1 in job.course._rounds._spoiled, heal)
        assert is_done(job.run())
        assert sorted(job.lost()) == [(0, "worker_killed"), (2, "worker_killed")]


def test_a_contribution_that_cannot_be_encoded_is_its_makers_own():
    with ring(spec_of(strategy_of("diloco", topology="gather"), rounds=5)) as job:

        def break_encoding(seat: Seat) -> None:
            member = seat.training.member

            def payload() -> bytes:
                del member.payload
                raise BadPayload("not all elements are finite")

            member.payload = payload

        job.at(1, 3, "training", break_encoding)
        assert is_done(job.run())
        job.check()
        assert job.lost() == []
        assert [one["slot"] for one in job.warned(3)] == [1]
        assert job.contributors() == [[0, 1, 2]] * 2 + [[0, 2]] + [[0, 1, 2]] * 2
