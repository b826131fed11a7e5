"""`torg shell`: a terminal inside a command's sandbox, and ours as it was before."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.command_scene import CommandScene
from tests.api.square import Square
from trainers.sandbox import isolation_level

PATIENCE_S = 60


class Typist:
    """Somebody at a terminal of 33 rows and 101 columns in which torg runs."""

    def __init__(self, scene: CommandScene) -> None:
        self._outer, self._inner = pty.openpty()
        self.resize(33, 101, tell=None)
        self.before = termios.tcgetattr(self._inner)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", "shell", scene.job], stdin=self._inner, stdout=self._inner, stderr=self._inner,
            env=scene.environment() | {"TERM": "xterm"}, start_new_session=True,
        )  # fmt: skip
        self.seen = b""

    def type(self, text: bytes) -> None:
        os.write(self._outer, text)

    def sees(self, text: bytes, again: Callable[[], Any] | None = None) -> None:
        """Wait until that is shown; `again` is done every second until then."""
        until, next_try = time.monotonic() + PATIENCE_S, time.monotonic() + 1
        while text not in self.seen:
            assert time.monotonic() < until, self.seen
            if again is not None and time.monotonic() > next_try:
                next_try = time.monotonic() + 1
                again()
            if select.select([self._outer], [], [], 0.1)[0]:
                self.seen += os.read(self._outer, 65536)

    def resize(self, rows: int, columns: int, tell: int | None) -> None:
        fcntl.ioctl(self._inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell is not None:
            os.kill(tell, signal.SIGWINCH)

    @property
    def restored(self) -> bool:
        return termios.tcgetattr(self._inner) == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for descriptor in (self._outer, self._inner):
            os.close(descriptor)


@pytest.mark.parametrize("level", sorted({"process", isolation_level()}))
def test_a_shell_has_a_terminal_of_its_own(square: Square, tmp_path: Path, level: Any) -> None:
    with CommandScene(square, tmp_path, level=level) as scene:
        typist = Typist(scene)
        with contextlib.closing(typist):
            typist.sees(b"$ ")
            typist.type(b"stty size; echo term=$TERM word=$WORD; pwd | sed s,.*/,in-,\n")
            typist.sees(b"33 101")
            typist.sees(b"term=xterm word=hello")
            typist.sees(b"in-work")
            typist.resize(44, 102, tell=typist.process.pid)
            typist.type(b"stty size\n")
            typist.sees(b"44 102", again=lambda: typist.type(b"stty size\n"))
            typist.type(b"sh -c 'echo sleeps-$((40+2)); exec sleep 1000'\n")
            typist.sees(b"sleeps-42")
            typist.type(b"\x03")
            typist.type(b"echo after-$((1+1))\n")
            typist.sees(b"after-2", again=lambda: typist.type(b"\x03"))
            assert not typist.restored, "raw while it lasts"
            typist.type(b"echo last-$((3+4)); exit 5\n")
            assert typist.process.wait(PATIENCE_S) == 5
            typist.sees(b"last-7")
            assert typist.restored


def test_the_terminal_is_as_before_when_torg_is_told_to_go(square: Square, tmp_path: Path) -> None:
    with CommandScene(square, tmp_path) as scene:
        typist = Typist(scene)
        with contextlib.closing(typist):
            typist.sees(b"$ ")
            typist.process.terminate()
            assert typist.process.wait(PATIENCE_S) == 128 + signal.SIGTERM
            assert typist.restored


def test_the_terminal_is_as_before_when_the_machine_is_lost(square: Square, tmp_path: Path) -> None:
    with CommandScene(square, tmp_path) as scene:
        typist = Typist(scene)
        with contextlib.closing(typist):
            typist.sees(b"$ ")
            scene.host.lease_ended(scene.worker["id"], epoch=scene.worker["epoch"], reason="worker_killed", detail="")
            typist.sees(b"the session is lost: the machine")
            assert typist.process.wait(PATIENCE_S) == 255
            assert typist.restored


def test_without_a_terminal_it_says_what_to_use(square: Square, tmp_path: Path) -> None:
    with CommandScene(square, tmp_path) as scene:
        code, _, told = scene.torg("shell", scene.job, given=b"ls\n")
        assert (code, b"torg exec -i" in told) == (2, True)
