"""A whole job in this process in a moment: real course, workers, members and meshes over sockets; children without torch.

`Ring` is the market, Ray and the machines of one job. Faults are scripts: at a place (a slot, a round, a moment of it) a
hook runs in the thread of the worker that comes there; `fired` tells which did.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from trainers import rounds as machine
from trainers.actors import course as courses
from trainers.actors import durability, meeting
from trainers.actors import roster as known
from trainers.actors import worker as workers
from trainers.actors.course import Course, Halt
from trainers.actors.keeper import Keeper
from trainers.actors.outbox import Outbox
from trainers.actors.plans import plan_of
from trainers.actors.run import Run
from trainers.actors.transport import CallFailed, Gone
from trainers.child_process import ChildFailed, Loaded, NotFiniteNumbers, Trained
from trainers.codecs import Vector
from trainers.layout import elements_of, layout_of
from trainers.mesh import mesh as meshes
from trainers.options import strategy_options

Json = dict[str, Any]
Place = tuple[int, int, str]
"""(slot, round, moment): "loading", "training", "exchange" (before), "exchanged" (after its result, not yet told),
"fetching" (a state), "answering" (a merge)."""
Hook = Callable[["Seat"], None]

LAYOUT = layout_of([("a", (60, 80)), ("b", (80,)), ("c", (50, 70)), ("d", (1400,))])
ELEMENTS = elements_of(LAYOUT)
RATE = 0.05
PATIENCE_S = 30.0
CALL_S = 20.0
STRATEGIES = {
    name: strategy_options({"name": name, "inner_steps": 12 if name == "streaming_diloco" else 3})
    for name in ("ddp", "local_sgd", "fedavg", "diloco", "streaming_diloco", "noloco", "demo", "distro", "sparseloco")
}  # fmt: skip
BY_STEP = ("ddp", "demo", "distro")
BY_ROUND = tuple(name for name in STRATEGIES if name not in BY_STEP)
TARGET = np.linspace(-1, 1, ELEMENTS, dtype=np.float32)


def strategy_of(name: str, **options: object) -> Json:
    """Whole options, with a short round."""
    return strategy_options({"name": name, "inner_steps": STRATEGIES[name]["inner_steps"], **options})


def spec_of(strategy: Json, *, rounds: int = 10, members: int = 3, every: int = 1, steps: int | None = None) -> Json:
    """A normalised job."""
    a_round = strategy["inner_steps"] // strategy.get("fragments", 1)
    return {
        "workload": {"kind": "builtin", "name": "none"}, "data": {"kind": "blob"}, "seed": 1, "rounds": rounds,
        "steps": steps or rounds * a_round, "workers": {"min": members}, "strategy": strategy,
        "checkpoint": {"every_rounds": every, "keep": 2, "base_every_rounds": 3}, "evaluate": {"every_rounds": 1000},
    }  # fmt: skip


class Killed(BaseException):
    """This thread's machine is no more."""


class Closed(Exception):
    """This thread's run is over."""


class _Roster(known.Roster):
    def _watch(self) -> None:
        with contextlib.suppress(Closed):
            super()._watch()


class Child:
    """Takes the place of a `TrainerChild`: what it trains depends on its parameters, the batch and nothing else."""

    pid = 0

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self.theta = np.zeros(ELEMENTS, dtype=np.float32)
        self.moments = np.zeros(8, dtype=np.float32)
        self.metrics: dict[str, float] = {}

    def load(self, package: object, timeout_s: float) -> Loaded:
        self._seat.come("loading", 0)
        return Loaded(LAYOUT, np.zeros(ELEMENTS, dtype=np.float32))

    def train(
        self, parameters: Vector | None, *, round: int, first_step: int, steps: int, position: int = 0, worker: int,
        evaluate: bool, timeout_s: float, synchronise: Any = None, applies: str = "parameters",
    ) -> Trained:  # fmt: skip
        seat, began = self._seat, time.monotonic()
        seat.trained.append((round, first_step, position, steps, parameters is None))
        if parameters is not None:
            self.theta = parameters.copy()
        for index in range(steps):
            self._come(round)
            if seat.step_s:
                time.sleep(seat.step_s)
            pull = np.float32(((position + index) * 7919 % 101) / 101 - 0.5)
            gradient = (self.theta - TARGET * (1 + pull)).astype(np.float32)
            if seat.diverges.get(round) == index:
                raise NotFiniteNumbers(f"the loss is nan at step {first_step + index}")
            if synchronise is None:
                self.theta = self.theta - np.float32(RATE) * gradient
                continue
            answer = synchronise(first_step + index, RATE, gradient)
            self.theta = self.theta - np.float32(RATE) * answer if applies == "gradient" else answer.copy()
            self.moments = self.moments + answer[:8]
        loss = float(np.square(self.theta - TARGET).mean())
        ms = int(1000 * (time.monotonic() - began))
        return Trained(self.theta.copy(), loss, (loss,) * steps, 64 * steps, ms, None)

    def _come(self, round: int) -> None:
        try:
            self._seat.come("training", round)
        except Killed:
            if threading.current_thread().name == "ahead":  # it ends with the process, and tells nobody
                raise ChildFailed("died", "killed") from None
            raise

    def mix(self, values: Vector, ranges: Sequence[tuple[int, int]], keep: float, timeout_s: float = 60.0) -> None:
        theta = self.theta.copy()
        for offset, size in ranges:
            part = slice(offset, offset + size)
            theta[part] = np.float32(keep) * theta[part] + np.float32(1 - keep) * values[part]
        self.theta = theta

    def evaluate(self, parameters: Vector, timeout_s: float = 600.0) -> float:
        self._seat.evaluated += 1
        return float(np.square(parameters - TARGET).mean())

    def export_inner(self, timeout_s: float = 120.0) -> bytes:
        return self.moments.tobytes()

    def import_inner(self, exported: bytes, timeout_s: float = 120.0) -> None:
        self.moments = np.frombuffer(exported, dtype=np.float32).copy()

    def read_log(self) -> list[str]:
        return []

    def kill(self) -> None:
        pass


class _Warm:
    """Takes the place of a `WarmChild`: it is warm."""

    error = ""

    def __init__(self, **_: Any) -> None:
        self.now: Any = None

    def wait(self) -> Any:
        return self.now

    def ready_for(self, spec: Json) -> Any:
        return self.now

    def kill(self) -> None:
        pass


class _Worker(workers.Worker):
    def _watch_orphan(self) -> None:
        """A test ends before that."""


class _Links:
    """Links of which some are cut: what is sent there goes nowhere."""

    def __init__(self, real: Any, seat: Seat) -> None:
        self._real, self._seat = real, seat

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send(self, peer: Any, frame: Any) -> None:
        if peer.slot not in self._seat.cut_from:
            self._real.send(peer, frame)


class _Mesh(meshes.Mesh):
    """A mesh that comes by the hooks, and sends and takes what `forge` and `spoil` make of payloads."""

    def __init__(self, *, slot: int, **arguments: Any) -> None:
        super().__init__(slot=slot, **arguments)
        self.seat = _current[0].seats[slot]
        self._links = _Links(self._links, self.seat)

    def _run(self, pattern: Any, step: int, outgoing: Any, *rest: Any) -> dict[int, bytes]:
        assert self.view is not None
        number, seat = self.seat.member.tentative_round, self.seat
        seat.come("exchange", number)

        def forged(view: Any) -> Mapping[int, bytes]:
            payloads = outgoing(view)
            forge = seat.forge.get(number)
            return payloads if forge is None else {slot: forge(payload) for slot, payload in payloads.items()}

        found: dict[int, bytes] = super()._run(pattern, step, forged, *rest)
        seat.come("exchanged", number)
        spoil = seat.spoil.pop(number, None)
        return found if spoil is None else spoil(dict(found))

    def fetch_state(self, round: int, donors: Sequence[Any], timeout_s: float) -> bytes:
        self.seat.come("fetching", round // 2 + 1)  # see training._place
        return super().fetch_state(round, donors, timeout_s)


@dataclass
class Seat:
    """One lease and its worker."""

    ring: Ring
    slot: int
    epoch: int
    worker: Any = None
    child: Any = None
    dead: str | None = None
    thawed: threading.Event = field(default_factory=threading.Event)
    step_s: float = 0.0
    trained: list[tuple[int, int, int, int, bool]] = field(default_factory=list)
    evaluated: int = 0
    cut_from: set[int] = field(default_factory=set)
    forge: dict[int, Callable[[bytes], bytes]] = field(default_factory=dict)
    spoil: dict[int, Callable[[dict[int, bytes]], dict[int, bytes]]] = field(default_factory=dict)
    diverges: dict[int, int] = field(default_factory=dict)
    """In which step of a round its numbers are not finite."""

    @property
    def name(self) -> str:
        return f"worker-{self.slot}"

    @property
    def member(self) -> Any:
        return _Standing(self.worker._training.member)

    @property
    def training(self) -> Any:
        return self.worker._training

    def come(self, moment: str, round: int) -> None:
        """This worker's thread is there now."""
        if self.dead is not None:
            raise Killed
        self.thawed.wait(CALL_S)
        hooks = self.ring.hooks.pop((self.slot, round, moment), [])
        for hook in hooks:
            self.ring.fired.append((self.slot, round, moment))
            hook(self)
        if self.dead is not None:
            raise Killed


class _Standing:
    def __init__(self, member: Any) -> None:
        self.tentative_round: int = member.round + 1


# what hooks do


def die(seat: Seat) -> None:
    """The process is gone, as by SIGKILL."""
    seat.ring.kill(seat.slot)


def hold(event: threading.Event) -> Hook:
    """Work on once that has happened."""

    def wait_for(seat: Seat) -> None:
        event.wait(CALL_S)

    return wait_for


def freeze(seat: Seat) -> None:
    """As by SIGSTOP: this thread, and no call is answered."""
    seat.thawed.clear()
    seat.thawed.wait(CALL_S)


class Transport:
    """Ray: calls run in threads; a dead worker's end as Gone, those of a frozen one not at all."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._waiting: dict[int, list[Future[Any]]] = {}
        self.closed = False
        self.lost_calls: dict[str, int] = {}

    def find(self, name: str) -> Seat | None:
        return next((seat for seat in self._ring.seats.values() if seat.name == name and seat.dead is None), None)

    def has_met(self, node: str) -> bool:
        return True

    def ask(self, seat: Seat, method: str, *arguments: Any) -> Future[Any]:
        call: Future[Any] = Future()
        if seat.dead is not None:
            call.set_result(Gone("worker_killed", seat.dead))
            return call
        self._waiting.setdefault(seat.slot, []).append(call)
        opened = [one.result(CALL_S) if isinstance(one, Future) else one for one in arguments]
        threading.Thread(target=self._run, args=(call, seat, method, opened), daemon=True).start()
        return call

    def answers(self, calls: Mapping[Any, Future[Any]], timeout_s: float) -> dict[Any, Any]:
        if self.closed:
            raise Closed
        wait(calls.values(), timeout_s, FIRST_COMPLETED)
        return {key: call.result() for key, call in calls.items() if call.done()}

    def parcel(self, content: bytes) -> bytes:
        return content

    def open(self, parcel: Any, timeout_s: float) -> Any:
        return parcel.result(timeout_s) if isinstance(parcel, Future) else parcel

    def died(self, seat: Seat) -> None:
        for call in self._waiting.pop(seat.slot, []):
            _answer(call, Gone("worker_killed", "killed"))

    def _run(self, call: Future[Any], seat: Seat, method: str, arguments: list[Any]) -> None:
        if method == "merge":
            arguments = [{**arguments[0], "timeout_s": min(CALL_S, arguments[0]["timeout_s"])}]
        try:
            seat.thawed.wait(CALL_S)
            answer = getattr(seat.worker, method)(*arguments)
            if method == "merge":
                seat.come("answering", arguments[0]["round"])
            seat.thawed.wait(CALL_S)
            if seat.dead is not None:
                return
        except Killed:
            return
        except Exception as error:  # noqa: BLE001 - as Ray answers it
            if seat.dead is not None:
                return
            self._ring.bugs.append((seat.slot, method, error))
            answer = CallFailed(f"{type(error).__name__}: {error}")
        change = self._ring.lies.get((seat.slot, method))
        _answer(call, change(answer) if change is not None and isinstance(answer, dict) else answer)


def _answer(call: Future[Any], answer: Any) -> None:
    with contextlib.suppress(Exception):  # it has one
        call.set_result(answer)


class Door:
    """The market of one job."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.rounds: list[Json] = []
        self.lost: list[Json] = []
        self.logs: list[str] = []
        self.checkpoints: list[Json] = []
        self.changed = threading.Condition()

    def upload(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def read_blob(self, digest: str) -> bytes:
        return self.blobs[digest]

    def report_round(self, report: Mapping[str, Any]) -> Json:
        with self.changed:
            self.rounds.append(dict(report))
            self.changed.notify_all()
        return {}

    def report_checkpoint(self, report: Mapping[str, Any]) -> Json:
        self.checkpoints.append(dict(report))
        return {}

    def report_readings(self, job: str, *, lost: Any, logs: Any, **_: Any) -> Json:
        self.lost += lost
        self.logs += [one["line"] for one in logs]
        return {}


class _Line:
    """A run's way to the market, until its process is gone."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._open = True

    def cut(self) -> None:
        with self._door.changed:
            self._open = False

    def upload(self, content: bytes) -> str:
        return self._door.upload(content)

    def read_blob(self, digest: str) -> bytes:
        return self._door.read_blob(digest)

    def __getattr__(self, name: str) -> Any:
        report = getattr(self._door, name)

        def tell(*arguments: Any, **named: Any) -> Json:
            with self._door.changed:
                told: Json = report(*arguments, **named) if self._open else {}
                return told

        return tell


_current: list[Ring] = []


@contextlib.contextmanager
def ring(spec: Json, slots: Sequence[int] = (0, 1, 2), **patience: Any) -> Iterator[Ring]:
    """The machines of a job; `Ring.run` drives it."""
    with (
        mock.patch.object(workers, "WarmChild", _Warm),
        mock.patch.object(workers, "exit_with", return_value=None),
        mock.patch.object(meeting, "Mesh", _Mesh),
        mock.patch.object(meeting, "COMPLAIN_AFTER_S", patience.pop("complain_after_s", 0.15)),
        mock.patch.object(courses, "LOOK_S", 0.02),
        mock.patch.object(durability, "LOOK_S", 0.02),
    ):
        made = Ring(spec, slots, **patience)
        _current[:] = [made]
        try:
            yield made
        finally:
            made.close()
            _current.clear()


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
        seat.worker = _Worker(
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
            f"rounds {[one['round'] for one in self.door.rounds]}, lost {self.lost()}, bugs {self.bugs}, "
            f"{machine_.phase}, members {machine_.members}, contributed {machine_._contributed}, "
            f"merged {sorted(machine_._merged)}, fired {self.fired}"
        )

    # what came of it

    def lost(self) -> list[tuple[int, str]]:
        """(slot, the market's reason)."""
        return [(one["epoch"] - 100, one["reason"]) for one in self.door.lost]

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
        self._line = _Line(self.door)
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
