"""Attempts on other processes, on the end of the lease, and on what a process inherits."""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import signal
import stat
import sys
import termios
import time

from trainers.sandbox import SCRATCH
from trainers.selftest.scene import Absent, Scene, Stopped

STORM_S = 0.5
HOLD_S = 60


def signal_others(scene: Scene) -> str:
    """Processes of the provider."""
    last: OSError = ProcessLookupError(3, "nobody is there")
    for pid in (scene.victim, scene.parent):
        try:
            os.kill(pid, 0)
        except OSError as error:
            last = error
        else:
            return f"process {pid} takes its signals"
    raise last


def storm(scene: Scene) -> str:
    """Every signal again and again to the process around it, and where it sees nobody else, to everybody."""
    around = [_parent_of(os.getppid())]
    whom = [*around, 1, -1] if scene.own.startswith(SCRATCH) else around
    ends = time.monotonic() + STORM_S
    while time.monotonic() < ends:
        for number in range(1, 65):
            for pid in whom:
                try:
                    os.kill(pid, number)
                except OSError:
                    continue
    return "sent"


def _parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def kill_one(scene: Scene) -> str:
    """Outside: a signal ends a process."""
    pid = os.fork()
    if pid == 0:
        time.sleep(HOLD_S)
        os._exit(0)
    os.kill(pid, signal.SIGKILL)
    if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
        raise Stopped("it lived on")
    return "a process was killed"


def outlive(scene: Scene) -> str:
    """A daemon in a session of its own, which hears no polite signal and has no parent."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nothing, descriptor)
            os.execv(sys.executable, [sys.executable, "-S", "-c", f"import time; time.sleep({HOLD_S})", scene.key])  # noqa: S606  no shell is wanted
        os._exit(0)
    os.waitpid(pid, 0)
    return "a daemon was left"


def use_inherited(scene: Scene) -> str:
    """Open files that somebody has left open in it."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # the listing's own
            continue
        if int(name) > 2 and not (stat.S_ISFIFO(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    if not found:
        raise Stopped("none but its own")
    return f"open: {', '.join(found)}"


def use_inherited_of_control(scene: Scene) -> str:
    """Outside: with a file left open."""
    with open(scene.secret, encoding="utf-8"):
        return use_inherited(scene)


def type_to_terminal(scene: Scene) -> str:
    """Put keys into the provider's terminal, which its shell reads when torg has ended."""
    last: OSError = OSError(25, "no terminal")
    terminals = [0, 1, 2]
    try:
        terminals.append(os.open("/dev/tty", os.O_RDWR))
    except OSError as error:
        last = error
    for descriptor in terminals:
        try:
            fcntl.ioctl(descriptor, termios.TIOCSTI, b"x")
        except OSError as error:
            last = error
        else:
            return "a key was typed"
    raise last


def type_to_own_terminal(scene: Scene) -> str:
    """Outside: with a terminal there."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            fcntl.ioctl(0, termios.TIOCSTI, b"x")
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    number = os.waitstatus_to_exitcode(status)
    if number:
        raise OSError(number, os.strerror(number))
    return "a key was typed"


def dump_core(scene: Scene) -> str:
    """A dump of memory, or the program that takes one, with the provider's rights."""
    pid = os.fork()
    if pid == 0:
        os.chdir(scene.own)
        _raised(resource.RLIMIT_CORE, resource.RLIM_INFINITY)
        os.abort()
    _, status = os.waitpid(pid, 0)
    if not os.WCOREDUMP(status):
        limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
        if limit == resource.RLIM_INFINITY:
            raise Absent("this machine makes no core dumps")
        raise Stopped(f"no dump, the limit is {limit}")
    return "a core was dumped"


def raise_limits(scene: Scene) -> str:
    """Take its own limits away."""
    which = resource.RLIMIT_NOFILE
    _, hard = resource.getrlimit(which)
    if hard > 1 << 20:
        return f"it may open {hard} files"
    resource.setrlimit(which, (hard + 1, hard + 1))
    return f"it may open {hard + 1} files"


def _raised(which: int, wanted: int) -> None:
    try:
        resource.setrlimit(which, (wanted, wanted))
    except (OSError, ValueError):
        return
