"""One worker's command of a batch job: begins tries, tells how they end, hands out what they leave.

A try has a number, and beginning the same one again changes nothing: so a run that was replaced goes on by asking again.
Every try begins in a fresh working folder; only `checkpoint` stays from one try to the next, and what the command has closed
in it can be fetched while it runs.

The command's environment, beside what its job says: `TORG_JOB`, `TORG_ATTEMPT` (tries count from 1), `TORG_RESTART_COUNT`
(how often it began before, here or elsewhere), `TORG_CHECKPOINT_DIR`, and `TORG_DATA` where the job has data.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from storage.archives import PackingError, unpack
from trainers.actors.failures import failure
from trainers.attempts import Outcome
from trainers.collecting import PIECE_BYTES, Collection, Found, collect, read_piece
from trainers.command_process import CommandProcess, Place
from trainers.devices import Device
from trainers.saving import Saver
from trainers.scratch import wipe

Json = dict[str, Any]
Kind = Literal["artifacts", "saved"]

FRESH = ("work", "home", "tmp", "data", "bin")
CHECKPOINT = "checkpoint"
FOLDERS: Mapping[Kind, str] = {"artifacts": "work", "saved": CHECKPOINT}
LOOK_S = 0.05
LINES_BYTES = 256 << 10
"""Of printed lines, in one reading."""


class CommandDesk:
    """See the module. `scratch`: the worker's own folder, in which the command gets one."""

    def __init__(self, *, scratch: Path, isolation: Literal["sandbox", "process"], memory_limit_bytes: int) -> None:
        self._folder = scratch / "command"
        self._isolation: Literal["sandbox", "process"] = isolation
        self._memory_limit_bytes = memory_limit_bytes
        self._beginning, self._looking = threading.Lock(), threading.Lock()
        self._number = 0
        self._process: CommandProcess | None = None
        self._refused: Json | None = None
        self._artifacts: Sequence[str] = ()
        self._collected: Collection | None = None
        self._saver = Saver(self._folder / CHECKPOINT)

    @property
    def running(self) -> bool:
        """Whether a command runs now."""
        return self._process is not None and self._process.outcome is None

    def begin(
        self, order: Json, workdir: bytes | None, data: bytes | None, checkpoint: bytes | None, *, threads: int,
        devices: Sequence[Device], shares: Mapping[str, Path],
    ) -> Json:  # fmt: skip
        """Start try `order["number"]`, unless it was; {ok, number}, or what is wrong with the job's files.

        `order`: {job, number, restarts, command, data}, the last two as in the spec. workdir, data, checkpoint: tars; the
        last one is what was saved elsewhere, and is unpacked where nothing has begun yet.
        """
        with self._beginning:
            if order["number"] == self._number:
                return self._refused or {"ok": True, "number": self._number}
            self._end_process()
            command, job_data = order["command"], order["data"]
            self._artifacts, self._collected, self._number = command["artifacts"], None, order["number"]
            try:
                self._refused = None
                self._prepare(workdir, data, checkpoint)
            except PackingError as error:
                self._refused = failure("import", f"the job's files cannot be unpacked: {error}", "")
                return self._refused
            place = Place(self._folder, self._isolation, threads, self._memory_limit_bytes, devices, shares)
            environment = _environment(order, place) | command["env"]
            if job_data["kind"] != "none":
                shared = job_data["kind"] == "share"
                environment["TORG_DATA"] = place.share(job_data["name"]) if shared else place.seen("data")
            timeout_ms = command["timeout_ms"]
            self._process = CommandProcess(
                command["argv"], environment, place, timeout_s=None if timeout_ms is None else timeout_ms / 1000
            )
            return {"ok": True, "number": self._number}

    def wait(self, number: int, timeout_s: float) -> Json:
        """{ok, number, outcome}: how the try ended, once it has and all that it printed was taken; else None after a while."""
        process = self._process
        if process is None or number != self._number:
            return failure("stale", f"try {number} does not run here", "")
        until = time.monotonic() + timeout_s
        outcome = process.wait(timeout_s)
        while outcome is not None and not process.said_all and time.monotonic() < until:
            time.sleep(LOOK_S)
        told = outcome if process.said_all else None
        return {"ok": True, "number": number, "outcome": None if told is None else _fields(told)}

    def stop(self) -> None:
        """End the command politely; returns at once."""
        process = self._process
        if process is not None:
            process.stop()

    def wait_over(self, timeout_s: float) -> bool:
        """Whether no command runs, after at most so long."""
        process = self._process
        return process is None or process.wait(timeout_s) is not None

    def lines(self) -> list[str]:
        """What the command printed since the last call, as much of it as may travel at once."""
        process = self._process
        return process.take_lines(LINES_BYTES) if process is not None else []

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

    def saved(self, number: int) -> Json:
        """{ok, number, files, open, left_out}: what is closed in the checkpoint folder now; see `Saver`. `files` as above."""
        if number != self._number:
            return failure("stale", f"try {number} does not run here", "")
        with self._looking:
            found = self._saver.look()
        return {
            "ok": True,
            "number": number,
            "files": _rows(found.files),
            "open": list(found.open),
            "left_out": found.left_out,
        }

    def piece(self, kind: Kind, path: str, offset: int) -> bytes:
        """At most PIECE_BYTES of an artifact or of a saved file, from byte `offset` on. Raises OSError."""
        return read_piece(self._folder / FOLDERS[kind], path, offset, PIECE_BYTES)

    def close(self) -> None:
        """End the command at once."""
        self._end_process()

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def _prepare(self, workdir: bytes | None, data: bytes | None, checkpoint: bytes | None) -> None:
        """Fresh folders with the job's files. Raises PackingError, and OSError when this machine cannot write them."""
        if checkpoint is not None and not (self._folder / CHECKPOINT).exists():
            unpack(io.BytesIO(checkpoint), self._folder / CHECKPOINT, executables=True)
        for name in FRESH:
            wipe(self._folder / name)
        for name in ("work", "home", "tmp", CHECKPOINT):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        if workdir is not None:
            unpack(io.BytesIO(workdir), self._folder / "work", executables=True)
        if data is not None:
            unpack(io.BytesIO(data), self._folder / "data")


def _environment(order: Json, place: Place) -> dict[str, str]:
    return {
        "TORG_JOB": order["job"],
        "TORG_ATTEMPT": str(order["number"]),
        "TORG_RESTART_COUNT": str(order["restarts"]),
        "TORG_CHECKPOINT_DIR": place.seen(CHECKPOINT),
    }


def _rows(files: Sequence[Found]) -> list[list[Any]]:
    return [[file.path, file.digest, file.bytes, file.executable] for file in files]


def _fields(outcome: Outcome) -> Json:
    names = ("kind", "code", "signal", "duration_ms", "detail", "tail")
    return {name: getattr(outcome, name) for name in names}
