"""A whole job in this process in a moment: real course, workers, members and meshes over sockets; children without torch.

`Ring` is the market, Ray and the machines of one job. Faults are scripts: at a place (a slot, a round, a moment of it) a
hook runs in the thread of the worker that comes there; `fired` tells which did.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from tests.trainers.ring_machines import CURRENT, Child, Hook, HookedMesh, Place, Seat, SteadyWorker, WarmChild
from tests.trainers.ring_market import Closed, Door, Line, Transport
from trainers import rounds as machine
from trainers.actors import checkpoint_maker, durability, meeting
from trainers.actors import course as courses
from trainers.actors import roster as known
from trainers.actors import worker as workers
from trainers.actors.course import Course, Halt
from trainers.actors.keeper import Keeper
from trainers.actors.outbox import Outbox
from trainers.actors.plans import plan_of
from trainers.actors.run import Run

Json = dict[str, Any]

PATIENCE_S = 30.0


class _Roster(known.Roster):
    def _watch(self) -> None:
        with contextlib.suppress(Closed):
            super()._watch()


@contextlib.contextmanager
def ring(spec: Json, slots: Sequence[int] = (0, 1, 2), **patience: Any) -> Iterator[Ring]:
    """The machines of a job; `Ring.run` drives it."""
    with (
        mock.patch.object(workers, "WarmChild", WarmChild),
        mock.patch.object(workers, "exit_with", return_value=None),
        mock.patch.object(meeting, "Mesh", HookedMesh),
        mock.patch.object(meeting, "COMPLAIN_AFTER_S", patience.pop("complain_after_s", 1.0)),
        mock.patch.object(courses, "LOOK_S", 0.02),
        mock.patch.object(durability, "LOOK_S", 0.02),
        mock.patch.object(checkpoint_maker, "LOOK_S", 0.02),
    ):
        made = Ring(spec, slots, **patience)
        CURRENT[:] = [made]
        try:
            yield made
        finally:
            made.close()
            CURRENT.clear()


class Ring:
    """See the module. `patience`: lost_after_s, first_deadline_ms, grace_ms, exchange_ms, give_up_s."""

    def __init__(
        self, spec: Json, slots: Sequence[int], *, lost_after_s: float = 30.0, first_deadline_ms: int = 30_000,
        grace_ms: int = 30_000, exchange_ms: int = 10_000, joining_ms: int = 10_000,
    ) -> None:  # fmt: skip
        self.spec, self.door, self.transport = spec, Door(), Transport(self)
        self._patience = {"first_deadline_ms": first_deadline_ms, "grace_ms": grace_ms}
        self._lost_after_s, self._exchange_ms, self._joining_ms = lost_after_s, exchange_ms, joining_ms
        self.seats: dict[int, Seat] = {}
        self.hooks: dict[Place, list[Hook]] = {}
        self.fired: list[Place] = []
        self.bugs: list[tuple[int, str, Exception]] = []
        self.lies: dict[tuple[int, str], Callable[[Json], Json]] = {}
        self.events: list[tuple[Callable[[], bool], Callable[[], None]]] = []
        self.courses = 0
        self.tuning = 0
        self._first = tuple(slots)
        for slot in slots:
            self.seat(slot)
        self.outbox, self.keeper, self.course = self._begin()
        self.rounds: machine.Rounds

    # scripts

    def seat(self, slot: int) -> Seat:
        """A new lease with its warm worker."""
        seat = Seat(self, slot, 100 + slot)
        seat.thawed.set()
        seat.worker = SteadyWorker(
            name=seat.name, host_pid=os.getpid(), scratch=str(Path("/nonexistent") / seat.name), threads_per_unit=1,
            devices=[], memory_limit_bytes=1 << 30, shares={}, isolation="process", orphan_after_s=600.0,
        )  # fmt: skip
        seat.child = seat.worker._child.now = Child(seat)
        lease = {"id": f"lease-{slot}", "epoch": seat.epoch, "slot": slot, "job": "job", "share": None, "gpus": 1}
        seat.worker.assign(lease)
        self.seats[slot] = seat
        return seat

    def at(self, slot: int, round: int, moment: str, hook: Hook) -> Ring:
        """Run the hook when that worker comes to that place for the first time from now on."""
        self.hooks.setdefault((slot, round, moment), []).append(hook)
        return self

    def once(self, happened: Callable[[], bool], then: Callable[[], None]) -> Ring:
        """In the run's thread, between its turns."""
        self.events.append((happened, then))
        return self

    def reported(self, number: int) -> Callable[[], bool]:
        """Whether the market has heard of that round."""
        return lambda: len(self.door.rounds) >= number

    def is_fired(self, *place: Any) -> Callable[[], bool]:
        """Whether that hook ran."""
        return lambda: place in self.fired

    def join(self, slot: int) -> None:
        """A replacement or one more comes."""
        seat = self.seat(slot)
        self.course.welcome(self._known(seat))

    def kill(self, slot: int) -> None:
        """SIGKILL."""
        seat = self.seats[slot]
        if seat.dead is not None:
            return
        seat.dead = "killed"
        seat.thawed.set()
        if seat.training is not None:
            seat.training.close()
        self.transport.died(seat)

    def replace_course(self) -> None:
        """The run's process dies; another one finds out where the job stands and goes on."""
        self.transport.closed = True
        self._line.cut()
        self.transport = Transport(self)
        self.outbox, self.keeper, self.course = self._begin(heir=True)

    def retune(self, strategy: Json) -> None:
        """Another strategy from the next round on."""
        self.tuning += 1
        self.spec = {**self.spec, "strategy": strategy}
        self.course.retune(self.spec, self.tuning)

    # driving

    def run(self) -> Halt:
        """Until the job halts, everything is told and nobody is alive."""
        if self.courses == 1:
            self.course.resume([])
            for slot in self._first:
                self.course.welcome(self._known(self.seats[slot]))
        give_up_at = time.monotonic() + PATIENCE_S
        while (halt := self.course.advance()) is None:
            assert time.monotonic() < give_up_at, f"the run has not halted; {self.told()}"
            for happened, then in [one for one in self.events if one[0]()]:
                self.events.remove((happened, then))
                then()
        assert self.outbox.wait_empty(PATIENCE_S)
        return halt

    def close(self) -> None:
        """End everything."""
        self.transport.closed = True
        for slot in self.seats:
            self.kill(slot)

    def told(self) -> str:
        """Where it stands, for a failed assertion."""
        machine_ = self.course._rounds
        return (
            f"rounds {[one['round'] for one in self.door.rounds]}, lost {self.lost()}, "
            f"because {[one['detail'] for one in self.door.lost]}, bugs {self.bugs}, "
            f"{machine_.phase}, members {machine_.members}, contributed {machine_._contributed}, "
            f"merged {sorted(machine_._merged)}, fired {self.fired}"
        )

    # what came of it

    def lost(self) -> list[tuple[int, str]]:
        """(slot, the market's reason)."""
        return [(one["epoch"] - 100, one["reason"]) for one in self.door.lost]

    def numbers(self) -> list[int]:
        """The reported rounds."""
        return [report["round"] for report in self.door.rounds]

    def warned(self, number: int) -> list[Json]:
        """Whom that round's record names, and why."""
        found: list[Json] = self.door.rounds[number - 1].get("warned", [])
        return found

    def living(self) -> list[Seat]:
        """Seats whose worker was not killed."""
        return [seat for seat in self.seats.values() if seat.dead is None]

    def contributors(self) -> list[list[int]]:
        """Slots in each reported round."""
        return [[one["slot"] for one in report["members"]] for report in self.door.rounds]

    def check(self, *, agree: bool = True) -> None:
        """What must be true of every job: rounds without gaps, no bugs, one digest, no batch given out twice."""
        assert not self.bugs, self.bugs
        numbers = [report["round"] for report in self.door.rounds]
        assert numbers == list(range(1, len(numbers) + 1)), numbers
        given: dict[int, tuple[int, int]] = {}
        for report in self.door.rounds:
            for row in report["members"]:
                for position in self._batches(row["slot"], report["round"], row["steps"]):
                    assert given.setdefault(position, (row["slot"], report["round"])) == (row["slot"], report["round"])
        last = self.door.rounds[-1]
        held = [seat for seat in self.living() if seat.training and seat.training.standing()["round"] == last["round"]]
        held = [seat for seat in held if seat.slot not in [slot for slot, _ in self.lost()]]
        if agree:
            assert {seat.training.standing()["digest"] for seat in held} <= {last["digest"]}

    def _batches(self, slot: int, round: int, steps: int) -> range:
        """What that share of a committed round was trained on, those trained ahead not counted."""
        mine = [one for one in self.seats[slot].trained if one[0] == round]
        _, _, position, count, _ = [one for one in mine if one[3] == steps][-1]
        return range(position, position + count)

    # inside

    def _known(self, seat: Seat) -> known.Worker:
        return known.Worker(f"lease-{seat.slot}", seat.epoch, seat.slot, f"p{seat.slot}", seat.name, seat)

    def _plan(self, spec: Json) -> machine.RoundPlan:
        plan = plan_of(spec, **self._patience)
        return replace(plan, exchange_deadline_ms=self._exchange_ms, joining_grace_ms=self._joining_ms)

    def _begin(self, heir: bool = False) -> tuple[Outbox, Keeper, Course]:
        self.courses += 1
        self._line = Line(self.door)
        door: Any = self._line
        outbox = Outbox("job", os.getpid(), door)
        keeper = Keeper(
            job="job", spec=self.spec, door=door, transport=self.transport, outbox=outbox, wall_ms=lambda: 1
        )
        living: list[known.Worker] = []
        at = durable = machine.START
        if heir:
            if self.door.checkpoints:
                newest = self.door.checkpoints[-1]
                keeper.resume({"round": newest["round"], "manifest": newest["manifest"]})
            run: Any = object.__new__(Run)
            run._transport, run._job = self.transport, "job"
            told = {one["epoch"] for one in self.door.lost}
            leases = [
                {"id": f"lease-{seat.slot}", "epoch": seat.epoch, "slot": seat.slot, "provider": f"p{seat.slot}",
                 "worker": seat.name}
                for seat in self.seats.values() if seat.epoch not in told
            ]  # fmt: skip
            committed = len(self.door.rounds)
            living, recent, liars = run._find_living({"leases": leases, "rounds_committed": committed})
            at, durable = run._find_place(keeper, living, committed)
            run._tell_missed(outbox, {"rounds_committed": len(self.door.rounds)}, recent, at.round)
            assert outbox.wait_empty(PATIENCE_S)
        roster = _Roster(self.transport, outbox, every_s=0.03, lost_after_s=self._lost_after_s)
        course = Course(
            job="job", spec=self.spec, source=None, data=None, transport=self.transport, outbox=outbox, roster=roster,
            keeper=keeper, rounds=machine.Rounds(self._plan(self.spec), at=at, durable=durable), plan=self._plan,
            secret=bytes([self.courses]) * 32, tuning=self.tuning,
        )  # fmt: skip
        if heir:
            for worker, why in liars:
                course.give_up(worker, "stale", why)
            course.resume(living)
            met = {worker.slot for worker in living} | {worker.slot for worker, _ in liars}
            for seat in self.living():
                if seat.slot not in met and seat.epoch not in told:
                    course.welcome(self._known(seat))
        return outbox, keeper, course
