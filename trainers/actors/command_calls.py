"""The calls of a worker that a batch job's run makes: `begin` instead of `load`, `outcome` instead of rounds.

A part of `Worker`, whose meter, lease and folder these calls use. A worker serves one job, so one that begins a command
trains nothing: its warm child is ended and gives its memory back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Literal

from storage.archives import Content
from trainers.actors.failures import failure
from trainers.actors.leaving import Leaving
from trainers.actors.meter import Meter
from trainers.actors.tidings import Tidings
from trainers.actors.warm_child import WarmChild
from trainers.devices import devices_of

if TYPE_CHECKING:  # a worker that is warm imports little
    from trainers.actors.command_desk import CommandDesk

Json = dict[str, Any]

OUTCOME_WAIT_S = 10.0


class CommandCalls:
    """See the module."""

    _turn: threading.RLock
    _meter: Meter
    _child: WarmChild
    _scratch: Path
    _isolation: Literal["sandbox", "process"]
    _memory_limit_bytes: int
    _threads_per_unit: int
    _has: tuple[int, Sequence[Json], str | None]
    _shares: Mapping[str, Path]
    _called_at: float
    _phase: str
    _leaving: Leaving
    _tidings: Tidings
    _commands: CommandDesk | None
    _secrets: Mapping[str, str]
    _door: Mapping[str, str]
    _lease: Json | None
    _way_out: Json | None
    _environments: Json | None

    def lacks(self, digests: Sequence[str]) -> Json:
        """Which blocks of what the command saved this machine needs before `begin`; {ok, lacking}."""
        with self._turn:
            self._called_at = time.monotonic()
            return {"ok": True, "lacking": self._desk().lacks(digests)}

    def put_blocks(self, contents: Sequence[bytes]) -> Json:
        """Some of them; {ok}. Raises OSError when they cannot be written."""
        with self._turn:
            self._called_at = time.monotonic()
            self._desk().put_blocks(contents)
            return {"ok": True}

    def begin(self, order: Json, workdir: Content | None, data: Content | None, saved: Json | None) -> Json:
        """Start a try of the job's command; {ok, number}. See `CommandDesk.begin`. Starts the meter.

        `order["says"]`: lines of the job's log, unless that try was begun here before.
        """
        with self._turn:
            self._called_at = time.monotonic()
            refusal = self._leaving.refusal()
            if refusal is not None:
                return refusal
            self._meter.start()
            if order["number"] != self._desk().number:
                at_ms = time.time_ns() // 1_000_000
                said = [{"at_ms": at_ms, "source": "run", "line": line} for line in order["says"]]
                self._tidings.add("logs", said)
            units, devices, share = self._has
            answer = self._desk().begin(
                order, workdir, data, saved, threads=self._threads_per_unit * units, devices=devices_of(devices),
                shares={share: self._shares[share]} if share is not None else {}, units=units,
            )  # fmt: skip
            if self._desk().running:
                self._phase = "running"
                self._meter.training()
            return answer

    def outcome(self, number: int) -> Json:
        """How that try ended, or after a while that it has not; {ok, number, outcome}. See `CommandDesk.wait`."""
        self._called_at = time.monotonic()
        if self._commands is None:
            return failure("stale", "no command was begun here", "")
        answer = self._commands.wait(number, OUTCOME_WAIT_S)
        if not self._commands.running and self._phase == "running":
            self._phase = "ended"
            self._meter.trained()
        return answer

    def end_command(self) -> Json:
        """Ask the command to end, and see to it that it does; {ok}. `outcome` tells when it has."""
        if self._commands is not None:
            self._commands.stop()
        return {"ok": True}

    def artifacts(self, number: int) -> Json:
        """What the try left of what the job wants to keep; {ok, number, files, unmatched, left_out}."""
        if self._commands is None:
            return failure("stale", "no command was begun here", "")
        return self._commands.artifacts(number)

    def saved(self, number: int, kept: bool) -> Json:
        """What the try has saved; {ok, number, saved, waiting, spent_ms, cores}. See `CommandDesk.saved`."""
        if self._commands is None:
            return failure("stale", "no command was begun here", "")
        return self._commands.saved(number, kept)

    def blocks(self, digests: Sequence[str]) -> list[PickleBuffer]:
        """Blocks of what `saved` told of, nothing for one that is gone; as buffers, which are copied once on their way."""
        assert self._commands is not None, "what was saved before its blocks"
        return [PickleBuffer(self._commands.block(digest)) for digest in digests]

    def piece(self, path: str, offset: int) -> bytes:
        """Some bytes of a file that `artifacts` told of, from `offset` on; none at its end. Raises OSError."""
        assert self._commands is not None, "files before their pieces"
        return self._commands.piece(path, offset)

    def dismiss(self) -> Json:
        """The run needs nothing more from here; {ok}. A drain waits for it."""
        if self._commands is not None:
            self._commands.dismiss()
        return {"ok": True}

    def _desk(self) -> CommandDesk:
        """Made when it is first needed; ends the warm child."""
        from trainers.actors.command_desk import CommandDesk

        if self._commands is None:
            self._child.kill()
            self._commands = CommandDesk(
                scratch=self._scratch, isolation=self._isolation, memory_limit_bytes=self._memory_limit_bytes,
                secrets=self._secrets, way_out=self._way_out, environments=self._environments,
            )  # fmt: skip
            if self._door and self._lease is not None:
                self._commands.take_sessions({**self._door, "lease": self._lease["lease"], "epoch": self._lease["epoch"]})
        return self._commands
