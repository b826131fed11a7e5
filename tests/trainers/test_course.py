"""A run without Ray: the course, its keeper and roster, with two real workers and their trainer children in here."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import pytest

from storage.checkpoints import Manifest
from tests.cluster.plaza import tar_of
from trainers import rounds as machine
from trainers.actors import roster as known
from trainers.actors.course import Course, Halt
from trainers.actors.keeper import Keeper
from trainers.actors.outbox import Outbox
from trainers.actors.plans import plan_of
from trainers.actors.transport import Gone
from trainers.actors.worker import Worker
from trainers.member import Member
from trainers.options import strategy_options

Json = dict[str, Any]
PATIENCE_S = 100.0
WANTED = 4.0
SLOTS = (0, 1)
SPEC: Json = {
    "workload": {"kind": "builtin", "name": "byte_lm"}, "options": {"size": "10k", "context": 16, "batch": 8},
    "data": {"kind": "blob"}, "steps": 4000, "rounds": 400, "seed": 1, "workers": {"min": 2},
    "strategy": strategy_options({"name": "diloco", "inner_steps": 10}),
    "checkpoint": {"every_rounds": 5, "keep": 2},
}  # fmt: skip
TEXT = tar_of({"a.txt": b"the same line again and again\n" * 400})


class LocalTransport:
    """Workers in this process; a call runs in a thread that nobody waits for at the end: a merge that its run has left
    takes a day. `cut`: calls by method that get lost after they have run; `lies`: the held-out loss that a worker says,
    whatever it measured; `measured`: after which rounds that was, and by whom.
    """

    def __init__(self) -> None:
        self.cut: dict[str, int] = {}
        self.lost: list[str] = []
        self.lies: dict[str, float] = {}
        self.measured: dict[int, str] = {}
        self.closed = False

    def find(self, name: str) -> None:
        raise AssertionError(f"nobody is looked for here: {name}")

    def has_met(self, node: str) -> bool:
        return True

    def ask(self, worker: Worker, method: str, *arguments: Any) -> Future[Any]:
        opened = [one.result() if isinstance(one, Future) else one for one in arguments]
        if self.closed:
            return _gone()
        return self.submit(self._run, worker, method, opened)

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        answer: Future[Any] = Future()

        def run() -> None:
            try:
                answer.set_result(call(*arguments))
            except Exception as error:  # noqa: BLE001 - whoever asks for the result has it
                answer.set_exception(error)

        threading.Thread(target=run, name="call", daemon=True).start()
        return answer

    def answers(self, calls: Mapping[Any, Future[Any]], timeout_s: float) -> dict[Any, Any]:
        wait(calls.values(), timeout_s, FIRST_COMPLETED)
        return {key: call.result() for key, call in calls.items() if call.done()}

    def parcel(self, content: bytes) -> bytes:
        return content

    def made(self, parcel: Any, timeout_s: float) -> bool:
        return not isinstance(parcel, Future) or bool(wait([parcel], timeout_s).done)

    def open(self, parcel: Any, timeout_s: float) -> bytes:
        return parcel.result(timeout_s) if isinstance(parcel, Future) else parcel

    def _run(self, worker: Worker, method: str, arguments: list[Any]) -> Any:
        answer = getattr(worker, method)(*arguments)
        if method == "reading":
            self.measured |= {one["round"]: worker.name for one in answer["evaluated"]}
            said = {"loss": self.lies[worker.name]} if worker.name in self.lies else {}
            answer["evaluated"] = [{**one, **said} for one in answer["evaluated"]]
        if self.cut.get(method, 0) > 0:
            self.cut[method] -= 1
            self.lost.append(method)
            return Gone("network_cut", "the cable")
        return answer


def _gone() -> Future[Any]:
    gone: Future[Any] = Future()
    gone.set_result(Gone("worker_killed", "the test is over"))
    return gone


class MemoryDoor:
    """The market of one run."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.rounds: list[Json] = []
        self.checkpoints: list[Json] = []
        self.evaluated: list[Json] = []
        self.lost: list[Json] = []
        self.logs: list[str] = []

    def upload(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def report_round(self, report: Mapping[str, Any]) -> Json:
        self.rounds.append(dict(report))
        return {}

    def report_checkpoint(self, report: Mapping[str, Any]) -> Json:
        self.checkpoints.append(dict(report))
        return {}

    def report_readings(self, job: str, *, evaluated: Any, lost: Any, logs: Any, **_: Any) -> Json:
        self.logs += [one["line"] for one in logs]
        self.evaluated += evaluated
        self.lost += lost
        return {}


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    made = [
        Worker(
            name=f"worker-{slot}", host_pid=os.getpid(), scratch=str(tmp_path / f"scratch-{slot}"), threads_per_unit=1,
            devices=[], memory_limit_bytes=1 << 30, shares={}, isolation="process", orphan_after_s=600.0,
        )
        for slot in SLOTS
    ]  # fmt: skip
    for slot, worker in zip(SLOTS, made, strict=True):
        assert worker.ready()["error"] is None
        worker.assign(
            {"id": f"lease-{slot}", "epoch": slot + 1, "slot": slot, "job": "job-1", "share": None, "gpus": 1}
        )
    yield made
    for worker in made:
        worker.stop()


class Job:
    """One run over these workers, and what its market has heard."""

    def __init__(self, workers: list[Worker], spec: Json, data: bytes = TEXT, source: bytes | None = None) -> None:
        self.door, self.transport = MemoryDoor(), LocalTransport()
        door: Any = self.door
        self.outbox = Outbox("job-1", os.getpid(), door)
        self.keeper = Keeper(
            job="job-1", spec=spec, door=door, transport=self.transport, outbox=self.outbox, wall_ms=lambda: 1
        )

        def plan(asked: Json) -> machine.RoundPlan:
            return plan_of(asked, first_deadline_ms=60_000, grace_ms=60_000)

        roster = known.Roster(self.transport, self.outbox, every_s=0.05, lost_after_s=60.0)
        self.course = Course(
            job="job-1", spec=spec, source=source, data=data, transport=self.transport, outbox=self.outbox, roster=roster,
            keeper=self.keeper, rounds=machine.Rounds(plan(spec)), plan=plan, secret=bytes(32),
        )  # fmt: skip
        self._workers = workers

    def begin(self) -> None:
        self.course.resume([])
        for slot, worker in zip(SLOTS, self._workers, strict=True):
            self.course.welcome(known.Worker(f"lease-{slot}", slot + 1, slot, f"p{slot}", f"worker-{slot}", worker))

    def run(self) -> Halt:
        self.begin()
        give_up_at = time.monotonic() + PATIENCE_S
        try:
            while (halt := self.course.advance()) is None:
                assert time.monotonic() < give_up_at, "the run has not halted"
            assert self.outbox.wait_empty(PATIENCE_S)
        finally:
            self.transport.closed = True  # the roster's thread loses everybody and asks nobody any more
        return halt


def test_a_job_with_a_wanted_loss_is_done_once_it_is_reached_and_its_model_is_durable(workers: list[Worker]) -> None:
    job = Job(workers, {**SPEC, "until_loss": WANTED})
    halt = job.run()

    assert (halt.state, halt.reason) == ("done", "done")
    assert f"{WANTED} was wanted" in halt.detail
    last = len(job.door.rounds)
    assert 1 < last < SPEC["rounds"]
    assert [one["round"] for one in job.door.rounds] == list(range(1, last + 1))
    assert job.door.lost == []
    losses = [one["loss"] for one in sorted(job.door.evaluated, key=lambda one: one["round"])]
    assert losses[0] > WANTED >= min(losses)
    assert all(0 <= one["metrics"]["accuracy"] <= 1 for one in job.door.evaluated)
    assert job.keeper.durable_round == last
    assert job.keeper.manifest is not None
    manifest = Manifest.decode(job.door.blobs[job.keeper.manifest])
    assert Member.restore(job.door.blobs[manifest.state]).digest() == job.door.rounds[-1]["digest"]


def test_one_workers_word_that_the_wanted_loss_is_there_ends_no_job(workers: list[Worker]) -> None:
    # None is due but the first one, so that every other is there because of the word that was not believed.
    job = Job(workers, {**SPEC, "until_loss": WANTED, "evaluate": {"every_rounds": SPEC["rounds"]}})
    job.transport.lies = {"worker-0": 0.01}
    halt = job.run()

    assert (halt.state, halt.reason) == ("done", "done")
    told = [(one["round"], one["loss"]) for one in sorted(job.door.evaluated, key=lambda one: one["round"])]
    assert told[0] == (1, 0.01)  # the lie was told
    who = [job.transport.measured[round] for round, _ in told]
    assert who == ["worker-0", *["worker-1"] * (len(told) - 1)]
    low = [loss for _, loss in told[1:] if loss <= WANTED]
    assert any(f"the held-out loss is {loss:.4f}" in halt.detail for loss in low)


def test_calls_that_a_cut_network_swallowed_are_repeated_and_nobody_is_lost(workers: list[Worker]) -> None:
    job = Job(workers, {**SPEC, "rounds": 3, "steps": 30})
    job.transport.cut = {"load": 1, "connect": 1, "train": 2, "merge": 1}
    halt = job.run()

    assert (halt.state, halt.reason) == ("done", "done")
    assert sorted(job.transport.lost) == ["connect", "load", "merge", "train", "train"]
    assert job.door.lost == []
    assert [one["round"] for one in job.door.rounds] == [1, 2, 3]
    assert all(len(one["members"]) == 2 for one in job.door.rounds)


def test_when_all_providers_take_their_machines_back_the_last_round_is_durable_before_they_go(
    workers: list[Worker],
) -> None:
    job = Job(workers, {**SPEC, "checkpoint": {"every_rounds": 1000, "keep": 2}})
    job.begin()
    leaving: list[Future[bool]] = []
    give_up_at = time.monotonic() + PATIENCE_S
    try:
        while len(job.door.lost) < len(SLOTS):
            assert job.course.advance() is None
            assert time.monotonic() < give_up_at, "nobody leaves"
            if not leaving and len(job.door.rounds) >= 2:
                assert job.keeper.durable_round == 0
                leaving = [job.transport.submit(worker.drain, PATIENCE_S, "preempted") for worker in workers]
        assert all(one.result(PATIENCE_S) for one in leaving)
        assert job.outbox.wait_empty(PATIENCE_S)
    finally:
        job.transport.closed = True
    assert {one["reason"] for one in job.door.lost} == {"preempted"}
    assert job.keeper.durable_round == len(job.door.rounds) >= 2


def test_data_that_do_not_unpack_end_the_job_at_the_customers_expense(workers: list[Worker], tmp_path: Path) -> None:
    halt = Job(workers, SPEC, data=tar_of({"../out.txt": b"x"})).run()
    assert (halt.state, halt.reason) == ("failed", "import")
    assert "the job's data cannot be unpacked: '../out.txt' is not a name inside the folder" in halt.detail
    assert not [*tmp_path.rglob("out.txt")]


DIVERGES_AT_SLOT_1 = b"""
import torch
from trainers.workload import Workload

class Mine(Workload):
    def model(self):
        return torch.nn.Linear(4, 1)
    def batch(self, seed, step, worker):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed + 2 * step + worker))
        return inputs * float("nan") if (worker, step) == (1, 14) else inputs
    def held_out(self):
        return [torch.full((8, 4), float("nan"))]
    def loss(self, model, batch):
        return (model(batch) - 1).square().mean()
"""


def test_a_worker_whose_numbers_are_not_finite_once_is_warned_and_a_held_out_loss_that_is_none_is_missing(
    workers: list[Worker],
) -> None:
    workload = {"kind": "file", "digest": "", "class_name": "Mine", "filename": "mine.py"}
    spec = {**SPEC, "workload": workload, "options": {}, "rounds": 4, "steps": 40}
    job = Job(workers, spec, source=DIVERGES_AT_SLOT_1)
    halt = job.run()

    assert (halt.state, halt.reason) == ("done", "done")
    assert job.door.lost == []
    assert [[one["slot"] for one in report["members"]] for report in job.door.rounds] == [[0, 1], [0], [0, 1], [0, 1]]
    [warned] = job.door.rounds[1]["warned"]
    assert warned["slot"] == 1
    assert "the loss is nan at step 14" in warned["reason"]
    assert job.door.evaluated == []
    assert "held-out after round 1: the loss is not finite, so that it is missing" in job.door.logs
    assert job.keeper.durable_round == 4
