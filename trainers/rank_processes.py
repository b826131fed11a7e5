"""The processes of a command with `launch`: started beside each other, their lines marked with their rank. No torch.

A line of rank 2 comes out as `[rank 2] …`. Lines of different ranks never mix; of one that was written over (as bars of
progress are), its last state counts, as in `child_log`.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

from trainers.launches import variables

LONGEST_BYTES = 8 << 10
"""Of what is kept while a line has no end; what is longer becomes several lines."""
READ_BYTES = 1 << 16


class Marked:
    """Bytes that one rank printed, as whole lines with its rank before each."""

    def __init__(self, rank: int) -> None:
        self._mark = f"[rank {rank}] ".encode()
        self._rest = b""

    def lines(self, data: bytes) -> bytes:
        """The lines that end with `data`."""
        *whole, rest = (self._rest + data).split(b"\n")
        if len(rest) > LONGEST_BYTES:
            over, _, after = rest.rpartition(b"\r")
            whole, rest = [*whole, over or rest], after if over else b""
        self._rest = rest
        return b"".join(map(self._marked, whole))

    def last(self) -> bytes:
        """What was printed without an end of its line."""
        rest, self._rest = self._rest, b""
        return self._marked(rest) if rest else b""

    def _marked(self, line: bytes) -> bytes:
        return self._mark + line.rstrip(b"\r").rpartition(b"\r")[2] + b"\n"


class RankProcesses:
    """`count` processes of the command `argv`, started. Raises OSError when one cannot be, and none is left then.

    `ranks`: by process id; whoever holds this waits for them.
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], folder: str, count: int, job: str, sink: int = 1
    ) -> None:
        self.ranks: dict[int, int] = {}
        self._sink = sink
        self._selector = selectors.DefaultSelector()
        try:
            for rank in range(count):
                self._start(argv, {**environment, **variables(rank, count, job)}, folder, rank)
        except OSError:
            for pid in self.ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise
        self._thread = threading.Thread(target=self._copy, name="rank-output", daemon=True)
        self._thread.start()

    def wait_said(self, timeout_s: float) -> None:
        """Until all that they printed was passed on: when they and what they started are dead, or after so long."""
        self._thread.join(timeout_s)

    def _start(self, argv: Sequence[str], environment: Mapping[str, str], folder: str, rank: int) -> None:
        ours, theirs = os.pipe()
        try:
            process = subprocess.Popen(
                argv, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, start_new_session=True
            )
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        process.returncode = 0  # it is waited for by whoever holds this
        self.ranks[process.pid] = rank
        self._selector.register(ours, selectors.EVENT_READ, Marked(rank))

    def _copy(self) -> None:
        while self._selector.get_map():
            for key, _ in self._selector.select():
                data = os.read(key.fd, READ_BYTES)
                marked: Marked = key.data
                self._write(marked.lines(data) if data else marked.last())
                if not data:
                    self._selector.unregister(key.fd)
                    os.close(key.fd)

    def _write(self, text: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more; the ranks must not wait for that
            while text:
                text = text[os.write(self._sink, text) :]
