"""The parent's side of a batch job's command: start it in its sandbox, read what it prints, end it. Believes nothing.

The command lies in a folder of its own, `scratch`, which is all that it may write: `work` (where it begins), `home`, `tmp`,
`checkpoint`, and `data` where the job has any. What is said to it beside its arguments is in the environment: see
`trainers/actors/command_desk.py` for the variables.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainers import sandbox
from trainers.attempts import KINDS, Outcome
from trainers.child_log import ChildLog
from trainers.disk_use import DiskWatch
from trainers.launches import LOOPBACK
from trainers.outward import door as outward
from trainers.outward.door import GatewayProcess, NoWayOut
from trainers.ready import wait_ready
from trainers.sessions.hearing import Hearing
from trainers.sessions.link import SEND_WITHIN_S, SessionLink
from trainers.spawning import Place, spawn

__all__ = ["CommandProcess", "Place"]

GRACE_S = 5.0
PATIENCE_S = 15.0
"""Beyond timeout and grace, for the process around the command to say that it ended."""
NO_MEMORY = "it took more memory than its limit: the kernel ended a process of it"
LOG_LINES = 20_000
LOG_BYTES = 4 << 20

Json = dict[str, Any]


class CommandProcess:
    """One try of a command. Any thread may call anything; `outcome` is None while it runs, and `ended_ms` (since 1970) 0."""

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], place: Place, *, timeout_s: float | None,
        grace_s: float = GRACE_S, ranks: int | None = None, job: str = "",
    ) -> None:  # fmt: skip
        """Starts it. `environment` is added to what every command has. `ranks`: how many processes of it, as torchrun would
        start them (`launches`); None for one as it is. Raises OSError when there is no sandbox to be had, and NoWayOut when
        `place` has a way out and it does not open.
        """
        self.outcome: Outcome | None = None
        self.ended_ms = 0
        self._began = time.monotonic()
        self._over = threading.Event()
        self._stopping = threading.Event()
        self._grace_s = grace_s
        begun = spawn("trainers.command_child", ["--isolation", place.isolation], place, dies_with_parent=False)
        self._process, self._connection, self._inner, self._group = (
            begun.process,
            begun.connection,
            begun.pid,
            begun.group,
        )
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SEND_WITHIN_S), 0))
        self.sessions, self.place = SessionLink(self._connection), place
        self._gateway = None
        if begun.listener is not None:
            assert place.way_out is not None
            try:
                self._gateway = GatewayProcess(begun.listener, place.way_out)
            except NoWayOut:
                self._end_it_all()
                raise
        assert self._process.stdout is not None
        self._log = ChildLog(self._process.stdout, max_lines=LOG_LINES, max_bytes=LOG_BYTES)
        own = {} if ranks is None else dict(LOOPBACK)
        own |= sandbox.command_environment(
            place.threads // (ranks or 1), place.seen("home"), place.seen("tmp"), place.code, _programs(place), place.devices
        )
        if place.environment_seen is not None:
            own |= {"VIRTUAL_ENV": place.environment_seen, "PATH": f"{place.environment_seen}/bin:{own['PATH']}"}
        if self._gateway is not None:
            own |= outward.environment()
        order = {
            "argv": list(argv), "environment": {**own, **environment}, "folder": place.seen("work"), "timeout_s": timeout_s,
            "grace_s": grace_s, "memory_limit_bytes": place.memory_limit_bytes, "cuda": bool(place.devices),
            "processes": place.tasks, "ranks": ranks, "job": job,
        }  # fmt: skip
        with contextlib.suppress(OSError):  # it is gone already, as its watch will find
            self._connection.sendall(json.dumps(order).encode() + b"\n")
        self._disk = DiskWatch(place.scratch, place.disk_limit_bytes)
        self._beyond: str | None = None
        ends = None if timeout_s is None else self._began + timeout_s + grace_s + PATIENCE_S
        threading.Thread(target=self._watch, args=(ends,), name="watch-command", daemon=True).start()

    def stop(self) -> None:
        """SIGTERM to all of it, SIGKILL after the grace; returns at once. Harmless when it is over."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self.sessions.send(b"stop\n")

    @property
    def stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stopping.is_set()

    def wait(self, timeout_s: float) -> Outcome | None:
        """How it ended, once it has."""
        self._over.wait(timeout_s)
        return self.outcome

    def take_lines(self, most_bytes: int) -> list[str]:
        """What it printed since the last call, the oldest lines first, and what there is to say of its way out."""
        printed = self._log.take(most_bytes)
        return printed if self._gateway is None else printed + self._gateway.take_lines()

    @property
    def said_all(self) -> bool:
        """Whether it is over and every line of it was taken."""
        return self._over.is_set() and self._log.said_all and (self._gateway is None or self._gateway.said_all)

    def close(self) -> None:
        """End what is left of it at once."""
        self._end_it_all()
        self._over.wait(PATIENCE_S)

    def _watch(self, ends: float | None) -> None:
        told = self._heard(ends)
        self.ended_ms = time.time_ns() // 1_000_000
        self.sessions.end()
        if told is None:
            self._end_it_all()
        self._process.wait()
        no_memory = self._group.ran_out_of_memory()
        self._group.close()
        if self._gateway is not None:
            self._gateway.close()
        self._log.close()
        with contextlib.suppress(OSError):
            self._connection.close()
        duration_ms = int(1000 * (time.monotonic() - self._began))
        outcome = _outcome(told, duration_ms, self._log.tail())
        if self._beyond is not None and not outcome.succeeded:
            outcome = replace(outcome, kind="limit", code=None, signal=None, detail=self._beyond)
        elif no_memory and not outcome.succeeded:
            whose = f" ({outcome.detail})" if outcome.detail else ""
            outcome = replace(outcome, kind="memory", code=None, signal=None, detail=NO_MEMORY + whose)
        self.outcome = outcome
        self._over.set()

    def _heard(self, ends: float | None) -> bytes | None:
        """The one line that the process around the command says at its end; None when it says none in time."""
        hearing = Hearing(self._connection, self.sessions)
        while hearing.told is None:
            if self._beyond is None and (used := self._disk.beyond()) is not None:
                limit = self._disk.limit_bytes
                self._beyond = f"it wrote more than its folder may hold: {used >> 20} of {limit >> 20} MiB"
                self.stop()
            if self._stopping.is_set() and ends is None:
                ends = time.monotonic() + self._grace_s + PATIENCE_S
            if ends is not None and time.monotonic() > ends:
                return None
            try:
                if wait_ready([self._connection], 0.5)[0] and not hearing.hear():
                    return None
            except (OSError, ValueError):  # closed under us
                return None
        return hearing.told

    def _end_it_all(self) -> None:
        """Without asking: under bubblewrap the end of its first process is the end of all."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._inner, signal.SIGKILL)


def _programs(place: Place) -> list[str]:
    """A folder with a `python`, where this Python's own has none under that name."""
    if (Path(sys.executable).parent / "python").exists():
        return []
    folder = place.scratch / "bin"
    folder.mkdir(exist_ok=True)
    program = folder / "python"
    program.unlink(missing_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    return [place.seen("bin")]


def _outcome(told: bytes | None, duration_ms: int, tail: str) -> Outcome:
    """What the process around the command says, as far as it can be."""
    gone = Outcome("died", duration_ms=duration_ms, detail="it ended without a word", tail=tail)
    if told is None:
        return gone
    try:
        found = json.loads(told)
        kind, detail = found["kind"], str(found.get("detail") or "")[:1000]
        code, number = found.get("code"), found.get("signal")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return gone
    right = kind in KINDS and (kind != "exit" or _is_byte(code)) and (kind != "signal" or _is_byte(number))
    if not right:
        return gone
    return Outcome(
        kind, code if kind == "exit" else None, number if kind == "signal" else None, duration_ms, detail, tail,
        exited=found.get("exited") is True,
    )  # fmt: skip


def _is_byte(value: object) -> bool:
    return type(value) is int and 0 <= value <= 255
