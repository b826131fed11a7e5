"""Who goes back to a checkpoint goes back to all of it: the inner optimiser's state too, wherever it comes from."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from tests.trainers.ring import Ring, ring
from tests.trainers.ring_jobs import STRATEGIES, is_done, spec_of
from tests.trainers.ring_machines import CALL_S, Seat, hold

Results = dict[int, bytes]


def dispute(job: Ring, slots: tuple[int, ...], number: int, *, under_way: bool = False) -> None:
    """These merge something else in that round, each in its own way; not before a checkpoint is there and none on its way.

    `under_way`: though one is.
    """
    gate = threading.Event()
    job.at(slots[0], number, "training", hold(gate))
    job.once(lambda: job.course._rounds.durable_at.round > 0 and (under_way or not job.keeper.busy), gate.set)

    def flip(back: int) -> Callable[[Results], Results]:
        def flipped(results: Results) -> Results:
            key, changed = min(results), bytearray(results[min(results)])
            changed[-1 - back] ^= 0x80  # the sign, where values are floats
            return {**results, key: bytes(changed)}

        return flipped

    for at, slot in enumerate(slots):
        job.seats[slot].spoil[number] = flip(4 * at)


class Returns:
    """Who went back: `in_ram` to a state of its own, `moments` of every one's inner state afterwards."""

    def __init__(self, job: Ring) -> None:
        self.in_ram: dict[int, bool] = {}
        self.moments: dict[int, np.ndarray] = {}
        for slot in job.seats:
            job.lies[slot, "recall"] = lambda answer, slot=slot: self._recalled(job.seats[slot], answer)
            job.lies[slot, "restore"] = lambda answer, slot=slot: self._stands(job.seats[slot], answer)

    def _recalled(self, seat: Seat, answer: dict) -> dict:
        self.in_ram[seat.slot] = answer["found"]
        return self._stands(seat, answer) if answer["found"] else answer

    def _stands(self, seat: Seat, answer: dict) -> dict:
        self.moments[seat.slot] = seat.child.moments.copy()
        return answer


def check_digests(job: Ring) -> None:
    """All stand at the last round, with one digest."""
    assert not job.bugs
    digests = {seat.training.standing()["digest"] for seat in job.living()}
    assert digests == {job.door.rounds[-1]["digest"]}


def check_agreed(job: Ring) -> None:
    """All stand at the last round, with one digest and one inner state."""
    check_digests(job)
    assert len({seat.child.moments.tobytes() for seat in job.living()}) == 1


@pytest.mark.parametrize("lost", [False, True], ids=["whole", "without its inner state"])
@pytest.mark.parametrize("slots", [(0, 1), (0, 1, 2)])
def test_whether_out_of_ones_ram_or_out_of_the_store(slots: tuple[int, ...], lost: bool) -> None:
    with ring(spec_of(STRATEGIES["ddp"], rounds=8, members=len(slots)), slots=slots) as job:
        dispute(job, slots[1:], 4)
        back = Returns(job)
        if lost:
            job.keeper.inner = lambda digest: None  # type: ignore[method-assign]
        assert is_done(job.run()), "else they disagreed again and again"
        assert job.lost() == []
        # An inner state was handed out for its checkpoint, and is in the store alone.
        assert back.in_ram == {slot: lost and slot == 0 for slot in slots}
        assert len({moments.tobytes() for moments in back.moments.values()}) == 1
        assert back.moments[0].any() != lost
        check_agreed(job)


def test_a_strategy_whose_job_keeps_an_inner_state_goes_back_to_it_too() -> None:
    spec = spec_of(STRATEGIES["diloco"], rounds=8, members=2)
    spec["checkpoint"]["inner_state"] = True
    with ring(spec, slots=(0, 1)) as job:
        dispute(job, (1,), 5)
        back = Returns(job)
        assert is_done(job.run())
        assert back.in_ram == {0: False, 1: False}, "its inner state was handed out, and is in the store alone"
        np.testing.assert_array_equal(back.moments[0], back.moments[1])
        assert back.moments[0].any()
        assert not job.bugs


def held_back(job: Ring) -> Callable[[], int]:
    """What follows the first checkpoint stays on its way, until that is called: the durable round once it is there."""
    arrives, upload = threading.Event(), job.door.upload

    def held(content: bytes) -> str:
        if job.keeper.durable_round == 1:
            arrives.wait(CALL_S)
        return upload(content)

    def arrive() -> int:
        arrives.set()
        assert job.keeper.wait(CALL_S)
        return job.keeper.durable_round

    job.door.upload = held  # type: ignore[method-assign]
    return arrive


@pytest.mark.parametrize("moment", ["before they are given the state", "as it is decided how far to go back"])
def test_a_checkpoint_that_arrives_then_takes_nobody_to_another_round_than_the_others(moment: str) -> None:
    spec = spec_of(STRATEGIES["diloco"], rounds=8, members=2)
    spec["checkpoint"]["inner_state"] = True
    with ring(spec, slots=(0, 1)) as job:
        dispute(job, (1,), 5, under_way=True)
        arrive, undo, stood = held_back(job), job.keeper.undo, []
        if moment.startswith("before"):
            job.lies[1, "recall"] = lambda answer: (stood.append(arrive()), answer)[1]
        else:
            job.keeper.undo = lambda: (stood.append(arrive()), undo())[1]  # type: ignore[method-assign]
        assert is_done(job.run())
        assert job.lost() == []
        check_digests(job)
        back = stood[0]
        assert (back == 1) == moment.startswith("before"), "what is on its way then is given up"
        assert job.numbers() == [1, 2, 3, 4, *range(back + 1, 9)]


@pytest.mark.parametrize("wanted", ["to pause", "longer rounds"])
def test_what_is_wanted_of_a_job_is_not_forgotten_when_it_starts_over(wanted: str) -> None:
    with ring(spec_of(STRATEGIES["diloco"], rounds=8, members=2), slots=(0, 1)) as job:
        dispute(job, (1,), 5, under_way=True)
        arrive, undo, stood = held_back(job), job.keeper.undo, []

        def want() -> None:
            stood.append(arrive())
            job.keeper.undo = undo  # type: ignore[method-assign]
            undo()
            if wanted == "to pause":
                job.course.pause("the customer wants it")
            else:
                job.retune({**STRATEGIES["diloco"], "inner_steps": 12})

        job.keeper.undo = want  # type: ignore[method-assign]
        halt, back = job.run(), stood[0]
        if wanted == "to pause":
            assert (halt.state, job.numbers()) == ("paused", [1, 2, 3, 4])
            assert job.keeper.durable_round == back
        else:
            assert is_done(halt)
            assert [job.door.rounds[4][name] for name in ("round", "step")] == [back + 1, 3 * back + 12]


def test_nobody_begins_behind_a_checkpoint_that_arrives_as_the_last_who_held_its_round_die() -> None:
    with ring(spec_of(STRATEGIES["ddp"], rounds=6, members=2), slots=(0, 1)) as job:
        dead, on_its_way, upload, undo = threading.Event(), threading.Event(), job.door.upload, job.keeper.undo

        def held(content: bytes) -> str:
            on_its_way.wait(CALL_S)
            return upload(content)

        def arrive() -> None:
            on_its_way.set()
            assert job.keeper.wait(CALL_S)
            undo()

        def die_together() -> None:
            job.kill(0)
            job.kill(1)
            dead.set()

        job.door.upload, job.keeper.undo = held, arrive  # type: ignore[method-assign]
        job.at(0, 2, "training", hold(dead))
        job.once(job.reported(1), lambda: job.join(2))
        job.once(lambda: 2 in job.course._rounds.members, die_together)
        assert is_done(job.run())
        assert sorted(slot for slot, _ in job.lost()) == [0, 1]
        check_digests(job)
        assert job.numbers() == [1, 2, 3, 4, 5, 6], "round 1 was made again, whose checkpoint is there"


def test_a_joiner_begins_again_from_the_same_nothing_as_those_who_were_there_from_the_start() -> None:
    spec = spec_of(STRATEGIES["ddp"], rounds=10, members=2)
    spec["checkpoint"]["inner_state"] = False
    with ring(spec, slots=(0, 1)) as job:
        returns: list[Returns] = []

        def joined() -> bool:
            return [0, 1, 3] in job.contributors()

        job.once(job.reported(2), lambda: job.join(3))
        job.once(joined, lambda: (dispute(job, (1, 3), len(job.numbers()) + 2), returns.append(Returns(job))))
        gate = threading.Event()
        job.at(0, 8, "training", hold(gate))
        job.once(lambda: bool(returns), gate.set)
        assert is_done(job.run()), "else they disagreed again and again"
        [back] = returns
        assert set(back.moments) == {0, 1, 3}
        assert not any(moments.any() for moments in back.moments.values())
        check_agreed(job)


def test_when_the_run_is_replaced_in_the_round_after_that_it_begins_again_with_the_checkpoints_inner_state() -> None:
    with ring(spec_of(STRATEGIES["ddp"], rounds=9, members=2, every=3), slots=(0, 1)) as job:
        dispute(job, (1,), 6)
        back, gate, begun = Returns(job), threading.Event(), []

        def stop_in_the_second_step() -> None:
            place = (0, job.course._rounds.round + 1, "exchanged")
            job.at(*place, lambda seat: job.at(*place, hold(gate)))
            job.once(lambda: job.fired.count(place) == 2, replace)

        def replace() -> None:
            for seat in job.seats.values():
                note_imports(seat, begun)
            job.replace_course()
            gate.set()

        job.once(lambda: bool(back.in_ram), stop_in_the_second_step)
        assert is_done(job.run())
        assert job.lost() == []
        assert job.numbers().count(5) == 2, "rounds that came after the checkpoint are made again"
        assert len(begun) == 2
        assert {moments.tobytes() for moments in back.moments.values()} == set(begun)
        assert back.moments[0].any()
        check_agreed(job)


def note_imports(seat: Seat, imports: list[bytes]) -> None:
    """Every inner state that its child is given from now on."""
    real = seat.child.import_inner

    def import_inner(exported: bytes) -> None:
        imports.append(exported)
        real(exported)

    seat.child.import_inner = import_inner


def test_members_that_a_new_run_sends_back_give_their_state_to_one_that_has_another():
    with ring(spec_of(STRATEGIES["ddp"], rounds=6, every=2)) as job:
        gate = threading.Event()
        job.at(1, 3, "exchanged", hold(gate))
        job.lies[1, "state"] = lambda told: {**told, "digest": "0" * 64}
        job.once(job.is_fired(1, 3, "exchanged"), lambda: (job.replace_course(), gate.set()))
        assert is_done(job.run())
        job.check()
        assert job.lost() == []
        assert job.seats[1].fetched == [("state", 2)]
        assert [row["slot"] for row in job.door.rounds[2]["members"]] == [0, 1, 2]
