"""The process around a batch job's command: `python -m trainers.command_child --fd N --isolation LEVEL`. No torch.

It takes one order from its parent, limits itself, starts the command in a session of its own, and says how it ended. It
ends the command, and all that the command started (what made itself a daemon, too), by SIGTERM and after a grace by
SIGKILL: when it is told `stop`, after the command's timeout, at its memory limit, and when the parent is gone. Whatever the
command has left running when it ends is killed.

Over a socket, lines of JSON. Parent to child: the order {argv, environment, folder, timeout_s, grace_s, memory_limit_bytes,
cuda, processes}, later perhaps "stop". Child to parent: {kind, code, signal, detail, exited}, the fields of `attempts.Outcome`.
"""

import argparse
import contextlib
import ctypes
import errno
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trainers.lockdown import lock_command
from trainers.process_tree import descendants, memory_bytes

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
KILLING_S = 10.0
"""As the first process of a sandbox it need not see everybody dead: all end when it does."""
TICK_S = 0.5
KILL_EVERY_S = 0.02
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
    lock_command(order["memory_limit_bytes"], arguments.isolation, order["cuda"])
    told: int | Json = {"kind": "stopped"} if more else _started(order)
    if isinstance(told, int):
        told = Watch(parent, told, order).until_the_end()
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


def _started(order: Json) -> int | Json:
    """The process id of the command, or how it could not be started."""
    argv, environment = order["argv"], order["environment"]
    try:
        process = subprocess.Popen(
            argv, env=environment, cwd=order["folder"], stdin=subprocess.DEVNULL, start_new_session=True
        )
    except FileNotFoundError:
        return {"kind": "not_found", "detail": _why_not_found(argv[0], order["folder"], environment.get("PATH", ""))}
    except OSError as error:
        return {"kind": "not_executable", "detail": _why_not_executable(error)}
    process.returncode = 0  # it is waited for by `Watch`
    return process.pid


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
    """Waits for the end of the process `pid`, and sees to it that it comes."""

    def __init__(self, parent: socket.socket, pid: int, order: Json) -> None:
        self._parent, self._pid = parent, pid
        self._grace_s: float = order["grace_s"]
        self._memory_limit_bytes: int = order["memory_limit_bytes"]
        timeout_s = order["timeout_s"]
        self._ends = None if timeout_s is None else time.monotonic() + timeout_s
        self._most_processes: int = order["processes"]
        self._status: int | None = None
        self._measured = 0.0

    def until_the_end(self) -> Json:
        """How it ended."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        why: Json | None = None
        while why is None and not self._reaped():
            readable, _, _ = select.select([self._parent.fileno(), woken], [], [], self._wait_s())
            if woken in readable:
                os.read(woken, 4096)
            why = self._reason(heard=self._parent.fileno() in readable)
        if why is not None:
            self._end(signal.SIGTERM, self._grace_s)
        self._end(signal.SIGKILL, KILLING_S if os.getpid() == 1 else None)
        if why is None:
            return _told(self._status)
        return why | {"exited": self._status is not None and os.WIFEXITED(self._status)}

    def _wait_s(self) -> float:
        return TICK_S if self._ends is None else max(0.0, min(TICK_S, self._ends - time.monotonic()))

    def _reason(self, heard: bool) -> Json | None:
        """Why the command must end now, if it must."""
        if heard:  # told to stop, or the parent is gone
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
        """Bury whoever has ended; whether the command itself has."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if found[0] == self._pid:
                    self._status = found[1]
        return self._status is not None

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


def _told(status: int | None) -> Json:
    assert status is not None
    if os.WIFSIGNALED(status):
        return {"kind": "signal", "signal": os.WTERMSIG(status)}
    return {"kind": "exit", "code": os.waitstatus_to_exitcode(status)}


if __name__ == "__main__":
    main()
