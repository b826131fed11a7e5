"""A batch job's run with real commands on machines of this process: no Ray, no torch, a market that only listens."""

from __future__ import annotations

import copy
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from market.api.job_logs import JobLogs, Line
from storage.artifacts import Artifact, Artifacts
from storage.saved import Block, Saved, SavedFile
from tests.cluster.plaza import tar_of
from trainers.actors import saves
from trainers.actors.batch_course import BatchCourse
from trainers.actors.command_calls import CommandCalls
from trainers.actors.failures import Halt
from trainers.actors.leaving import Leaving
from trainers.actors.meter import Meter
from trainers.actors.outbox import Outbox
from trainers.actors.roster import Roster, Worker
from trainers.actors.tidings import Tidings
from trainers.actors.transport import CallFailed, Gone
from trainers.actors.wiring import DoorAway
from trainers.sandbox import isolation_level

PATIENCE_S = 60.0
Json = dict[str, Any]


class Machine(CommandCalls):
    """What a worker is to a batch job's run, without the warm child."""

    def __init__(self, scratch: Path) -> None:
        self._turn, self._meter = threading.RLock(), Meter(time.monotonic)
        self._child = SimpleNamespace(kill=lambda: None)  # type: ignore[assignment]
        self._scratch, self._isolation, self._memory_limit_bytes = scratch, isolation_level(), 256 << 20
        self._threads_per_unit, self._has, self._shares = 1, (1, [], None), {}
        self._called_at, self._phase, self._commands, self._leaving = 0.0, "assigned", None, Leaving()
        self._tidings, self._secrets, self._way_out = Tidings(), {}, None
        self._door, self._lease = {}, None
        self._environments: Json | None = {"root": str(scratch.parent / "environments"), "limit_bytes": 1 << 30}
        self.dead = False

    def reading(self, seen: int, kept: int) -> Json:
        """As `Worker.reading`."""
        lines = self._commands.lines() if self._commands is not None else []
        self._tidings.add("logs", [{"at_ms": 1, "source": "machine", "line": line} for line in lines])
        return {"unreachable": [], "moved_bytes": 0, **self._meter.reading(), **self._tidings.above(seen, kept)}

    def drain(self, timeout_s: float) -> bool:
        """As `Worker.drain`."""
        self._leaving.begin("drained")
        assert self._commands is not None
        return self._commands.drain(timeout_s)

    def kill(self) -> None:
        self.dead = True
        if self._commands is not None:
            self._commands.close()


class Transport:
    """Calls run in threads; those of a dead machine have no answer."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(16)

    def find(self, name: str) -> Any:
        return None

    def has_met(self, node: str) -> bool:
        return True

    def ask(self, machine: Machine, method: str, *arguments: Any) -> Future[Any]:
        def call() -> Any:
            if machine.dead:
                return Gone("worker_killed", "killed")
            try:
                answer = getattr(machine, method)(*arguments)
            except Exception as error:  # noqa: BLE001 - as Ray answers it
                answer = CallFailed(repr(error))
            return Gone("worker_killed", "killed") if machine.dead else answer

        return self._pool.submit(call)

    def answers(self, calls: Mapping[Any, Future[Any]], timeout_s: float) -> dict[Any, Any]:
        done = wait(calls.values(), max(0.0, timeout_s), "FIRST_COMPLETED").done
        return {key: call.result() for key, call in calls.items() if call in done}

    def parcel(self, content: bytes) -> memoryview:
        return memoryview(content)

    def made(self, parcel: Any, timeout_s: float) -> bool:
        return True

    def open(self, parcel: Any, timeout_s: float) -> Any:
        return parcel


class Door:
    """A market that keeps what it is told, and lines as the market does. `cut_off` comes before each answer."""

    def __init__(self, folder: Path) -> None:
        self._logs = JobLogs(folder, limit_bytes=1 << 30)
        self.cut_off: Callable[[], None] = lambda: None
        self.blobs: dict[str, bytes] = {}
        self.sent: list[list[str]] = []
        self.attempts: list[Json] = []
        self.saves: list[Json] = []
        self.lost: list[Json] = []

    def upload(self, content: bytes | Path) -> str:
        held = content if isinstance(content, bytes) else content.read_bytes()
        digest = hashlib.sha256(held).hexdigest()
        self.blobs[digest] = held
        return digest

    def missing(self, digests: Sequence[str]) -> list[str]:
        return [digest for digest in digests if digest not in self.blobs]

    def upload_all(self, blobs: Sequence[tuple[str, bytes | memoryview]]) -> list[str]:
        right = {digest: bytes(content) for digest, content in blobs if hashlib.sha256(content).hexdigest() == digest}
        self.blobs |= right
        self.sent.append([digest for digest, _ in blobs])
        return [digest for digest, _ in blobs if digest not in right]

    def read_blob(self, digest: str) -> bytes:
        return self.blobs[digest]

    def report_attempt(self, report: Mapping[str, Any]) -> Json:
        self.attempts.append(dict(report))
        return {}

    def report_save(self, report: Mapping[str, Any]) -> Json:
        self.saves.append(dict(report))
        return {}

    def report_readings(self, job: str, *, lost: Any, logs: Any, **_: Any) -> Json:
        self.lost += lost
        self._logs.append("job-1", [Line(0, one["source"], one["line"], one.get("stream", ""), one.get("number", 0)) for one in logs])
        self.cut_off()
        return {}

    @property
    def lines(self) -> list[str]:
        """As a customer sees them."""
        shown, after = "", 0
        while (told := self._logs.read("job-1", after))[0]:
            shown, after = shown + told[0], told[1]
        return [line.partition(" | ")[2] for line in shown.splitlines()]


class Play:
    """One batch job, its run, and the machines that it gets."""

    def __init__(self, folder: Path, **command: Any) -> None:
        self.folder, self.door, self.transport = folder, Door(folder), Transport()
        told = {
            "argv": ["true"],
            "env": {},
            "workdir": None,
            "artifacts": [],
            "timeout_ms": None,
            "retries": 0,
        } | command
        self.directive: Json = {
            "spec": {"name": "a", "command": told, "data": {"kind": "none"}}, "attempts": [], "restarts": 0, "saved": None,
            "deaths": [],
        }  # fmt: skip
        self.saved: Saved | None = None
        self.workdir: bytes | None = None
        self.data: bytes | None = None
        self.machines: list[Machine] = []
        self.reading_every_s = 0.05
        self.begin()

    def begin(self) -> None:
        """A run, perhaps another one than before."""
        self.outbox = Outbox("job-1", 1, self.door)  # type: ignore[arg-type]
        self.roster = Roster(self.transport, self.outbox, every_s=self.reading_every_s, lost_after_s=7200)  # type: ignore[arg-type]
        self.course = BatchCourse(
            job="job-1", directive=self.directive, workdir=self.workdir, data=self.data, transport=self.transport,  # type: ignore[arg-type]
            outbox=self.outbox, roster=self.roster, door=self.door, wall_ms=lambda: 1, save_every_s=0.05,  # type: ignore[arg-type]
            saved=self.saved,
        )  # fmt: skip

    def machine(self) -> Machine:
        """The market has granted a lease: one more machine for the run."""
        slot = len(self.machines)
        folder = self.folder / f"machine-{slot}"
        folder.mkdir()
        self.machines.append(Machine(folder))
        self.welcome(slot)
        return self.machines[-1]

    def welcome(self, slot: int) -> None:
        worker = Worker(
            lease=f"lease-{slot}",
            epoch=slot,
            slot=slot,
            provider=f"p{slot}",
            name=f"m{slot}",
            handle=self.machines[slot],
        )
        self.course.welcome(worker)

    def drive(self, reached: Callable[[], bool] = lambda: False) -> Halt | None:
        """Until the run halts, or so far."""
        until = time.monotonic() + PATIENCE_S
        while (halt := self.course.advance()) is None and not reached():
            assert time.monotonic() < until, self.door.lines
        if halt is not None:
            self.roster.last_readings()
        assert self.outbox.wait_empty(PATIENCE_S)
        return halt

    def saves(self) -> list[dict[str, bytes]]:
        """What was kept, save by save: content by path."""
        told = [Saved.decode(self.door.blobs[one["manifest"]]) for one in self.door.saves]
        return [
            {file.path: b"".join(self.door.blobs[block.digest] for block in file.blocks) for file in saved.files}
            for saved in told
        ]

    def printed(self, line: str) -> Callable[[], bool]:
        return lambda: line in self.door.lines


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[..., Play]]:
    made: list[Play] = []

    def begin(**command: Any) -> Play:
        made.append(Play(tmp_path, **command))
        return made[-1]

    yield begin
    for one in made:
        for machine in one.machines:
            machine.kill()


def test_output_artifacts_and_the_end_are_told(play: Callable[..., Play]) -> None:
    job = play(argv=["sh", "-c", "mkdir out; cp given.txt out/; echo printed; exit 0"], artifacts=["out", "*.pt"])
    job.workdir = tar_of({"given.txt": b"4"})
    job.begin()
    job.machine()
    halt = job.drive()
    assert halt is not None
    assert (halt.state, halt.reason) == ("done", "done")
    assert "printed" in job.door.lines
    [attempt] = job.door.attempts
    assert (attempt["number"], attempt["kind"], attempt["code"], attempt["lease"]) == (1, "exit", 0, "lease-0")
    assert attempt["manifest"] == job.course.manifest
    found = Artifacts.decode(job.door.blobs[attempt["manifest"]])
    assert [(file.path, job.door.blobs[file.blob]) for file in found.files] == [("out/given.txt", b"4")]
    assert "[torg: artifacts: 1 file, 1 byte]" in job.door.lines
    assert "[torg: artifacts: nothing matches '*.pt']" in job.door.lines


def test_how_it_ended_is_told_after_all_that_came_before(play: Callable[..., Play]) -> None:
    job = play(argv=["sh", "-c", "exit 3"])
    job.reading_every_s = 3600  # nobody asks for what a machine says unless it is asked in particular
    job.begin()
    job.machine()
    job.drive()
    assert job.door.lines == ["[torg: p0: starting sh -c 'exit 3']", "[torg: sh -c 'exit 3' exited with status 3]"]


def test_a_flood_is_followed_to_its_last_line(play: Callable[..., Play]) -> None:
    job = play(argv=["sh", "-c", "yes 'a line' | head -n 300000; echo the last"])
    job.machine()
    halt = job.drive()
    assert halt is not None
    assert "the last" in job.door.lines
    dropped = sum(int(line.split()[1]) for line in job.door.lines if line.endswith("lines dropped]"))
    assert dropped > 0
    assert job.door.lines.count("a line") + dropped == 300_000


COUNT = """
n=$(cat $TORG_CHECKPOINT_DIR/n 2>/dev/null || echo 0)
echo begun $TORG_RESTART_COUNT from $n
echo 7 > $TORG_CHECKPOINT_DIR/n
[ $TORG_RESTART_COUNT = 1 ] || sleep 3600
"""


def test_a_lost_machine_is_told_and_the_next_one_has_what_was_saved(play: Callable[..., Play]) -> None:
    job = play(argv=["sh", "-c", COUNT])
    first = job.machine()
    assert job.drive(lambda: bool(job.door.saves)) is None
    first.kill()
    assert job.drive(lambda: bool(job.door.lost)) is None
    assert [(one["lease"], one["reason"]) for one in job.door.lost] == [("lease-0", "worker_killed")]
    job.machine()
    halt = job.drive()
    assert halt is not None
    assert halt.state == "done"
    assert [line for line in job.door.lines if line.startswith("begun")] == ["begun 0 from 0", "begun 1 from 7"]
    assert [one["lease"] for one in job.door.attempts] == ["lease-1"]


def test_a_retry_begins_in_a_fresh_folder_with_the_same_checkpoint(play: Callable[..., Play]) -> None:
    code = "ls | wc -l; ls $TORG_CHECKPOINT_DIR | wc -l; touch left $TORG_CHECKPOINT_DIR/kept; exit $((1 - TORG_RESTART_COUNT))"
    job = play(argv=["sh", "-c", code], retries=1)
    job.machine()
    halt = job.drive()
    assert halt is not None
    assert halt.state == "done"
    assert [line for line in job.door.lines if not line.startswith("[")] == ["0", "0", "0", "1"]
    assert [one["code"] for one in job.door.attempts] == [1, 0]


def test_a_pause_stops_the_command_and_what_it_saved_last_is_kept(play: Callable[..., Play]) -> None:
    code = "trap 'echo last > $TORG_CHECKPOINT_DIR/n; exit 0' TERM; echo begun; while true; do sleep 0.05; done"
    job = play(argv=["sh", "-c", code])
    job.machine()
    job.drive(job.printed("begun"))
    job.course.pause("escrow_exhausted")
    halt = job.drive()
    assert halt is not None
    assert halt.state == "paused"
    assert job.door.attempts == []
    assert job.saves()[-1] == {"n": b"last\n"}


def test_a_run_that_is_replaced_goes_on_with_the_command(play: Callable[..., Play], tmp_path: Path) -> None:
    job = play(argv=["sh", "-c", "echo begun; while [ ! -e $HOME/go ]; do sleep 0.05; done; echo gone on; exit 4"])
    job.machine()
    job.drive(job.printed("begun"))
    job.begin()
    job.welcome(0)
    (tmp_path / "machine-0" / "command" / "home" / "go").touch()
    halt = job.drive()
    assert halt is not None
    assert (halt.state, halt.reason) == ("failed", "command_failed")
    assert halt.detail.startswith("sh -c")
    assert halt.detail.endswith("begun\ngone on")
    assert job.door.lines.count("begun") == 1
    assert [one["code"] for one in job.door.attempts] == [4]


TEN_LINES = "i=0; while [ $i -lt 80 ]; do echo line $i; i=$((i+1)); [ $((i%10)) != 0 ] || until [ -e $HOME/$i ]; do sleep 0.02; done; done"


def test_runs_that_are_killed_show_each_line_once(play: Callable[..., Play], tmp_path: Path) -> None:
    """Each run dies when the market has what it told and it has not heard so, again and again while the command prints."""
    job = play(argv=["sh", "-c", TEN_LINES])
    job.machine()
    for shown in range(10, 90, 10):
        dead = threading.Event()

        def cut_off(dead: threading.Event = dead, last: str = f"line {shown - 1}") -> None:
            if last in job.door.lines:
                dead.set()
                threading.Event().wait()  # it never hears the answer, nor says anything more

        job.door.cut_off = cut_off
        until = time.monotonic() + PATIENCE_S
        while not dead.is_set():
            assert job.course.advance() is None
            assert time.monotonic() < until
        job.door = copy.copy(job.door)  # the next run's; that of the dead one answers no more
        job.door.cut_off = lambda: None
        job.begin()
        job.welcome(0)
        (tmp_path / "machine-0" / "command" / "home" / str(shown)).touch()
    halt = job.drive()
    assert halt is not None
    assert halt.state == "done"
    assert [line for line in job.door.lines if line.startswith("line")] == [f"line {number}" for number in range(80)]
    assert sum(line.startswith("[torg: p0: starting") for line in job.door.lines) == 1, "the next runs go on with it"


def test_files_that_do_not_unpack_are_the_customers(play: Callable[..., Play]) -> None:
    job = play()
    job.workdir = b"no tar at all" * 100
    job.begin()
    job.machine()
    halt = job.drive()
    assert halt is not None
    assert (halt.state, halt.reason) == ("failed", "import")


def test_data_are_where_the_environment_says(play: Callable[..., Play]) -> None:
    job = play(argv=["sh", "-c", "cat $TORG_DATA/corpus/a.txt; echo; echo $TORG_JOB $TORG_ATTEMPT $TORG_RESTART_COUNT"])
    job.directive["spec"]["data"] = {"kind": "blob", "digest": "ab" * 32, "bytes": 1, "label": "corpus"}
    job.data = tar_of({"corpus/a.txt": b"to be"})
    job.begin()
    job.machine()
    assert job.drive() is not None
    assert [line for line in job.door.lines if not line.startswith("[")] == ["to be", "job-1 1 0"]


SAVES = """
import os, pathlib, sys, time
folder = pathlib.Path(os.environ["TORG_CHECKPOINT_DIR"])
whole = folder / "model.bin"
print("finds", whole.stat().st_size if whole.exists() else 0, flush=True)
if not whole.exists():
    whole.write_bytes(bytes(3 << 20) + b"first")
    print("saved", flush=True)
    while not (folder.parent / "home" / "go").exists():
        time.sleep(0.02)
    with whole.open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"changed")
    print("saved again", flush=True)
    time.sleep(3600)
"""


def test_only_blocks_that_changed_travel_and_the_next_machine_has_the_whole(
    play: Callable[..., Play], tmp_path: Path
) -> None:
    job = play(argv=["python", "-c", SAVES])
    first = job.machine()
    job.drive(lambda: len(job.door.saves) == 1)
    blobs = len(job.door.blobs)
    assert blobs == 3, "one block of zeros three times, the rest, and the manifest"
    (tmp_path / "machine-0" / "command" / "home" / "go").touch()
    job.drive(lambda: len(job.door.saves) == 2)
    assert len(job.door.blobs) == blobs + 2, "the block that changed, and the manifest"
    first.kill()
    job.drive(lambda: bool(job.door.lost))
    job.machine()
    halt = job.drive()
    assert halt is not None
    assert halt.state == "done"
    size = (3 << 20) + 5
    assert job.printed(f"finds {size}")()
    assert (tmp_path / "machine-1" / "command" / "checkpoint" / "model.bin").read_bytes() == (
        bytes(2 << 20) + b"changed" + bytes((1 << 20) - 7) + b"first"
    )


def test_blocks_travel_several_at_once_and_a_request_that_is_cut_goes_on_by_block(
    play: Callable[..., Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saves, "AT_ONCE_BYTES", 2 << 20)
    job = play(argv=["sh", "-c", "head -c 5242880 /dev/urandom > $TORG_CHECKPOINT_DIR/n; sleep 3600"])
    taking, cut = job.door.upload_all, []

    def upload_all(blobs: Sequence[tuple[str, bytes | memoryview]]) -> list[str]:
        if not cut:
            cut.append(blobs[0][0])
            taking(blobs[:1])
            raise DoorAway("cut in the middle")
        return taking(blobs)

    monkeypatch.setattr(job.door, "upload_all", upload_all)
    job.machine()
    job.drive(lambda: bool(job.door.saves))
    assert [len(sent) for sent in job.door.sent] == [1, 1, 2, 1]
    assert sum(sent.count(cut[0]) for sent in job.door.sent) == 1, "what came whole does not travel again"
    assert len(job.saves()[-1]["n"]) == 5 << 20


def test_a_machine_that_hands_out_other_bytes_than_it_said_saves_nothing(
    play: Callable[..., Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "blocks", lambda self, digests: [bytes(5) for _ in digests], raising=False)
    job = play(argv=["sh", "-c", "printf 12345 > $TORG_CHECKPOINT_DIR/n; sleep 3600"])
    job.machine()
    job.drive(lambda: len(job.door.sent) >= 2)
    assert (job.door.saves, job.door.blobs) == ([], {})


def test_a_drain_ships_what_was_saved_last_before_it_lets_the_machine_go(play: Callable[..., Play]) -> None:
    code = """[ -e $TORG_CHECKPOINT_DIR/n ] && exec cat $TORG_CHECKPOINT_DIR/n
    trap 'echo at the end > $TORG_CHECKPOINT_DIR/n; exit 0' TERM; echo begun; while true; do sleep 0.05; done"""
    job = play(argv=["sh", "-c", code])
    machine = job.machine()
    job.drive(job.printed("begun"))
    with ThreadPoolExecutor(1) as beside:
        drained = beside.submit(machine.drain, PATIENCE_S)
        job.drive(drained.done)
        assert drained.result() is True
    assert job.saves() == [{"n": b"at the end\n"}], "the market has it by then"
    job.course.leave(0, "drained", "the provider drained the offer")
    job.machine()
    halt = job.drive()
    assert halt is not None
    assert (halt.state, job.printed("at the end")()) == ("done", True)


def test_a_machine_that_is_told_of_late_does_not_disturb_the_next_one(play: Callable[..., Play]) -> None:
    job = play(argv=["sh", "-c", "echo found $(cat $TORG_CHECKPOINT_DIR/n)"])
    blob = job.door.upload(b"kept")
    job.saved = Saved("job-1", 1, (SavedFile("n", (Block(blob, 4),)),))
    job.begin()
    job.machine()
    job.machine()  # the market has ended the first lease and granted this one
    job.course.leave(0, "drained", "the provider drained the offer")
    halt = job.drive()
    assert halt is not None
    assert (halt.state, job.printed("found kept")()) == ("done", True)


def test_what_a_signal_interrupted_is_not_taken_for_a_save(play: Callable[..., Play]) -> None:
    code = "echo good > $TORG_CHECKPOINT_DIR/n; sleep 1.5; echo begun; while true; do echo torn > $TORG_CHECKPOINT_DIR/n; done"
    job = play(argv=["sh", "-c", code])
    machine = job.machine()
    job.drive(lambda: job.printed("begun")() and bool(job.door.saves))
    machine.drain(0.5)
    job.course.pause("market_down")
    assert job.drive() is not None
    assert job.saves() == [{"n": b"good\n"}]


def test_what_a_job_of_before_has_saved_is_there_again(play: Callable[..., Play]) -> None:
    job = play(argv=["sh", "-c", "cat $TORG_CHECKPOINT_DIR/deep/n"])
    blob = job.door.upload(b"of old\n")
    older = Artifacts("job-1", 1, (Artifact("deep/n", blob, 7),))
    job.saved = Saved.decode(older.encode())
    job.begin()
    job.machine()
    assert job.drive() is not None
    assert "of old" in job.door.lines


def test_a_save_that_the_market_declines_is_told_and_the_one_before_counts(play: Callable[..., Play]) -> None:
    job = play(argv=["sh", "-c", COUNT])
    job.machine()
    job.drive(lambda: bool(job.door.saves))
    job.course.save_refused("quota_exceeded")
    job.drive(lambda: any("quota_exceeded" in line and "stays" in line for line in job.door.lines))


def test_a_command_that_takes_its_machines_down_ends_the_job(play: Callable[..., Play]) -> None:
    job = play(argv=["sh", "-c", "echo begun $TORG_RESTART_COUNT; sleep 3600"])
    for number in range(4):
        machine = job.machine()
        assert job.drive(job.printed(f"begun {number}")) is None
        machine.kill()
        halt = job.drive(lambda wanted=number + 1: len(job.door.lost) == wanted)  # type: ignore[misc]
    halt = halt or job.drive()
    assert halt is not None
    assert (halt.state, halt.reason) == ("failed", "kills_workers")
    assert "4 machines died in a row" in halt.detail
    assert [one["reason"] for one in job.door.lost] == ["worker_killed"] * 4
