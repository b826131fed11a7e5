"""Real workers without Ray: a process each, on machines of their own where cables are given, called over TCP.

`Fleet` starts, kills, freezes and cuts them; `FleetTransport` is the `Transport` by which a course drives them. The
fleet's own machine has a cable without a limit: it stands for the market's. The job's data are on every machine before
it begins; everything else that a worker gets or gives crosses its cable.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil

from benchmarks.cables import INTERFACE, Cables, Machine, inside, interface_bytes
from benchmarks.comparators.launch import ENDING_WITH_US, environment
from benchmarks.fleet_messages import Stored, lane
from trainers.actors.transport import CallFailed, Gone

READY_TIMEOUT_S = 120.0
MEMORY_LIMIT_BYTES = 4 << 30
NEVER_S = 1e9

Json = dict[str, Any]
Key = TypeVar("Key")


class CannotCut(Exception):
    """A worker without a cable of its own cannot be cut off."""


@dataclass(slots=True)
class Remote:
    """One worker process. `calls`: those in progress; `outgoing`: what is still to be sent, by connection."""

    number: int
    name: str
    process: subprocess.Popen[bytes]
    machine: Machine | None
    connections: dict[int, Connection] = field(default_factory=dict)
    calls: dict[int, Future[Any]] = field(default_factory=dict)
    outgoing: tuple[queue.SimpleQueue[Any], ...] = field(
        default_factory=lambda: (queue.SimpleQueue(), queue.SimpleQueue())
    )
    met: threading.Event = field(default_factory=threading.Event)
    gone: Gone | None = None
    wire: tuple[int, int] = (0, 0)

    @property
    def address(self) -> str:
        """Where the other workers reach it."""
        return self.machine.address if self.machine is not None else "127.0.0.1"


class Fleet:
    """Worker processes under `folder`. `isolation` as in a lease; without `cables` all are on the loopback interface."""

    def __init__(self, folder: Path, *, cables: Cables | None, isolation: str) -> None:
        self._folder = folder
        self._cables = cables
        self._isolation = isolation
        self._key = secrets.token_bytes(16)
        self._changed = threading.Lock()
        self._next_call = 0
        self.remotes: dict[int, Remote] = {}
        home = None if cables is None else cables.add(limited=False)
        with inside(home):
            self._listener = Listener(("0.0.0.0" if home else "127.0.0.1", 0), backlog=64, authkey=self._key)
        self._address = (home.address if home else "127.0.0.1", self._listener.address[1])
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in self.remotes:
            self.kill(number)
        self._listener.close()

    def start(self) -> Remote:
        """Begin one more worker; its child warms at once. `wait_ready` says when both are there."""
        number = len(self.remotes)
        own = self._folder / f"worker-{number}"
        own.mkdir()
        machine = None if self._cables is None else self._cables.add()
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.fleet_worker"]
        with (own / "out").open("wb") as out:
            process = subprocess.Popen(
                [*ENDING_WITH_US, *(command if machine is None else machine.command(command))],
                stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, env=environment(),
            )  # fmt: skip
        remote = Remote(number, f"worker-{number}", process, machine)
        settings = {
            "name": remote.name, "host_pid": os.getpid(), "scratch": str(own / "scratch"), "threads_per_unit": 1,
            "devices": [], "memory_limit_bytes": MEMORY_LIMIT_BYTES, "shares": {}, "isolation": self._isolation,
            "orphan_after_s": NEVER_S, "host": remote.address,
        }  # fmt: skip
        told = {"address": self._address, "key": self._key.hex(), "number": number, "worker": settings}
        self.remotes[number] = remote
        assert process.stdin is not None
        process.stdin.write(json.dumps(told).encode() + b"\n")
        process.stdin.close()
        threading.Thread(target=self._mourn, args=(remote,), name=f"mourn-{number}", daemon=True).start()
        return remote

    def wait_ready(self, remotes: Iterable[Remote]) -> None:
        """Wait until their children have imported torch. A worker that cannot start is a bug of ours: RuntimeError."""
        for remote in remotes:
            if not remote.met.wait(READY_TIMEOUT_S):
                raise RuntimeError(f"{remote.name} did not start: {self.said(remote)}")
            answer = self.ask(remote, "ready").result(READY_TIMEOUT_S)
            if isinstance(answer, Gone) or answer["error"] is not None:
                raise RuntimeError(f"{remote.name} has no trainer child: {answer}")

    def store(self, content: bytes) -> Stored:
        """Put bytes where all machines have them."""
        path = self._folder / f"stored-{secrets.token_hex(8)}"
        path.write_bytes(content)
        return Stored(str(path))

    def said(self, remote: Remote) -> str:
        """The end of what a worker's process printed."""
        return (self._folder / remote.name / "out").read_text(errors="replace")[-3000:]

    # what happens to machines

    def kill(self, number: int) -> None:
        """SIGKILL to the worker's process and, with it, to its child."""
        remote = self.remotes[number]
        for process in _tree(remote.process.pid):
            _send(process, signal.SIGKILL)

    def freeze(self, number: int) -> None:
        """SIGSTOP to all its processes."""
        for process in _tree(self.remotes[number].process.pid):
            _send(process, signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """SIGCONT to all its processes."""
        for process in reversed(_tree(self.remotes[number].process.pid)):
            _send(process, signal.SIGCONT)

    def cut(self, number: int) -> None:
        """Pull its cable. Raises CannotCut without one."""
        machine = self.remotes[number].machine
        if self._cables is None or machine is None:
            raise CannotCut("a worker is cut off by its own cable: give --link none or a speed, as root")
        self._cables.cut(machine)

    def wire(self, number: int) -> tuple[int, int] | None:
        """(sent, received) bytes of its interface so far, the last ones known of a dead worker; None without cables."""
        remote = self.remotes[number]
        if remote.machine is None:
            return None
        try:
            shown = Path(f"/proc/{remote.process.pid}/net/dev").read_text()
            remote.wire = interface_bytes(shown, INTERFACE)
        except (OSError, LookupError):  # it is gone, and its namespace's counters with its process
            return remote.wire
        return remote.wire

    def cpu_s(self, number: int) -> float:
        """Processor seconds of the worker and all below it so far; 0 of a dead one."""
        return sum(_cpu_s(process) for process in _tree(self.remotes[number].process.pid))

    # calls

    def ask(self, remote: Remote, method: str, *arguments: Any) -> Future[Any]:
        """Start a call. The future gives the answer, `Gone`, or raises CallFailed; its number is never used again."""
        future: Future[Any] = Future()
        with self._changed:
            if remote.gone is not None:
                future.set_result(remote.gone)
                return future
            call = self._next_call = self._next_call + 1
            remote.calls[call] = future
        remote.outgoing[lane(arguments)].put((call, method, arguments))
        return future

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:  # closed
                return
            number, which = connection.recv()
            remote = self.remotes[number]
            remote.connections[which] = connection
            for task in (self._send_all, self._receive_all):
                threading.Thread(target=task, args=(remote, which), name=remote.name, daemon=True).start()
            if len(remote.connections) == len(remote.outgoing):
                remote.met.set()

    def _send_all(self, remote: Remote, which: int) -> None:
        while (item := remote.outgoing[which].get()) is not None:
            try:
                remote.connections[which].send(item)
            except OSError:  # its process is gone: `_mourn` says so to whoever waits
                return

    def _receive_all(self, remote: Remote, which: int) -> None:
        while True:
            try:
                call, well, answer = remote.connections[which].recv()
            except (EOFError, OSError):
                return
            with self._changed:
                future = remote.calls.pop(call, None)
            if future is None:
                continue
            if well:
                future.set_result(answer)
            else:
                future.set_exception(CallFailed(answer))

    def _mourn(self, remote: Remote) -> None:
        code = remote.process.wait()
        with self._changed:
            remote.gone = Gone("worker_killed", f"its process ended with {code}")
            waiting, remote.calls = remote.calls, {}
        for outgoing in remote.outgoing:
            outgoing.put(None)
        for future in waiting.values():
            future.set_result(remote.gone)


class FleetTransport:
    """A `Transport` over a fleet; a worker's handle is its `Remote`, a parcel is stored or the future of its bytes."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def find(self, name: str) -> Remote | None:
        """See Transport."""
        return next((remote for remote in self._fleet.remotes.values() if remote.name == name), None)

    def has_met(self, node: str) -> bool:
        """See Transport."""
        return True

    def ask(self, worker: Remote, method: str, *arguments: Any) -> Future[Any]:
        """See Transport. A parcel among the arguments is sent once its bytes are there."""
        waiting = [argument for argument in arguments if isinstance(argument, Future)]
        if all(parcel.done() for parcel in waiting):
            return self._fleet.ask(worker, method, *map(_opened, arguments))
        answer: Future[Any] = Future()
        threading.Thread(target=self._ask_later, args=(worker, method, arguments, answer), daemon=True).start()
        return answer

    def answers(self, calls: Mapping[Key, Future[Any]], timeout_s: float) -> dict[Key, Any]:
        """See Transport."""
        done = wait(calls.values(), max(0.0, timeout_s), FIRST_COMPLETED).done
        return {key: _answer(call) for key, call in calls.items() if call in done}

    def parcel(self, content: bytes) -> Stored:
        """See Transport."""
        return self._fleet.store(content)

    def made(self, parcel: Any, timeout_s: float) -> bool:
        """See Transport."""
        return not isinstance(parcel, Future) or bool(wait([parcel], timeout_s).done)

    def open(self, parcel: Stored | Future[Any], timeout_s: float) -> bytes | Gone:
        """See Transport."""
        if isinstance(parcel, Stored):
            return Path(parcel.path).read_bytes()
        try:
            found = parcel.result(timeout_s)
        except TimeoutError:
            return Gone("network_cut", f"its bytes did not come within {timeout_s:.0f} s")
        assert isinstance(found, bytes | Gone)
        return found

    def _ask_later(self, worker: Remote, method: str, arguments: tuple[Any, ...], answer: Future[Any]) -> None:
        try:
            opened = [_opened(argument) for argument in arguments]
            lost = [one for one in opened if isinstance(one, Gone)]
            if lost:
                raise CallFailed(f"a parcel is lost: {lost[0].detail}")
            answer.set_result(self._fleet.ask(worker, method, *opened).result())
        except CallFailed as failed:
            answer.set_exception(failed)


def _opened(argument: Any) -> Any:
    return argument.result() if isinstance(argument, Future) else argument


def _answer(call: Future[Any]) -> Any:
    error = call.exception()
    return call.result() if error is None else error


def _tree(pid: int) -> list[psutil.Process]:
    """A process and everything under it, it first."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
