"""Child processes that are kept alive: started, watched, started again with growing pauses, and ended.

A child's output goes to a file that is cut at a size. On Linux a child is told to end when its parent dies, and whatever
a dead child leaves behind becomes ours, so that nothing survives the one who started it.
"""

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from market.homes import Home

log = logging.getLogger("torg.children")

LOG_BYTES = 16 * 1024 * 1024
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
STEADY_S = 3.0
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


@dataclass(slots=True)
class Child:
    """One process by name; `argv` is what runs, `passed` are descriptors that it inherits."""

    name: str
    argv: Sequence[str]
    home: Home
    passed: tuple[int, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None
    restarts: int = 0
    pause_s: float = field(default=FIRST_PAUSE_S)
    started_s: float = 0.0
    start_again_s: float | None = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    def start(self) -> None:
        """Start it now; raises OSError when the system cannot."""
        with open_log(self.home.log_file(self.name)) as output:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=code_folder(),
                pass_fds=self.passed,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - this process has one thread
            )
        self.started_s = time.monotonic()
        self.start_again_s = None
        self.home.write_pid(self.name, self.process.pid)
        log.info("%s runs, pid %s", self.name, self.process.pid)

    def watch(self) -> None:
        """Notice a death, and start again when its pause is over."""
        now_s = time.monotonic()
        if self.process is not None and (code := self.process.poll()) is not None:
            lived_s = now_s - self.started_s
            self.pause_s = FIRST_PAUSE_S if lived_s > STEADY_S else min(self.pause_s * 2, LONGEST_PAUSE_S)
            self.start_again_s = now_s + (0 if lived_s > STEADY_S else self.pause_s)
            self.restarts += 1
            self.process = None
            log.warning("%s ended with %s after %.1f s; again in %.1f s", self.name, code, lived_s, self.pause_s)
        if self.process is None and self.start_again_s is not None and now_s >= self.start_again_s:
            self.start()

    def end(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after `grace_s`; returns when it is gone and reaped."""
        self.start_again_s = None
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            log.warning("%s did not end within %s s and is killed", self.name, grace_s)
            self.process.kill()
            self.process.wait()
        log.info("%s is down", self.name)
        self.process = None
        self.home.forget_pid(self.name)


def code_folder() -> Path:
    """The folder from which `-m market…` is found, wherever the caller stands."""
    return Path(__file__).resolve().parents[1]


def open_log(path: Path) -> BinaryIO:
    """A log to append to."""
    return path.open("ab")


def cut_log(path: Path, limit_bytes: int = LOG_BYTES) -> None:
    """Copy a long log to `NAME.1` and empty it; its writer goes on at the start, because it appends."""
    try:
        if not path.exists() or path.stat().st_size <= limit_bytes:
            return
        shutil.copyfile(path, path.with_name(path.name + ".1"))
        os.truncate(path, 0)
    except OSError:
        log.exception("%s could not be cut", path)


def adopt_orphans() -> bool:
    """Become the parent of what dying children leave; False where the system has no such thing."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def reap_orphans(own: Sequence[int]) -> None:
    """Take the exit codes of adopted processes, so that no zombies stay; `own` are left to their Popen."""
    listing = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    try:
        pids = [int(pid) for pid in listing.read_text(encoding="ascii").split()]
    except OSError:
        return
    for pid in pids:
        if pid not in own:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


def end_processes(pids: Sequence[int], grace_s: float, *, is_ours: Callable[[int], bool] = lambda _: True) -> list[int]:
    """SIGTERM, then SIGKILL to processes that may not be our children; which of them were there."""
    import psutil

    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if is_ours(pid):
                process.terminate()
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    _, stubborn = psutil.wait_procs(found, timeout=grace_s)
    for process in stubborn:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(stubborn, timeout=grace_s)
    return [process.pid for process in found]


def descendants() -> list[int]:
    """Every process below this one."""
    import psutil

    return [process.pid for process in psutil.Process().children(recursive=True)]


def _end_with_parent() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
