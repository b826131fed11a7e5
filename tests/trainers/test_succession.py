"""What a worker owes the others is somebody's as long as the job lasts, and nobody's twice."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from storage.checkpoints import Manifest
from tests.trainers.ring import Ring, ring
from tests.trainers.ring_jobs import is_done, spec_of, strategy_of
from tests.trainers.ring_machines import Seat, die, hold
from tests.trainers.test_going_back import dispute
from trainers.actors.roster import Worker
from trainers.actors.succession import Succession
from trainers.member import Member
from trainers.rounds import START, Lost, RoundCommitted, Standing, Warned

Owned = dict[str, np.ndarray]
OWING = [strategy_of("sparseloco"), strategy_of("diloco", error_feedback=True), strategy_of("demo")]
owing = pytest.mark.parametrize("strategy", OWING, ids=lambda strategy: strategy["name"])


def owned_by(member: Member) -> Owned:
    """The vectors that belong to this member alone and are not zero."""
    shared = {*member.strategy.shared, "parameters", "gradient"}
    return {name: vector for name, vector in member.state.items() if name not in shared and vector.any()}


def newest(job: Ring) -> Manifest:
    """The durable checkpoint."""
    assert job.keeper.manifest is not None
    return Manifest.decode(job.door.blobs[job.keeper.manifest])


def made(job: Ring) -> Owned:
    """What belonged to the maker of its base."""
    return owned_by(Member.restore(job.door.blobs[newest(job).state], own=True))


def assert_same(some: Owned, others: Owned) -> None:
    assert set(some) == set(others)
    for name, vector in some.items():
        np.testing.assert_array_equal(vector, others[name])


def lose_all(job: Ring, number: int) -> None:
    """All die in that round, once what they did before it is durable: as a base, where the job wants bases of every round."""
    gate, idle = threading.Event(), threading.Event()
    job.at(0, number - 1, "training", hold(idle))  # while a checkpoint is on its way the next one is a delta
    job.once(lambda: job.course.round == number - 2 and not job.keeper.busy, idle.set)
    for slot in job.seats:
        job.at(slot, number, "training", hold(gate))

    def there() -> bool:
        held = all((slot, number, "training") in job.fired for slot in job.seats)
        return held and job.course._rounds.durable_at.round > 0 and not job.keeper.busy

    job.once(there, lambda: ([job.kill(slot) for slot in list(job.seats)], gate.set()))


def spec_with(strategy: dict, base_every_rounds: int = 1, every: int = 1, members: int = 3) -> dict:
    spec = spec_of(strategy, rounds=8, every=every, members=members)
    spec["checkpoint"]["base_every_rounds"] = base_every_rounds
    return spec


class Newcomers:
    """After all are lost slot 3 begins alone at the checkpoint and dies; then slots 4 and 5 begin there together."""

    def __init__(self, job: Ring) -> None:
        self.owned: dict[int, Owned] = {}
        self._job = job
        job.once(lambda: not job.living(), self._come)

    def _come(self) -> None:
        job, gate, number = self._job, threading.Event(), self._job.keeper.durable_round + 1
        for slot in (3, 4, 5):
            job.at(slot, number, "training", self._note)
        job.at(3, number, "training", lambda seat: (gate.wait(20), die(seat)))
        job.join(3)
        job.once(job.is_fired(3, number, "training"), lambda: (job.join(4), job.join(5)))
        job.once(lambda: {4, 5} <= set(job.course._rounds.members), gate.set)

    def _note(self, seat: Seat) -> None:
        self.owned[seat.slot] = owned_by(seat.training.member)


@owing
def test_when_all_are_lost_one_newcomer_owes_what_the_maker_of_the_checkpoint_owed(strategy: dict) -> None:
    with ring(spec_with(strategy)) as job:
        lose_all(job, 5)
        owed: list[Owned] = []
        job.once(lambda: not job.living(), lambda: owed.append(made(job)))
        came = Newcomers(job)
        assert is_done(job.run())
        assert not job.bugs
        assert len(owed[0]) > 0, "there was something to forget"
        assert_same(came.owned[3], owed[0])
        assert_same(came.owned[4], owed[0])
        assert came.owned[5] == {}


def test_what_was_owed_at_a_base_is_stale_after_a_delta() -> None:
    with ring(spec_with(OWING[1], base_every_rounds=100)) as job:
        lose_all(job, 5)
        found: list[tuple[str, Owned]] = []
        job.once(lambda: not job.living(), lambda: found.append((newest(job).kind, made(job))))
        came = Newcomers(job)
        assert is_done(job.run())
        assert not job.bugs
        [(kind, owed)] = found
        assert kind == "delta"
        assert len(owed) > 0
        assert came.owned == {3: {}, 4: {}, 5: {}}


@owing
def test_a_rewind_brings_back_ones_own_debts_and_nobody_elses(strategy: dict) -> None:
    with ring(spec_with(strategy, every=3, members=2), slots=(0, 1)) as job:
        dispute(job, (1,), 6)
        owned: dict[int, list[Owned]] = {0: [], 1: []}
        owed: list[Owned] = []

        def note(answer: dict, seat: Seat) -> dict:
            owned[seat.slot].append(owned_by(seat.training.member))
            owed.append(made(job))
            return answer

        job.lies[0, "recall"] = lambda answer: note(answer, job.seats[0])
        job.lies[1, "recall"] = lambda answer: note(answer, job.seats[1])
        job.lies[1, "restore"] = lambda answer: note(answer, job.seats[1])
        assert is_done(job.run())
        assert not job.bugs
        [recalled], [before, restored] = owned[0], owned[1]
        assert_same(recalled, owed[0])
        assert_same(restored, before)
        assert len(before) > 0


# who it is


def worker(slot: int, at: Standing = START) -> Worker:
    return Worker(f"lease-{slot}", 100 + slot, slot, "p", f"worker-{slot}", None, at=at)


def committed(**there: tuple[int, ...]) -> RoundCommitted:
    """A round with these slots in its fields."""
    warned = tuple(Warned(slot, "nan", "") for slot in there.get("warned", ()))
    lost = tuple(Lost(slot, 100 + slot, "", "") for slot in there.get("lost", ()))
    slots = {name: there.get(name, ()) for name in ("contributors", "holders", "late")}
    return RoundCommitted(1, 3, 9, "0" * 64, 1, lost=lost, warned=warned, attempts=1, why="", **slots)


def test_it_is_the_lowest_of_those_who_begin_and_nobody_else_while_it_lives() -> None:
    succession, three = Succession(), [worker(slot) for slot in (3, 4, 5)]
    assert succession.heir(three, [4, 5]) == 4, "slot 3 is not in the round"
    assert succession.heir(three, [3, 5]) == 4, "it has them, in the round or not"
    assert succession.heir([three[0], three[2]], [3, 5]) == 3, "with slot 4 they went"
    succession.committed(committed(holders=(3, 5), contributors=(3, 5)))
    assert succession.heir([three[2], worker(6)], [5, 6]) is None, "slot 5 owes work of its own"
    assert succession.heir([worker(6), worker(7)], [6, 7]) == 6, "all are gone again"


@pytest.mark.parametrize("there", ["contributors", "holders", "late", "warned"])
def test_it_is_nobody_while_one_lives_who_was_there_when_a_round_was_committed(there: str) -> None:
    succession = Succession()
    succession.committed(committed(**{there: (1,), "lost": (2,)}))
    assert succession.heir([worker(1), worker(3)], [3]) is None
    assert succession.heir([worker(3)], [3]) == 3


def test_it_is_nobody_while_a_predecessors_worker_lives() -> None:
    assert Succession().heir([worker(1, Standing(4, 12, 36)), worker(3)], [3]) is None
