"""No schedule of writers, readers, records and collections loses a blob that a record names, or one that was promised."""

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from market.api.problems import Problem
from market.api.shelf import Shelf
from market.api.sweeping import collect
from market.blob_frames import Framed
from storage.blobs import BlobStore
from storage.bucket_blobs import BucketBlobs
from storage.garbage import Marks
from storage.object_stores import FolderStore

GRACE_MS = 1000
CONTENTS = [f"content {number}".encode() for number in range(2)]
DIGESTS = [hashlib.sha256(content).hexdigest() for content in CONTENTS]
BLOB = st.sampled_from(range(len(CONTENTS)))
JOB = st.sampled_from(["job-a", "job-b"])


async def as_body(content: bytes) -> AsyncIterator[bytes]:
    yield content


class Schedules(RuleBasedStateMachine):
    """Whatever waits for the disk stops before and after, until `step` lets it go on: so everything happens in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.now_ms = 0
        self.recorded: dict[str, set[str]] = {"job-a": set(), "job-b": set()}
        self.promised: dict[str, int] = {}
        self.listed: dict[str, int] = {}
        self.open()

    def open(self) -> None:
        self.gates: list[asyncio.Future[None]] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.shelf = Shelf(BlobStore(self.folder / "blobs"), self.folder / "uploads", in_thread=self.gated)
        for job, digests in self.recorded.items():
            self.shelf.need(job, digests)

    async def gated(self, work: Callable[..., Any], *arguments: Any) -> Any:
        await self.gate()
        try:
            return work(*arguments)
        finally:
            await self.gate()

    async def gate(self) -> None:
        self.gates.append(self.loop.create_future())
        await self.gates[-1]

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.discard(task)
            task.result()

    def begin(self, work: Any) -> None:
        self.tasks.add(self.loop.create_task(work))
        self.settle()

    def end_tasks(self) -> None:
        async def end() -> None:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

        self.loop.run_until_complete(end())

    @rule(blob=BLOB)
    def send(self, blob: int) -> None:
        async def upload() -> None:
            if (await self.shelf.receive("ann", DIGESTS[blob], None, as_body(CONTENTS[blob]))).whole:
                self.promised[DIGESTS[blob]] = self.now_ms

        self.begin(upload())

    @rule(blobs=st.permutations(range(len(CONTENTS))))
    def send_all(self, blobs: list[int]) -> None:
        async def upload() -> None:
            group = [Framed(DIGESTS[blob], (memoryview(CONTENTS[blob]),)) for blob in blobs]
            assert await self.shelf.receive_all("ann", group) == []
            self.promised |= dict.fromkeys(DIGESTS, self.now_ms)

        self.begin(upload())

    @rule(blob=BLOB)
    def ask(self, blob: int) -> None:
        if not self.shelf.missing([DIGESTS[blob]]):
            self.promised[DIGESTS[blob]] = self.now_ms

    @rule(job=JOB, blob=BLOB)
    def record(self, job: str, blob: int) -> None:
        digest = DIGESTS[blob]
        here = self.shelf.size(digest) is not None
        told_ms = self.promised.get(digest)
        assert here or told_ms is None or self.now_ms - told_ms >= GRACE_MS, "it was promised, and its record is refused"
        if here:
            self.shelf.need(job, [digest])
            self.recorded[job].add(digest)

    @rule(job=JOB, blob=BLOB)
    def forget(self, job: str, blob: int) -> None:
        digest = DIGESTS[blob]
        if digest in self.recorded[job]:
            self.recorded[job].discard(digest)
            self.promised.pop(digest, None)  # what a job gives back goes at once
            self.begin(self.shelf.remove(job, [digest]))

    @rule(stale=st.booleans())
    def collect(self, stale: bool) -> None:
        if not stale:
            self.listed = self.shelf.store.sizes()
        self.begin(collect(self.shelf, self.listed, self.now_ms, GRACE_MS, dry_run=False))

    @rule(ms=st.sampled_from([GRACE_MS // 2, GRACE_MS]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @precondition(lambda self: self.gates)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        self.let_go(data.draw(st.integers(0, len(self.gates) - 1)))

    def let_go(self, number: int = 0) -> None:
        self.gates.pop(number).set_result(None)
        self.settle()

    def let_all_go(self) -> None:
        while self.gates:
            self.let_go()

    @rule()
    def die(self) -> None:
        """The process ends in the middle of everything, and another opens what it finds."""
        self.end_tasks()
        self.promised.clear()  # a removal may have been under way
        self.open()

    @invariant()
    def what_a_record_names_is_there(self) -> None:
        for digest in set().union(*self.recorded.values()):
            assert self.shelf.store.path(digest).exists(), "a blob that a record names is lost"
            assert self.shelf.store.verify(digest)

    def teardown(self) -> None:
        self.end_tasks()
        self.loop.close()
        shutil.rmtree(self.folder)


FEW = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))


def test_no_schedule_loses_a_blob() -> None:
    run_state_machine_as_test(Schedules, settings=FEW)


class Careless(Marks):
    """A collector that looks once, and then sweeps whatever happens meanwhile."""

    def touch(self, digest: str) -> bool:
        return True


def promised_and_swept(machine: Schedules) -> None:
    """Somebody is told that a marked blob is here, and half a grace later sends the record that names it."""
    machine.send(0)
    machine.let_all_go()
    machine.collect(stale=False)
    machine.wait(GRACE_MS // 2)
    machine.ask(0)
    machine.wait(GRACE_MS // 2)
    machine.collect(stale=False)
    machine.let_all_go()
    machine.record("job-a", 0)


def recorded_while_going(machine: Schedules) -> None:
    """The record comes when the collector has decided and its removal waits for the disk."""
    machine.send(0)
    machine.let_all_go()
    machine.collect(stale=False)
    machine.wait(GRACE_MS)
    machine.collect(stale=False)
    machine.record("job-a", 0)
    machine.let_all_go()
    machine.what_a_record_names_is_there()


def sent_together_while_going(machine: Schedules) -> None:
    """The same with others, in two requests that have them in another order."""
    recorded_while_going(machine)
    machine.collect(stale=False)
    machine.send_all([0, 1])
    machine.send_all([1, 0])
    machine.let_all_go()
    machine.record("job-a", 0)
    machine.what_a_record_names_is_there()


def sent_while_going(machine: Schedules) -> None:
    """The blob is sent again while its removal waits for the disk, or was just made."""
    recorded_while_going(machine)
    machine.collect(stale=False)
    machine.send(0)
    machine.let_go()
    machine.send(0)
    machine.let_all_go()
    machine.record("job-a", 0)
    machine.what_a_record_names_is_there()


SCHEDULES = [promised_and_swept, recorded_while_going, sent_while_going, sent_together_while_going]


def play(schedule: Callable[[Schedules], None], marks: type[Marks]) -> None:
    machine = Schedules()
    machine.shelf.marks = marks()
    try:
        schedule(machine)
    finally:
        machine.teardown()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_that_lose_a_blob_to_a_careless_collector(schedule: Callable[[Schedules], None]) -> None:
    play(schedule, Marks)
    with pytest.raises(AssertionError, match=r"lost|promised"):
        play(schedule, Careless)


def run(shelf: Shelf, now_ms: int, *, dry_run: bool = False) -> dict[str, int]:
    return asyncio.run(collect(shelf, shelf.store.sizes(), now_ms, GRACE_MS, dry_run=dry_run)).to_json()


@pytest.fixture(params=["folder", "object store"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    folder = tmp_path / "blobs"
    store = BlobStore(folder) if request.param == "folder" else BucketBlobs(folder, FolderStore(tmp_path / "objects"))
    return Shelf(store, tmp_path / "uploads.log")


def test_figures_of_two_phases(shelf: Shelf) -> None:
    needed, garbage = (shelf.store.put(content) for content in (b"needed", b"garbage"))
    shelf.need("job-a", [needed])
    first = run(shelf, 0)
    assert first == {
        "blobs": 2, "bytes": 13, "needed": 1, "needed_bytes": 6, "marked": 1, "marked_bytes": 7,
        "due": 0, "due_bytes": 0, "swept": 0, "swept_bytes": 0,
    }  # fmt: skip
    assert run(shelf, GRACE_MS - 1)["due"] == 0
    dry = run(shelf, GRACE_MS, dry_run=True)
    assert (dry["due"], dry["due_bytes"], dry["swept"]) == (1, 7, 0)
    assert garbage in shelf.store
    swept = run(shelf, GRACE_MS)
    assert (swept["swept"], swept["swept_bytes"]) == (1, 7)
    assert set(shelf.store.digests()) == {needed}


def test_who_is_told_that_a_blob_is_here_has_a_grace_from_then_on(shelf: Shelf) -> None:
    garbage = shelf.store.put(b"garbage")
    run(shelf, 0)
    assert shelf.missing([garbage]) == []
    assert run(shelf, GRACE_MS)["swept"] == 0
    assert run(shelf, 2 * GRACE_MS)["swept"] == 1
    assert shelf.missing([garbage]) == [garbage]


def test_nothing_is_swept_while_a_manifest_cannot_be_read(shelf: Shelf) -> None:
    lost = "ab" * 32
    shelf.observe([{"type": "attempt_ended", "job": "job-a", "manifest": lost}])
    shelf.recall_manifests()
    shelf.store.put(b"perhaps needed")
    run_at = [0, 2 * GRACE_MS]
    for now_ms in run_at:
        with pytest.raises(Problem, match=lost):
            run(shelf, now_ms)
    assert len(list(shelf.store.digests())) == 1


def test_a_spec_keeps_its_code_and_data_after_a_restart(shelf: Shelf) -> None:
    code, data = (shelf.store.put(content) for content in (b"code", b"data"))
    spec = {"workload": {"digest": code}, "data": {"kind": "blob", "digest": data}}
    shelf.observe([{"type": "job_submitted", "job": "job-a", "customer": "ann", "spec": spec}])
    shelf.recall_manifests()
    run(shelf, 0)
    assert run(shelf, GRACE_MS)["swept"] == 0
    assert set(shelf.store.digests()) == {code, data}
