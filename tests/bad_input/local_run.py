"""A run without Ray: the real course, keeper and outbox, a real worker with its real child, called in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from market.actors.door import HomeDoor
from tests.api.square import FakeRun, Square
from trainers import rounds as machine
from trainers.actors import roster
from trainers.actors.course import Course, Halt
from trainers.actors.keeper import Keeper
from trainers.actors.outbox import Outbox
from trainers.actors.plans import plan_of
from trainers.actors.transport import CallFailed, Gone
from trainers.actors.worker import Worker

MEMORY_LIMIT_BYTES = 256 << 20
Json = dict[str, Any]


class LocalTransport:
    """A `Transport` whose workers are objects of this process; a parcel is the future of its bytes."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(8)

    def find(self, name: str) -> Any | None:
        return None

    def has_met(self, node: str) -> bool:
        return True

    def ask(self, worker: Any, method: str, *arguments: Any) -> Future[Any]:
        return self.pool.submit(lambda: getattr(worker, method)(*map(_opened, arguments)))

    def answers(self, calls: Mapping[Any, Future[Any]], timeout_s: float) -> dict[Any, Any]:
        done = wait(calls.values(), max(0.0, timeout_s), "FIRST_COMPLETED").done
        return {key: _answer(call) for key, call in calls.items() if call in done}

    def parcel(self, content: bytes) -> bytes:
        return content

    def made(self, parcel: Any, timeout_s: float) -> bool:
        return not isinstance(parcel, Future) or bool(wait([parcel], timeout_s).done)

    def open(self, parcel: Any, timeout_s: float) -> bytes | Gone:
        content = _opened(parcel)
        assert isinstance(content, bytes)
        return content


def _opened(argument: Any) -> Any:
    return argument.result() if isinstance(argument, Future) else argument


def _answer(call: Future[Any]) -> Any:
    error = call.exception()
    return call.result() if error is None else CallFailed(repr(error))


@contextmanager
def warm_worker(scratch: Path) -> Iterator[Worker]:
    """A worker as a provider makes it, with a child that has imported torch."""
    worker = Worker(
        name="worker-x", host_pid=os.getpid(), scratch=str(scratch), threads_per_unit=1, devices=[], shares={},
        isolation="process", memory_limit_bytes=MEMORY_LIMIT_BYTES, orphan_after_s=1e9,
    )  # fmt: skip
    try:
        assert worker.ready()["error"] is None
        yield worker
    finally:
        worker.stop()


def run_job(square: Square, job: str, worker: Worker, between: Callable[[int], None] = lambda done: None) -> Halt:
    """Drive the job's only worker until it halts, and tell the market how. `between` is called after each round."""
    door, transport = HomeDoor(square.url, str(square.home.root)), LocalTransport()
    [lease] = FakeRun(square.local("plane"), job).workers(1)
    directive = door.directive(job, wait_s=0, seen=None)
    spec = directive["spec"]
    outbox = Outbox(job, os.getpid(), door)
    keeper = Keeper(job=job, spec=spec, door=door, transport=transport, outbox=outbox, wall_ms=lambda: 1)

    def plan(asked: Json) -> machine.RoundPlan:
        return plan_of(asked, first_deadline_ms=3_000, grace_ms=1_000)

    members = roster.Roster(transport, outbox, every_s=0.1, lost_after_s=60)
    digest = spec["workload"].get("digest")
    source = None if digest is None else door.read_blob(digest)
    course = Course(job=job, spec=spec, source=source, data=None, transport=transport, outbox=outbox, roster=members,
                    keeper=keeper, rounds=machine.Rounds(plan(spec)), plan=plan, secret=bytes(32))  # fmt: skip
    worker.assign({**lease, "job": job, "share": None})
    names = {name: lease[name] for name in ("epoch", "slot", "provider")}
    course.resume([])
    course.welcome(roster.Worker(lease=lease["id"], name=worker.name, handle=worker, **names))
    done = 0
    while (halt := course.advance()) is None:
        if course.round > done:
            done = course.round
            between(done)
    members.last_readings()
    members.remove(lease["slot"])
    end = {"state": halt.state, "reason": halt.reason, "detail": halt.detail[-4000:], "round": keeper.durable_round,
           "manifest": keeper.manifest, "run": directive["run"]}  # fmt: skip
    outbox.put("halted", end)
    assert outbox.wait_empty(60)
    transport.pool.shutdown(wait=False)
    return halt
