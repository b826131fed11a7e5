"""The process around a batch job's command: `python -m trainers.command_child --fd N --isolation LEVEL`. No torch.

It takes one order from its parent, limits itself, starts the command in a session of its own, and says how it ended. It
ends the command, and all that the command started (what made itself a daemon, too), by SIGTERM and after a grace by
SIGKILL: when it is told `stop`, after the command's timeout, at its memory limit, and when the parent is gone. Whatever the
command has left running when it ends is killed.

With `ranks` it starts the command so many times, as torchrun would (`launches`): the first of them that fails is how the
command ends, and the others are ended then.

Over a socket, lines of JSON. Parent to child: the order {argv, environment, folder, timeout_s, grace_s, memory_limit_bytes,
cuda, processes, ranks, job}, later perhaps "stop", and what concerns sessions (`sessions.inside`). Child to parent: the
same, and at the end {kind, code, signal, detail, exited}, the fields of `attempts.Outcome`.
"""

import argparse
import contextlib
import ctypes
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainers.launches import place_of
from trainers.lockdown import lock_command
from trainers.process_tree import descendants, memory_bytes
from trainers.rank_processes import RankProcesses
from trainers.ready import wait_ready
from trainers.sessions.inside import SessionProcesses

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
KILLING_S = 10.0
"""As the first process of a sandbox it need not see everybody dead: all end when it does."""
TICK_S = 0.5
KILL_EVERY_S = 0.02
SAID_S = 5.0
MAX_ORDER_BYTES = 4 << 20

Json = dict[str, Any]


def main() -> None:
    """Run one command for one parent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--isolation", choices=("sandbox", "process"), required=True)
    arguments = parser.parse_args()
    parent = socket.socket(fileno=arguments.fd)
    parent.set_inheritable(False)
    os.set_blocking(parent.fileno(), True)
    line, _, more = _order(parent).partition(b"\n")
    order = json.loads(line)
    # What the command leaves behind becomes ours, so that it is found and ended. Nobody of the same account may trace us.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    # Of the signals from inside its namespace the first process gets those that it handles, and Python handles this one.
    signal.signal(signal.SIGINT, lambda *_: None)
    # Whatever started the provider may have had them ignored or blocked, which programs inherit.
    for number in (signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    lock_command(order["memory_limit_bytes"], arguments.isolation, order["cuda"], order["processes"])
    begun = {"kind": "stopped"} if more else _started(order)
    if isinstance(begun, dict):
        told = begun
    else:
        sessions = SessionProcesses(parent, order["environment"], order["folder"])
        sessions.ready()
        told = Watch(parent, begun.ranks, order, sessions).until_the_end()
        begun.wait_said(SAID_S)
    with contextlib.suppress(OSError):  # the parent is gone
        parent.sendall(json.dumps(told).encode() + b"\n")


def _order(parent: socket.socket) -> bytes:
    """The first line from the parent, and what came with it; leaves when there is none."""
    found = b""
    while b"\n" not in found:
        piece = parent.recv(1 << 16)
        if not piece or len(found) > MAX_ORDER_BYTES:
            sys.exit(1)
        found += piece
    return found


class OneProcess:
    """A command that prints to where we do. `ranks`: its process id, and 0."""

    def __init__(self, argv: list[str], environment: Mapping[str, str], folder: str) -> None:
        process = subprocess.Popen(
            argv, env=environment, cwd=folder, stdin=subprocess.DEVNULL, start_new_session=True
        )
        process.returncode = 0  # it is waited for by `Watch`
        self.ranks = {process.pid: 0}

    def wait_said(self, timeout_s: float) -> None:
        """Nobody reads what it prints here."""


def _started(order: Json) -> OneProcess | RankProcesses | Json:
    """The processes of the command, or how it could not be started."""
    argv, environment, folder = order["argv"], order["environment"], order["folder"]
    try:
        if order["ranks"] is None:
            return OneProcess(argv, environment, folder)
        return RankProcesses(argv, environment, folder, order["ranks"], order["job"])
    except FileNotFoundError:
        return {"kind": "not_found", "detail": _why_not_found(argv[0], folder, environment.get("PATH", ""))}
    except OSError as error:
        return {"kind": "not_executable", "detail": _why_not_executable(error)}


def _why_not_found(program: str, folder: str, path: str) -> str:
    here = Path(folder, program)
    if here.exists() if "/" in program else shutil.which(program, path=path):
        return "the program that its first line names is not there"
    if here.is_file() and "/" not in program:
        return f"a file of the working folder is started as ./{program}"
    return "there is no such program"


def _why_not_executable(error: OSError) -> str:
    if error.errno == errno.ENOEXEC:
        return "it has no first line that names a program, such as #!/bin/sh"
    if error.errno == errno.EACCES:
        return "it is not marked as a program (chmod +x), or name what is to read it"
    return os.strerror(error.errno or 0)


class Watch:
    """Waits for the end of processes, by their ranks, and sees to it that it comes: of all, once one has failed."""

    def __init__(
        self, parent: socket.socket, ranks: Mapping[int, int], order: Json, sessions: SessionProcesses
    ) -> None:
        self._parent, self._ranks, self._sessions = parent, ranks, sessions
        self._named = order["ranks"] is not None
        self._grace_s: float = order["grace_s"]
        self._memory_limit_bytes: int = order["memory_limit_bytes"]
        timeout_s = order["timeout_s"]
        self._ends = None if timeout_s is None else time.monotonic() + timeout_s
        self._most_processes: int = order["processes"]
        self._statuses: dict[int, int] = {}
        self._failed: int | None = None
        self._measured = 0.0

    def until_the_end(self) -> Json:
        """How it ended."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        why: Json | None = None
        while why is None and not self._reaped():
            readable, _ = wait_ready([self._parent.fileno(), woken], self._wait_s())
            if woken in readable:
                os.read(woken, 4096)
            why = self._reason(stopped=self._parent.fileno() in readable and self._sessions.heard())
        failed = self._failed
        self._sessions.end()
        if why is not None or not self._all_ended():
            self._end(signal.SIGTERM, self._grace_s)
        self._end(signal.SIGKILL, KILLING_S if os.getpid() == 1 else None)
        if why is None:
            return self._told(0 if failed is None else failed)
        return why | {"exited": self._all_ended() and all(map(os.WIFEXITED, self._statuses.values()))}

    def _wait_s(self) -> float:
        return TICK_S if self._ends is None else max(0.0, min(TICK_S, self._ends - time.monotonic()))

    def _reason(self, stopped: bool) -> Json | None:
        """Why the command must end now, if it must."""
        if stopped:  # told to, or the parent is gone
            return {"kind": "stopped"}
        if self._ends is not None and time.monotonic() >= self._ends:
            return {"kind": "timeout"}
        if time.monotonic() - self._measured < TICK_S:
            return None
        self._measured = time.monotonic()
        below = descendants(os.getpid())
        if len(below) > self._most_processes:
            return {"kind": "limit", "detail": f"it had more processes than its limit of {self._most_processes}"}
        used = memory_bytes(below, self._memory_limit_bytes)
        if used > self._memory_limit_bytes:
            limit = self._memory_limit_bytes >> 20
            return {"kind": "memory", "detail": f"it took more memory than its limit: {used >> 20} of {limit} MiB"}
        return None

    def _reaped(self) -> bool:
        """Bury whoever has ended; whether the command has: all of it, or with one process that failed."""
        found: list[tuple[int, int]] = []
        with contextlib.suppress(ChildProcessError):
            while (buried := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if buried[0] in self._ranks:
                    found.append((self._ranks[buried[0]], buried[1]))
                else:
                    self._sessions.buried(*buried)
        self._statuses |= dict(found)
        # Whoever was killed did not end because of its peers; one that exited may have.
        failed = sorted((not os.WIFSIGNALED(status), rank) for rank, status in found if status != 0)
        if failed and self._failed is None:
            self._failed = failed[0][1]
        return self._failed is not None or self._all_ended()

    def _all_ended(self) -> bool:
        return len(self._statuses) == len(self._ranks)

    def _end(self, number: int, grace_s: float | None) -> None:
        """Signal everybody below us until nobody is left, or for so long: SIGTERM once each, SIGKILL again and again."""
        until = None if grace_s is None else time.monotonic() + grace_s
        told: set[int] = set()
        while True:
            self._reaped()
            left = descendants(os.getpid())
            if not left or (until is not None and time.monotonic() >= until):
                return
            for pid in left:
                if number == signal.SIGKILL or pid not in told:
                    told.add(pid)
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
            time.sleep(KILL_EVERY_S)

    def _told(self, rank: int) -> Json:
        status = self._statuses[rank]
        named = {"detail": place_of(rank, len(self._ranks))} if self._named and status != 0 else {}
        if os.WIFSIGNALED(status):
            return {"kind": "signal", "signal": os.WTERMSIG(status), **named}
        return {"kind": "exit", "code": os.waitstatus_to_exitcode(status), **named}


if __name__ == "__main__":
    main()
