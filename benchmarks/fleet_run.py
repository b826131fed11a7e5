"""One job on a fleet: the real course, roster, keeper and outbox drive real workers; the market is a list in memory.

`run_job` gives a `Record`: every committed round with the time it was reported, losses, evaluations, bytes of each
worker's interface, and what a script of failures did.
"""

from __future__ import annotations

import hashlib
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from benchmarks.failures import ALL, ANY, Failure
from benchmarks.fleet import Fleet, FleetTransport, Remote
from trainers import rounds as machine
from trainers.actors import roster
from trainers.actors.course import Course, Halt
from trainers.actors.keeper import Keeper
from trainers.actors.outbox import Outbox
from trainers.actors.plans import plan_of
from trainers.actors.wiring import DoorRefused

READING_EVERY_S = 0.25
LOST_AFTER_S = 3.0
FIRST_DEADLINE_MS = 600_000
MAX_UNEXPECTED = 3

Json = dict[str, Any]


@dataclass(slots=True)
class Lease:
    """One worker's lease. Times are monotonic seconds. `ready_s`: it can take part from the next boundary on;
    `warm`: its child had imported torch when it was leased; `first_commit_s`: the commit of its first merged contribution; `hit_s`: when a script did something to it.
    """

    slot: int
    epoch: int
    remote: Remote
    leased_s: float
    warm: bool
    ready_s: float | None = None
    first_commit_s: float | None = None
    ended_s: float | None = None
    hit_s: float | None = None
    lost: str | None = None


@dataclass(frozen=True, slots=True)
class Happened:
    """A failure as it was carried out: the script's, on that slot, at that monotonic second."""

    kind: str
    slot: int
    at_s: float


@dataclass(slots=True)
class Record:
    """What a run was. `rounds`: the reports with `at_s`; `wire`, `cpu_s`: at each report {slot: (sent, received)} and {slot: processor seconds}."""

    began_s: float = 0.0
    ended_s: float = 0.0
    halt: Halt | None = None
    rounds: list[Json] = field(default_factory=list)
    evaluated: dict[int, float] = field(default_factory=dict)
    readings: dict[int, Json] = field(default_factory=dict)
    checkpoints: list[Json] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)


class MemoryDoor:
    """A `Door` that writes everything down and answers yes."""

    def __init__(self, record: Record, fleet: Fleet) -> None:
        self.record = record
        self.losses: list[Json] = []
        self._fleet = fleet
        self._blobs: dict[str, bytes] = {}

    def runs(self, *, wait_s: float, seen: str | int | None) -> Json:
        """Unused: there is one run."""
        raise NotImplementedError

    def directive(self, job: str, *, wait_s: float, seen: str | int | None) -> Json:
        """Unused: the driver of this module decides who works."""
        raise NotImplementedError

    def read_blob(self, digest: str) -> bytes:
        """What was uploaded."""
        if digest not in self._blobs:
            raise DoorRefused("not_found", f"no blob {digest}")
        return self._blobs[digest]

    def upload(self, content: bytes) -> str:
        """Keep it; its SHA-256."""
        digest = hashlib.sha256(content).hexdigest()
        self._blobs[digest] = content
        return digest

    def report_round(self, report: Mapping[str, Any]) -> Json:
        """Note the time, everybody's wire and processor time."""
        by_slot = {lease.slot: lease for lease in self.record.leases}
        living = {slot: lease.remote.number for slot, lease in by_slot.items() if lease.ended_s is None}
        wire = {slot: self._fleet.wire(number) for slot, number in living.items()}
        cpu_s = {slot: self._fleet.cpu_s(number) for slot, number in living.items()}
        at_s = time.monotonic()
        self.record.rounds.append({**report, "at_s": at_s, "wire": wire, "cpu_s": cpu_s})
        for member in report["members"]:
            lease = by_slot[member["slot"]]
            lease.first_commit_s = lease.first_commit_s or at_s
        return {}

    def report_readings(
        self, job: str, *, run_pid: int, readings: Sequence[Mapping[str, Any]], evaluated: Sequence[Mapping[str, Any]],
        lost: Sequence[Mapping[str, Any]], logs: Sequence[Mapping[str, Any]],
    ) -> Json:  # fmt: skip
        """Note them; `losses` are for the driver."""
        self.record.readings.update({one["epoch"]: dict(one) for one in readings})
        self.record.evaluated.update({one["round"]: one["loss"] for one in evaluated})
        self.record.logs += [one["line"] for one in logs]
        self.losses += [dict(one) for one in lost]
        return {}

    def report_checkpoint(self, report: Mapping[str, Any]) -> Json:
        """Note it and forget what it makes superfluous."""
        self.record.checkpoints.append(dict(report))
        for digest in report["removed"]:
            self._blobs.pop(digest, None)
        return {}

    def report_halted(self, job: str, **_: Any) -> Json:
        """Unused: the driver sees the course halt."""
        raise NotImplementedError


class Driver:
    """Drives one job's course to its end. `spares`: warm workers kept ready to take the place of lost ones."""

    def __init__(
        self, fleet: Fleet, spec: Json, data: bytes, *, workers: int, spares: int, seed: int, grace_ms: int
    ) -> None:
        def plan(asked: Json) -> machine.RoundPlan:
            return plan_of(asked, first_deadline_ms=FIRST_DEADLINE_MS, grace_ms=grace_ms)

        self.record = Record()
        self._fleet = fleet
        self._spec = spec
        self._random = random.Random(seed)
        self._wanted = workers
        self._unexpected = 0
        self._waiting: dict[int, Future[Any]] = {}
        for _ in range(workers + spares):
            self._warm_one()
        self._transport = FleetTransport(fleet)
        self._door = MemoryDoor(self.record, fleet)
        self._outbox = Outbox("job", 0, self._door)
        self._roster = roster.Roster(self._transport, self._outbox, every_s=READING_EVERY_S, lost_after_s=LOST_AFTER_S)
        self._keeper = Keeper(
            job="job", spec=spec, door=self._door, transport=self._transport, outbox=self._outbox,
            wall_ms=lambda: time.time_ns() // 1_000_000,
        )  # fmt: skip
        self._course = Course(
            job="job", spec=spec, source=None, data=data, secret=secrets.token_bytes(32), transport=self._transport,
            outbox=self._outbox, roster=self._roster, keeper=self._keeper, rounds=machine.Rounds(plan(spec)), plan=plan,
        )  # fmt: skip

    def drive(self, failures: Sequence[Failure], timeout_s: float, pause_after_s: float | None = None) -> Record:
        """Until the job is done or paused, or TimeoutError with what the workers said."""
        record, left = self.record, list(failures)
        self._fleet.wait_ready(self._fleet.remotes.values())
        began = time.monotonic()
        self._course.resume([])
        for _ in range(self._wanted):
            self._hire(replacing=False)
        while record.halt is None:
            record.halt = self._course.advance()
            now = time.monotonic()
            if now - began > timeout_s:
                said = "\n".join(self._fleet.said(lease.remote) for lease in record.leases)
                raise TimeoutError(f"not done within {timeout_s:.0f} s, {len(record.rounds)} rounds\n{said}")
            if record.rounds and not record.began_s:
                record.began_s = record.rounds[0]["at_s"] - record.rounds[0]["duration_ms"] / 1000
            while left and record.began_s and now >= record.began_s + left[0].at_s:
                self._carry_out(left.pop(0))
            if pause_after_s is not None and record.began_s and now >= record.began_s + pause_after_s:
                self._course.pause("the time is up")
                pause_after_s = None
            self._replace_lost()
            self._note_ready()
        self._roster.last_readings()
        assert self._outbox.wait_empty(60)
        record.ended_s = record.rounds[-1]["at_s"]
        for lease in record.leases:
            lease.ended_s = lease.ended_s or record.ended_s
        return record

    def _hire(self, *, replacing: bool) -> None:
        slot = len(self.record.leases)
        number = next((one for one, ready in self._waiting.items() if ready.done()), None)
        warm = number is not None
        if number is None:
            number = next(iter(self._waiting), None)
        if number is None:
            number = self._warm_one()
        del self._waiting[number]
        if replacing:
            self._warm_one()
        remote = self._fleet.remotes[number]
        lease = Lease(slot, slot + 1, remote, time.monotonic(), warm)
        self.record.leases.append(lease)
        named = {"id": f"lease-{slot}", "epoch": slot + 1, "slot": slot, "job": "job", "share": None, "gpus": 1}
        self._transport.ask(remote, "assign", {**named, "devices": []})
        self._course.welcome(roster.Worker(
            lease=named["id"], epoch=slot + 1, slot=slot, provider=remote.name, name=remote.name, handle=remote
        ))  # fmt: skip

    def _warm_one(self) -> int:
        """One more worker that waits for a lease; its number."""
        remote = self._fleet.start()
        self._waiting[remote.number] = self._fleet.ask(remote, "ready")
        return remote.number

    def _replace_lost(self) -> None:
        while self._door.losses:
            loss = self._door.losses.pop(0)
            lease = self.record.leases[loss["epoch"] - 1]
            lease.ended_s, lease.lost = time.monotonic(), loss["reason"]
            self._unexpected += all(one.slot != lease.slot for one in self.record.happened)
            if self._unexpected > MAX_UNEXPECTED:
                raise RuntimeError(f"workers are lost that nothing was done to: {loss}")
            self._fleet.kill(lease.remote.number)
            self._hire(replacing=True)

    def _note_ready(self) -> None:
        for lease in self.record.leases:
            worker = self._roster.get(lease.slot) if lease.ready_s is None else None
            if worker is not None and worker.phase == "ready":
                lease.ready_s = time.monotonic()

    def _carry_out(self, failure: Failure) -> None:
        living = [lease for lease in self.record.leases if lease.ended_s is None]
        chosen = living if failure.who == ALL else [lease for lease in living if lease.slot == failure.who]
        if failure.who == ANY and failure.kind == "thaw":
            frozen = [one.slot for one in self.record.happened if one.kind == "freeze"]
            chosen = [lease for lease in living if lease.slot in frozen[-1:]]
        elif failure.who == ANY:
            trained = [lease for lease in living if lease.ready_s is not None]
            chosen = [self._random.choice(trained)] if trained else []
        for lease in chosen:
            getattr(self._fleet, failure.kind)(lease.remote.number)
            at_s = time.monotonic()
            lease.hit_s = lease.hit_s or at_s
            self.record.happened.append(Happened(failure.kind, lease.slot, at_s))
