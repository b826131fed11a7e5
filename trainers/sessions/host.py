"""A worker takes the sessions that its lease's customer asks for: polls the market, and runs each on threads of its own.

Neither Ray's calls nor the run know of them. One thread asks for new sessions for as long as the lease lives; of each session
one hears the customer and one does the rest (`Run`).
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.trust import client_context
from trainers.command_process import CommandProcess
from trainers.ready import wait_ready
from trainers.sessions import frames
from trainers.sessions.frames import BadFrame, frame
from trainers.sessions.line import Caller, Line, LineLost, Refusal
from trainers.sessions.link import Opened
from trainers.sessions.orders import message_of

log = logging.getLogger(__name__)

Json = dict[str, Any]

WAIT_S = 25.0
PAUSE_S = 0.5
HARD_AFTER_S = 3.0
QUIET_S = 0.2
"""After its process has ended, for what it has left running to be quiet: that may hold its output open for ever."""
PIPE_BYTES = 256 << 10
MOST_AT_ONCE_BYTES = 32 << 10
"""Of each output before the next is looked at; with one frame more of each, no more than a POST takes."""
TIMED_OUT, NOT_RUNNING = 124, 255


@dataclass(frozen=True, slots=True)
class Door:
    """Where the market is, and what opens the sessions of this lease there. `ca`: a file of certificates, or nothing."""

    url: str
    token: str
    ca: str
    lease: str
    epoch: int

    @property
    def path(self) -> str:
        return f"/v1/leases/{self.lease}/sessions"


class SessionHost:
    """Polls from now on. `running`: the command that runs now, if one does."""

    def __init__(self, door: Door, running: Callable[[], CommandProcess | None]) -> None:
        self._door, self._running = door, running
        self._context = client_context(Path(door.ca) if door.ca else None) if door.url.startswith("https:") else None
        self._over = threading.Event()
        self._caller = Caller(door.url, door.token, self._context)
        self._taken: set[str] = set()
        threading.Thread(target=self._poll, name="sessions", daemon=True).start()

    def close(self) -> None:
        """Take no more."""
        self._over.set()
        self._caller.close()

    def _poll(self) -> None:
        seen: str | None = None
        while not self._over.is_set():
            query = {"epoch": self._door.epoch, "wait_s": WAIT_S} | ({} if seen is None else {"seen": seen})
            try:
                answer = self._caller.json("GET", self._door.path, query)
            except Refusal as refusal:
                if refusal.status in (401, 403, 404, 409):
                    return  # the lease is over
                self._over.wait(PAUSE_S)
            except (OSError, ValueError, http.client.HTTPException):
                self._over.wait(PAUSE_S)
            else:
                seen = answer["version"]
                for one in answer["sessions"]:
                    if one["id"] not in self._taken:
                        self._taken.add(one["id"])
                        threading.Thread(target=self._serve, args=(one["id"], one["order"]), name="session", daemon=True).start()

    def _serve(self, id: str, order: Json) -> None:
        door = self._door
        allowed = frames.FROM_CUSTOMER | frames.FROM_MARKET
        line = Line(door.url, door.token, f"{door.path}/{id}/frames", allowed, {"epoch": door.epoch}, self._context)
        try:
            answer = line.open()
            Run(line, id, order, self._running()).until_the_end(answer)
        except LineLost as lost:
            log.info("session %s: %s", id, lost)
        finally:
            line.close()


class Run:
    """One session, from its order to its end."""

    def __init__(self, line: Line, id: str, order: Json, command: CommandProcess | None) -> None:
        self._line, self._id, self._order = line, id, order
        self._command = command
        timeout_ms = order.get("timeout_ms")
        self._ends_at = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        self._lock = threading.Lock()
        self._input = bytearray()
        self._owed = 0
        self._input_ended = self._left = self._terminal_read = False
        self._opened: Opened | None = None
        self._stdin: int | None = None
        self._outputs: dict[int, int] = {}

    def until_the_end(self, answer: http.client.HTTPResponse) -> None:
        """Raises LineLost."""
        command = self._command
        if command is None or command.outcome is not None:
            self._exit(NOT_RUNNING, "not_running", "the job's command does not run now")
            return
        opened, theirs = self._open(command)
        for descriptor in theirs:
            os.close(descriptor)
        if opened is None:
            self._close_ours()
            self._exit(NOT_RUNNING, "not_running", "the job's command does not run now")
            return
        self._opened = opened
        threading.Thread(target=self._hear, args=(answer,), name="session-input", daemon=True).start()
        try:
            self._pump(command, opened)
        except LineLost:
            self._kill(command)
            raise
        finally:
            with self._lock:
                self._close_ours()
                self._opened = None
            command.sessions.forget(opened)

    def _open(self, command: CommandProcess) -> tuple[Opened | None, list[int]]:
        message = message_of(self._order, command.place)
        theirs: list[int] = []
        if not message["tty"]:
            reading, self._stdin = os.pipe2(os.O_CLOEXEC)
            theirs = [reading]
            for kind in (frames.STDOUT, frames.STDERR):
                ours, writing = os.pipe2(os.O_CLOEXEC)
                self._outputs[ours] = kind
                theirs.append(writing)
            for descriptor in (self._stdin, *self._outputs):
                os.set_blocking(descriptor, False)
                _widen(descriptor)
        return command.sessions.open(self._id, message, theirs), theirs

    # what the customer says

    def _hear(self, answer: http.client.HTTPResponse) -> None:
        try:
            for kind, payload in self._line.frames(answer):
                if kind == frames.OVER:
                    break
                self._obey(kind, payload)
        except (LineLost, BadFrame) as error:
            log.info("session %s: %s", self._id, error)
        with self._lock:
            self._left = True
            if self._opened is not None:
                self._opened.changed()

    def _obey(self, kind: int, payload: bytes) -> None:
        assert self._command is not None
        with self._lock:
            if self._opened is None:
                return
            if kind == frames.STDIN:
                self._input += payload
                if len(self._input) > frames.WINDOW_BYTES:
                    raise BadFrame("more input than was asked for")
            elif kind == frames.STDIN_END:
                self._input_ended = True
            elif kind == frames.SIZE and self._opened.terminal is not None:
                _resize(self._opened.terminal, payload)
            self._opened.changed()
        if kind == frames.SIGNAL and 1 <= payload[0] <= 31:
            self._command.sessions.signal(self._id, payload[0])

    # what the process says

    def _pump(self, command: CommandProcess, opened: Opened) -> None:
        """Until its process has ended and what it printed is sent."""
        late = left = False
        hard_at: float | None = None
        while True:
            if opened.terminal is not None and not self._terminal_read:
                self._outputs[opened.terminal], self._terminal_read = frames.STDOUT, True
            had_ended = opened.ended is not None
            quiet = not self._move(opened, hard_at)
            # A terminal gives its last words a moment after its process has ended: only a silence since then is the end.
            if opened.ended is not None and ((had_ended and quiet) or not self._outputs):
                break
            now = time.monotonic()
            late = late or (self._ends_at is not None and now >= self._ends_at)
            left = left or self._left
            if (late or left) and hard_at is None:
                command.sessions.close(self._id, hard=False)
                hard_at = now + HARD_AFTER_S
            elif hard_at is not None and now >= hard_at:
                command.sessions.close(self._id, hard=True)
                hard_at = now + HARD_AFTER_S
        if not left:
            self._exit(*_ended(opened.ended, late))

    def _move(self, opened: Opened, hard_at: float | None) -> bool:
        """Some bytes each way, as there are; whether anything happened."""
        wants = self._wanted_input(opened)
        writable = [] if wants is None else [wants]
        readable, ready = wait_ready([opened.wake, *self._outputs], self._wait_s(opened, hard_at), writable)
        stirred = bool(readable)
        if opened.wake in readable:
            os.eventfd_read(opened.wake)
            readable.remove(opened.wake)
        told = bytearray()
        for descriptor in readable:
            kind = self._outputs[descriptor]
            while (data := _read(descriptor)) and len(told) < MOST_AT_ONCE_BYTES:
                told += frame(kind, data)
            if data:
                told += frame(kind, data)
            elif data is not None:
                del self._outputs[descriptor]
                if descriptor != opened.terminal:
                    os.close(descriptor)
        if ready:
            told += self._write_input(ready[0])
        if told:
            self._line.send(bytes(told))
        return stirred

    def _wait_s(self, opened: Opened, hard_at: float | None) -> float:
        if opened.ended is not None:
            return QUIET_S
        now = time.monotonic()
        until = min(one for one in (now + 5.0, self._ends_at if hard_at is None else None, hard_at) if one is not None)
        return max(0.0, until - now)

    def _wanted_input(self, opened: Opened) -> int | None:
        """Where input may go, if some waits; closes what is at its end."""
        with self._lock:
            if self._input:
                return opened.terminal if self._order["kind"] == "shell" else self._stdin
            if self._input_ended and self._stdin is not None:
                os.close(self._stdin)
                self._stdin = None
            return None

    def _write_input(self, descriptor: int) -> bytes:
        """The frame that gives the customer room again."""
        with self._lock:
            try:
                written = os.write(descriptor, self._input[:PIPE_BYTES])
            except BlockingIOError:
                return b""
            except OSError:  # it reads no more; what comes is thrown away
                written = len(self._input)
            del self._input[:written]
            self._owed += written
            if self._owed < frames.WINDOW_BYTES // 4:  # whoever types has room enough
                return b""
            owed, self._owed = self._owed, 0
        return frame(frames.CREDIT, owed.to_bytes(4, "big"))

    def _kill(self, command: CommandProcess) -> None:
        command.sessions.close(self._id, hard=False)
        until = time.monotonic() + HARD_AFTER_S
        opened = self._opened
        while opened is not None and opened.ended is None and time.monotonic() < until:
            wait_ready([opened.wake], 0.2)
            time.sleep(0.05)
        command.sessions.close(self._id, hard=True)

    def _exit(self, code: int, reason: str, detail: str) -> None:
        told = json.dumps({"code": code, "reason": reason, "detail": detail[:2000]}).encode()
        self._line.send(frame(frames.EXIT, told))

    def _close_ours(self) -> None:
        terminal = None if self._opened is None else self._opened.terminal
        for descriptor in self._outputs:
            if descriptor != terminal:
                os.close(descriptor)
        if self._stdin is not None:
            os.close(self._stdin)
        self._outputs, self._stdin = {}, None


def _ended(ended: Mapping[str, Any] | None, late: bool) -> tuple[int, str, str]:
    assert ended is not None
    if late:
        return TIMED_OUT, "timeout", "it ran longer than its timeout"
    if "failed" in ended:
        return (127 if ended["failed"] == "not_found" else 126), "not_started", str(ended.get("detail"))
    code, number = ended.get("exit"), ended.get("signal")
    if type(code) is int and 0 <= code <= 255:
        return code, "exit", ""
    if type(number) is int and 1 <= number <= 64 and not ended.get("gone"):
        return 128 + number, "signal", f"it was ended by signal {number}"
    return NOT_RUNNING, "command_ended", "the job's command ended, and the session with it"


def _read(descriptor: int) -> bytes | None:
    """What there is; nothing at the end; None when there is nothing yet."""
    try:
        return os.read(descriptor, frames.MAX_PAYLOAD_BYTES)
    except BlockingIOError:
        return None
    except OSError:  # EIO: a terminal that nobody has open any more
        return b""


def _widen(descriptor: int) -> None:
    """Fewer turns for large copies; where it may not be, it is as wide as it is."""
    import fcntl

    try:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        log.info("pipes of the usual width")


def _resize(descriptor: int, payload: bytes) -> None:
    import fcntl
    import termios

    rows, columns = payload[:2], payload[2:]
    both = rows[::-1] + columns[::-1] if sys.byteorder == "little" else rows + columns
    try:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, both + bytes(4))
    except OSError:
        log.info("a terminal that cannot be resized")
