"""One worker's command of a batch job: begins tries, tells how they end, hands out what they leave.

A try has a number, and beginning the same one again changes nothing: so a run that was replaced goes on by asking again.
Every try begins in a fresh working folder; only `checkpoint` stays from one try to the next, and what the command has saved
in it can be fetched while it runs (`trainers.saving`).

The command's environment, beside what its job says: `TORG_JOB`, `TORG_ATTEMPT` (tries count from 1), `TORG_RESTART_COUNT`
(how often it began before, here or elsewhere), `TORG_CHECKPOINT_DIR`, `TORG_DATA` where the job has data, and the secrets that
it names. The values of these are hidden in what it prints.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from storage.archives import Content, PackingError, reading, unpack
from storage.saved import Saved
from trainers.actors.environment_order import EnvironmentOrder
from trainers.actors.failures import failure
from trainers.attempts import Outcome
from trainers.collecting import PIECE_BYTES, Collection, Found, collect, read_piece
from trainers.command_process import CommandProcess, Place
from trainers.devices import Device
from trainers.environments.store import Environments
from trainers.outward.door import NoWayOut
from trainers.outward.rules import OutwardRules
from trainers.saving import Saver, Taken
from trainers.scratch import wipe
from trainers.secrecy import Masks

if TYPE_CHECKING:
    from trainers.sessions.host import SessionHost

Json = dict[str, Any]

FRESH = ("work", "home", "tmp", "data", "bin")
CHECKPOINT = "checkpoint"
BLOCKS = "blocks"
LOOK_S = 0.05
WHOLE_S = 2.0
"""For what is being saved to become whole, before that is told or the command is ended."""
LINES_BYTES = 256 << 10
"""Of printed lines, in one reading."""


class CommandDesk:
    """See the module. `scratch`: the worker's own folder, in which the command gets one. `way_out`, `environments`: see
    `Worker`."""

    def __init__(
        self, *, scratch: Path, isolation: Literal["sandbox", "process"], memory_limit_bytes: int,
        secrets: Mapping[str, str] = MappingProxyType({}), way_out: Json | None = None,
        environments: Json | None = None,
    ) -> None:  # fmt: skip
        self._folder = scratch / "command"
        self._isolation: Literal["sandbox", "process"] = isolation
        self._memory_limit_bytes = memory_limit_bytes
        self._beginning, self._looking = threading.Lock(), threading.Lock()
        self._number = 0
        self._process: CommandProcess | None = None
        self._refused: Json | None = None
        self._artifacts: Sequence[str] = ()
        self._collected: Collection | None = None
        self._job, self._cores = "", 1
        self._told: set[str] = set()
        self._saver = Saver(self._folder / CHECKPOINT, scratch / BLOCKS)
        self._dismissed = threading.Event()
        self._secrets, self._mask = secrets, Masks(secrets)
        self._environments = None if environments is None else Environments(Path(environments["root"]), environments["limit_bytes"])
        self._order: EnvironmentOrder | None = None
        self._sessions: SessionHost | None = None
        self._way_out = None if way_out is None else OutwardRules(tuple(way_out["allowed"]), tuple(way_out["denied"]))

    def take_sessions(self, door: Json) -> None:
        """Let the job's customer into the command from now on; `door`: the fields of `sessions.host.Door`."""
        from trainers.sessions.host import Door, SessionHost

        self._sessions = SessionHost(Door(**door), lambda: self._process)

    @property
    def number(self) -> int:
        """The try that was begun last, 0 before the first."""
        return self._number

    @property
    def running(self) -> bool:
        """Whether a command runs now, or is about to when its environment is there."""
        coming = self._order is not None and not self._order.over
        return coming or (self._process is not None and self._process.outcome is None)

    def begin(
        self, order: Json, workdir: Content | None, data: Content | None, saved: Json | None, *, threads: int,
        devices: Sequence[Device], shares: Mapping[str, Path], units: int = 1,
    ) -> Json:  # fmt: skip
        """Start try `order["number"]`, unless it was; {ok, number}, or what is wrong with the job's files.

        `order`: {job, number, restarts, command, data}, the last two as in the spec. workdir, data: tars. saved: a manifest
        of what was saved elsewhere, whose blocks are here (`lacks`, `put_blocks`); it is for where nothing has begun yet.
        units: cards or cores of the lease, of which each has a process where the command says `launch`.
        """
        with self._beginning:
            if order["number"] == self._number:
                return self._refused or {"ok": True, "number": self._number}
            self._end_process()
            command, job_data = order["command"], order["data"]
            self._artifacts, self._collected, self._number = command["artifacts"], None, order["number"]
            self._job, self._cores = order["job"], threads
            try:
                self._refused = None
                self._prepare(workdir, data, saved)
            except PackingError as error:
                self._refused = failure("import", f"the job's files cannot be unpacked: {error}", "")
                return self._refused
            place = Place(self._folder, self._isolation, threads, self._memory_limit_bytes, devices, shares)
            if command.get("network", False):
                if self._way_out is None or self._isolation != "sandbox":
                    self._refused = failure("died", "this machine gives commands no way out", "")
                    return self._refused
                place = replace(place, way_out=self._way_out)
            environment = _environment(order, place) | command["env"]
            environment |= {name: self._secrets[name] for name in command.get("secrets", ()) if name in self._secrets}
            if job_data["kind"] != "none":
                shared = job_data["kind"] == "share"
                environment["TORG_DATA"] = place.share(job_data["name"]) if shared else place.seen("data")
            start = partial(self._start, command, environment, place, units)
            lines = command.get("requirements")
            if lines and self._environments is not None:
                self._order = EnvironmentOrder(self._environments, lines, self._isolation, start, self.stop)
            elif lines:
                self._refused = failure("died", "this machine builds no environments", "")
            elif (outcome := start(None)) is not None:
                self._refused = failure("died", outcome.detail, "")
            return self._refused or {"ok": True, "number": self._number}

    def _start(
        self, command: Json, environment: Mapping[str, str], place: Place, units: int, packages: Path | None
    ) -> Outcome | None:
        """Start the command, with an environment's packages where it has one; how it ended, if it could not be started."""
        timeout_ms, ranks = command["timeout_ms"], units if command.get("launch") else None
        memory_limit_bytes = self._memory_limit_bytes * (ranks or 1)  # as leases of one unit each would have together
        place = replace(place, environment=packages, memory_limit_bytes=memory_limit_bytes)
        try:
            self._process = CommandProcess(
                command["argv"], environment, place, job=self._job, ranks=ranks,
                timeout_s=None if timeout_ms is None else timeout_ms / 1000,
            )  # fmt: skip
        except NoWayOut as error:
            return Outcome("died", detail=f"the command has no way out: {error}")
        return None

    def wait(self, number: int, timeout_s: float) -> Json:
        """{ok, number, outcome}: how the try ended, once it has and all that it printed was taken; else None after a while."""
        order, until = self._order, time.monotonic() + timeout_s
        if number != self._number or (order is None and self._process is None):
            return failure("stale", f"try {number} does not run here", "")
        if order is not None:
            if not order.wait(timeout_s):
                return {"ok": True, "number": number, "outcome": None}
            if order.outcome is not None:
                while not order.said_all and time.monotonic() < until:
                    time.sleep(LOOK_S)
                return {"ok": True, "number": number, "outcome": self._fields(order.outcome) if order.said_all else None}
        process = self._process
        assert process is not None
        outcome = process.wait(max(0.0, until - time.monotonic()))
        while outcome is not None and not process.said_all and time.monotonic() < until:
            time.sleep(LOOK_S)
        told = outcome if process.said_all else None
        return {"ok": True, "number": number, "outcome": None if told is None else self._fields(told)}

    def stop(self) -> None:
        """End the command politely, or what is built for it; returns at once."""
        if self._order is not None:
            self._order.cancel()
        process = self._process
        if process is not None:
            process.stop()

    def lines(self) -> list[str]:
        """What the command printed since the last call, as much of it as may travel at once."""
        process, order = self._process, self._order
        found = order.take_lines() if order is not None else []
        found += process.take_lines(LINES_BYTES) if process is not None else []
        return [self._mask(line) for line in found]

    def artifacts(self, number: int) -> Json:
        """{ok, number, files: [[path, digest, bytes, executable]], unmatched, left_out} of a try that has ended."""
        with self._beginning:
            if number != self._number or self.running:
                return failure("stale", f"try {number} has not ended here", "")
            if self._collected is None:
                self._collected = collect(self._folder / "work", self._artifacts)
            found = self._collected
            return {
                "ok": True, "number": number, "files": _rows(found.files), "unmatched": list(found.unmatched), "left_out": found.left_out,
            }  # fmt: skip

    def saved(self, number: int, kept: bool) -> Json:
        """{ok, number, saved, waiting, spent_ms, cores}: what is whole in the checkpoint folder now, as a manifest, and units
        of it that are not (see `Saver`); the time of a processor that this took, of the so many that the lease has. kept:
        whether all of the last answer is in the store.
        """
        process = self._process
        if number != self._number or (self._order is None and process is None):
            return failure("stale", f"try {number} does not run here", "")
        with self._looking:
            if kept:
                self._saver.kept(self._told)
            try:
                found = self._look(process)
            except OSError as error:
                return failure("died", f"there is no room for what is to be saved: {error.strerror}", "")
            saved = Saved(self._job, number, found.files, found.left_out)
            self._told = set(saved.blocks)
        answer = {"saved": saved.to_json(), "waiting": list(found.waiting), "spent_ms": int(1000 * found.spent_s), "cores": self._cores}
        return {"ok": True, "number": number, **answer}

    def block(self, digest: str) -> bytes:
        """A block of what `saved` told; nothing when it is not to be had any more."""
        with self._looking:
            return self._saver.read(digest) or b""

    def lacks(self, digests: Sequence[str]) -> list[str]:
        """Those of the blocks that are not here; none where something has begun already, as what it saved is here."""
        return [] if (self._folder / CHECKPOINT).exists() else self._saver.lacks(digests)

    def put_blocks(self, contents: Sequence[bytes]) -> None:
        """Blocks of what was saved elsewhere. Raises OSError."""
        for content in contents:
            self._saver.put(content)

    def piece(self, path: str, offset: int) -> bytes:
        """At most PIECE_BYTES of an artifact, from byte `offset` on. Raises OSError."""
        return read_piece(self._folder / "work", path, offset, PIECE_BYTES)

    def drain(self, timeout_s: float) -> bool:
        """Take what is saved, end the command politely, and wait until the run has fetched what it needs (`dismiss`); whether
        all that was done in time.
        """
        until = time.monotonic() + timeout_s
        if self._order is not None:
            self._order.cancel()
            self._order.wait(timeout_s)
        process = self._process
        if process is None:
            return self._order is None or self._dismissed.wait(max(0.0, until - time.monotonic()))
        if process.outcome is None:
            with self._looking, contextlib.suppress(OSError):
                self._saver.look(min(WHOLE_S, timeout_s / 4))
        process.stop()
        over = process.wait(max(0.0, until - time.monotonic())) is not None
        return over and self._dismissed.wait(max(0.0, until - time.monotonic()))

    def dismiss(self) -> None:
        """The run needs nothing more from here."""
        self._dismissed.set()

    def close(self) -> None:
        """End the command at once."""
        if self._sessions is not None:
            self._sessions.close()
        self._end_process()

    def _end_process(self) -> None:
        if self._order is not None:
            self._order.stop()
        if self._process is not None:
            self._process.close()
            self._process = None
        if self._order is not None:
            self._order.release()
            self._order = None

    def _look(self, process: CommandProcess | None) -> Taken:
        if process is None:  # its environment is being built
            return self._saver.look(0.0)
        if process.outcome is None:
            found = self._saver.look(WHOLE_S, lambda: process.outcome is None and not process.stopping)
        if process.outcome is not None:
            by_itself = process.outcome.kind == "exit" or process.outcome.exited
            found = self._saver.look_last(process.ended_ms, by_itself=by_itself)
        return found

    def _fields(self, outcome: Outcome) -> Json:
        told = {name: getattr(outcome, name) for name in ("kind", "code", "signal", "duration_ms")}
        return told | {"detail": self._mask(outcome.detail), "tail": self._mask(outcome.tail)}

    def _prepare(self, workdir: Content | None, data: Content | None, saved: Json | None) -> None:
        """Fresh folders with the job's files. Raises PackingError, and OSError when this machine cannot write them."""
        if saved is not None and not (self._folder / CHECKPOINT).exists():
            self._saver.restore(Saved.from_json(saved).files)
        for name in FRESH:
            wipe(self._folder / name)
        for name in ("work", "home", "tmp", CHECKPOINT):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        if workdir is not None:
            unpack(reading(workdir), self._folder / "work", executables=True)
        if data is not None:
            unpack(reading(data), self._folder / "data")


def _environment(order: Json, place: Place) -> dict[str, str]:
    return {
        "TORG_JOB": order["job"],
        "TORG_ATTEMPT": str(order["number"]),
        "TORG_RESTART_COUNT": str(order["restarts"]),
        "TORG_CHECKPOINT_DIR": place.seen(CHECKPOINT),
    }


def _rows(files: Sequence[Found]) -> list[list[Any]]:
    return [[file.path, file.digest, file.bytes, file.executable] for file in files]
