"""Who missed rounds makes them again from what they merged; who joins takes the state over while the others train on."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.trainers.ring import ring
from tests.trainers.ring_jobs import BY_ROUND, ELEMENTS, LAYOUT, STRATEGIES, is_done, spec_of, strategy_of
from tests.trainers.ring_machines import hold
from trainers.actors import donors
from trainers.actors.donors import catch_up
from trainers.contributions import Bundle
from trainers.member import Member, RoundOrder
from trainers.mesh.state_transfer import Offers
from trainers.mesh.views import Peer, TransferFailed
from trainers.rounds import Standing

REPLAYED = tuple(name for name in BY_ROUND if name != "noloco")
SLOTS = (0, 1, 2)
IMPATIENT = {"first_deadline_ms": 300, "grace_ms": 1000, "joining_ms": 1000}


class Kept:
    """A mesh whose donors give what these rounds merged, and nothing else."""

    def __init__(self, bundles: list[Bundle]) -> None:
        self._bundles = {bundle.round: bundle.pack() for bundle in bundles}

    def fetch_round(self, round: int, donors: list[Peer], patience_s: float) -> bytes:
        if round not in self._bundles:
            raise TransferFailed({0: f"has no record of round {round}"})
        return self._bundles[round]


def members_of(name: str, **options: object) -> list[Member]:
    spec = spec_of(strategy_of(name, **options))
    return [Member(spec, LAYOUT, np.zeros(ELEMENTS, dtype=np.float32), slot=slot) for slot in SLOTS]


def play(members: list[Member], number: int, absent: tuple[int, ...] = (), seed: int = 1) -> None:
    """One round of those who are there."""
    there = [member for member in members if member.slot not in absent]
    order = RoundOrder(number, 3 * (number - 1), 3 * number, 9 * number, SLOTS)
    for member in there:
        drawn = np.random.default_rng([seed, number, member.slot]).normal(size=ELEMENTS).astype(np.float32)
        member.contribute(member.parameters - drawn, order)
    sent = {member.slot: member.payload() for member in there}
    for member in there:
        member.merge(sent)
        member.commit()


@pytest.mark.parametrize("name", REPLAYED)
def test_missed_rounds_lead_to_the_same_bits_and_what_is_owed_stays(name: str) -> None:
    members = members_of(name)
    for number in (1, 2):
        play(members, number)
    late, ahead, bundles = members[2], members[0], []
    late.defer(late.parameters - 1, RoundOrder(3, 6, 9, 27, SLOTS))
    owed = late.state["residual"]
    for number in (3, 4, 5):
        play(members, number, absent=(2,))
        bundles.append(ahead.bundle)
    assert catch_up(Kept(bundles), late, 5, ahead.digest(), [])
    assert (late.round, late.step, late.position, late.accepted) == (5, 15, 45, (0, 1))
    shared = ahead.strategy.shared
    assert {name: late.state[name].tobytes() for name in shared} == {
        name: ahead.state[name].tobytes() for name in shared
    }
    np.testing.assert_array_equal(late.state["residual"], owed)
    play(members, 6)
    assert len({member.digest() for member in members}) == 1


@pytest.mark.parametrize("wrong", ["one is missing", "one is damaged", "they were undone", "too many were missed"])
def test_rounds_that_do_not_lead_there_change_nothing(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    members, undone = members_of("diloco"), members_of("diloco")
    play(members, 1)
    play(undone, 1)
    bundles = []
    for number in (2, 3):
        play(members, number, absent=(2,))
        play(undone, number, absent=(2,), seed=2)
        bundles.append((undone if wrong == "they were undone" else members)[0].bundle)
    if wrong == "one is missing":
        bundles.pop(0)
    if wrong == "too many were missed":
        monkeypatch.setattr(donors, "MOST_MISSED_ROUNDS", 1)
    mesh, late = Kept(bundles), members[2]
    if wrong == "one is damaged":
        mesh._bundles[3] = mesh._bundles[3][:-1]
    before = late.export(own=True)
    assert not catch_up(mesh, late, 3, members[0].digest(), [])
    assert late.export(own=True) == before


def test_steps_and_gossip_are_not_made_again() -> None:
    for name in ("ddp", "noloco"):
        assert not catch_up(Kept([]), members_of(name)[0], 1, "0" * 64, [])


def slow_round(job, slot: int, number: int) -> None:
    """That share is not done before the round was committed without it; the others end the next one once it is back."""
    gate, back = threading.Event(), threading.Event()
    job.at(slot, number, "training", hold(gate))
    job.once(job.reported(number), gate.set)
    for other in SLOTS:
        if other != slot:
            job.at(other, number + 1, "training", hold(back))
    job.once(lambda: gate.is_set() and slot not in job.course._rounds.late, back.set)


@pytest.mark.parametrize("name", ["diloco", "streaming_diloco", "sparseloco"])
def test_a_late_worker_comes_back_without_fetching_a_state(name: str) -> None:
    with ring(spec_of(STRATEGIES[name], rounds=9), **IMPATIENT) as job:
        slow_round(job, 1, 5)
        assert is_done(job.run())
        job.check()
        assert 1 in job.door.rounds[4]["late"]
        assert job.seats[1].fetched == [("round", 5), ("round", 6)]
        assert [1 in slots for slots in job.contributors()[4:7]] == [False, False, True]


def test_a_worker_that_missed_more_than_donors_keep_fetches_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Offers.put_round
    monkeypatch.setattr(Offers, "put_round", lambda self, *offered: put(self, *offered[:-1], limit_bytes=0))
    with ring(spec_of(STRATEGIES["diloco"], rounds=9), **IMPATIENT) as job:
        slow_round(job, 1, 5)
        assert is_done(job.run())
        job.check()
        assert job.seats[1].fetched == [("state", 6)]
        assert 1 in job.contributors()[6]


def test_a_newcomer_takes_the_state_over_while_the_others_train_and_then_what_they_did_meanwhile() -> None:
    with ring(spec_of(STRATEGIES["diloco"], rounds=8)) as job:
        gate = threading.Event()
        for slot in SLOTS:
            job.at(slot, 4, "training", hold(gate))
        job.once(job.reported(3), lambda: job.join(3))
        ready = lambda: 3 in job.course._rounds.members  # noqa: E731
        job.once(ready, gate.set)
        assert is_done(job.run())
        job.check()
        assert job.seats[3].fetched == [("state", 3), ("round", 4)]
        assert job.contributors()[3] == [0, 1, 2]
        assert job.contributors()[4] == [0, 1, 2, 3]


def test_a_newcomer_whose_donor_dies_while_it_prepares_joins_all_the_same() -> None:
    with ring(spec_of(STRATEGIES["diloco"], rounds=30, members=2), slots=(0, 1)) as job:
        gate = threading.Event()
        for slot in (0, 1):
            job.at(slot, 4, "training", hold(gate))
        job.at(3, 4, "fetching", lambda seat: (job.kill(0), gate.set()))
        job.once(job.reported(3), lambda: job.join(3))
        assert is_done(job.run())
        job.check()
        assert (3, 4, "fetching") in job.fired
        assert job.lost() == [(0, "worker_killed")]
        assert job.contributors()[-1] == [1, 3]


def test_when_all_others_die_a_newcomer_that_has_prepared_goes_on_from_their_state() -> None:
    with ring(spec_of(STRATEGIES["diloco"], rounds=6, members=2, every=100), slots=(0, 1)) as job:
        gate = threading.Event()
        for slot in (0, 1):
            job.at(slot, 4, "training", hold(gate))
        job.once(job.reported(3), lambda: job.join(3))
        job.once(
            lambda: 3 in job.course._rounds.members,
            lambda: (job.kill(0), job.kill(1), gate.set()),
        )
        assert is_done(job.run())
        job.check()
        assert job.numbers() == [1, 2, 3, 4, 5, 6]
        assert job.contributors()[3:] == [[3]] * 3
        assert job.course._rounds.at == Standing(6, job.spec["steps"], job.course._rounds.at.position)
