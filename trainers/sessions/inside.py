"""Sessions in the sandbox: processes beside the command, started by the process around it. Imported there; no torch.

They are its children, as the command is, so they have its namespaces, rules, filters and groups, its environment and its
working folder. Their ends of pipes come with the order, by the connection to the parent; of a terminal, which is opened in
here because the sandbox has its own, the master goes to the parent.

Lines of JSON from the parent: {open, argv, environment, own, tty, columns, rows}, {signal: [id, number]}, {close: id, hard},
or "stop". To it: {ready}, {session, started}, {session, failed, detail}, {session, exit}, {session, signal} or {session, gone}.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Mapping
from typing import Any

from trainers.process_tree import descendants

MAX_MESSAGE_BYTES = 4 << 20
MOST_DESCRIPTORS = 16

Json = dict[str, Any]


class SessionProcesses:
    """All of one command. Whoever holds this waits for ended processes and hands them to `buried`."""

    def __init__(self, parent: socket.socket, environment: Mapping[str, str], folder: str) -> None:
        self._parent, self._environment, self._folder = parent, dict(environment), folder
        self._rest = b""
        self._descriptors: list[int] = []
        self._by_pid: dict[int, str] = {}
        self._by_id: dict[str, int] = {}
        self._terminals: set[str] = set()
        self._ending = False

    def ready(self) -> None:
        """Tell the parent that sessions may come."""
        self._say({"ready": True})

    def end(self) -> None:
        """The command is over, and whatever ends from now on ends with it."""
        self._ending = True

    def heard(self) -> bool:
        """Do what the parent says; whether it is to stop: because it says so, is gone, or says what cannot be read."""
        size = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
        try:
            data, extra, _, _ = self._parent.recvmsg(1 << 16, size, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        for level, kind, content in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array.array("i")
                found.frombytes(content[: len(content) - len(content) % found.itemsize])
                self._descriptors += found
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > MAX_MESSAGE_BYTES:
            return True
        return any(self._obeys(line) for line in lines)

    def buried(self, pid: int, status: int) -> None:
        """A process has ended that is none of the command's."""
        session = self._by_pid.pop(pid, None)
        if session is None:
            return
        if self._ending:
            self._say({"session": session, "gone": True})
        elif os.WIFSIGNALED(status):
            self._say({"session": session, "signal": os.WTERMSIG(status)})
        else:
            self._say({"session": session, "exit": os.waitstatus_to_exitcode(status)})

    def _obeys(self, line: bytes) -> bool:
        if line == b"stop":
            return True
        try:
            said = json.loads(line)
            if "open" in said:
                self._open(said)
            elif "signal" in said:
                session, number = said["signal"]
                self._signal(session, number)
            elif "close" in said:
                self._close(said["close"], hard=said["hard"])
        except (ValueError, KeyError, TypeError):
            return True
        return False

    def _open(self, order: Json) -> None:
        session, tty = order["open"], order["tty"]
        base = {} if order["own"] else self._environment
        environment = {**base, **order["environment"]}
        given = [self._descriptors.pop(0) for _ in range(0 if tty else 3)]
        master: int | None = None
        try:
            if tty:
                master, slave = os.openpty()
                fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", order["rows"], order["columns"], 0, 0))
                given = [slave, slave, slave]
            process = subprocess.Popen(
                order["argv"], env=environment, cwd=self._folder, stdin=given[0], stdout=given[1], stderr=given[2],
                start_new_session=True, preexec_fn=_take_terminal if tty else None,  # noqa: PLW1509  nothing but one system call
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            kind = "not_found" if isinstance(error, FileNotFoundError) else "not_executable"
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            self._say({"session": session, "failed": kind, "detail": f"{order['argv'][0]}: {why}"})
        else:
            process.returncode = 0  # it is waited for by whoever holds this
            if tty:
                self._terminals.add(session)
            self._by_pid[process.pid], self._by_id[session] = session, process.pid
            self._say({"session": session, "started": process.pid}, master)
        finally:
            for descriptor in {*given, *([] if master is None else [master])}:
                os.close(descriptor)

    def _signal(self, session: str, number: int) -> None:
        pid = self._by_id.get(session)
        if pid is not None and pid in self._by_pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)

    def _close(self, session: str, *, hard: bool) -> None:
        """End all of its session, as far as it has not left it, as whoever closes a terminal or a pipe would."""
        leader = self._by_id.get(session)
        number = signal.SIGKILL if hard else signal.SIGHUP if session in self._terminals else signal.SIGTERM
        for pid in descendants(os.getpid()) if leader is not None else ():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) == leader:
                    os.kill(pid, number)

    def _say(self, told: Json, descriptor: int | None = None) -> None:
        rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        with contextlib.suppress(OSError):  # the parent is gone, as whoever holds this is about to find
            self._parent.sendmsg([json.dumps(told).encode() + b"\n"], rights)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
