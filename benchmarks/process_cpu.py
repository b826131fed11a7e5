"""What the processes below some others compute, over time: read from /proc once in a while, by a thread."""

from __future__ import annotations

import bisect
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
Row = tuple[str, int, float]
"""Of one process: its command line, its parent, seconds of CPU."""


class ProcessCpu:
    """Seconds of CPU of everything below `roots`, by what `name_of` says for a command line (None: like its parent), since this
    was made. Ends with the block. `at_s`: when it looked (`time.monotonic`).
    """

    def __init__(self, roots: Callable[[], Iterable[int]], name_of: Callable[[str], str | None], *, every_s: float = 0.5) -> None:
        self._roots, self._name_of, self._every_s = roots, name_of, every_s
        self.at_s: list[float] = []
        self._samples: list[dict[str, float]] = []
        self._spent: dict[str, float] = {}
        self._last: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> ProcessCpu:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def between(self, begin_s: float, end_s: float) -> dict[str, float]:
        """Seconds of CPU by name between two moments of `time.monotonic`."""
        before, after = self._until(begin_s), self._until(end_s)
        return {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}

    def _until(self, moment_s: float) -> dict[str, float]:
        """By then, between two samples in proportion."""
        place = min(max(1, bisect.bisect_left(self.at_s, moment_s)), len(self.at_s) - 1)
        (begin_s, end_s), (first, second) = self.at_s[place - 1 : place + 1], self._samples[place - 1 : place + 1]
        part = min(1.0, max(0.0, (moment_s - begin_s) / (end_s - begin_s)))
        return {name: first.get(name, 0.0) + part * (seconds - first.get(name, 0.0)) for name, seconds in second.items()}

    def _work(self) -> None:
        while True:
            self._sample()
            if self._over.wait(self._every_s):
                self._sample()
                return

    def _sample(self) -> None:
        rows = dict(_rows())
        names: dict[int, str | None] = dict.fromkeys(self._roots(), "")
        for pid in rows:
            name = self._named(pid, rows, names)
            if name is not None:
                more = rows[pid][2] - self._last.get(pid, 0.0)
                self._spent[name] = self._spent.get(name, 0.0) + more
        self._last = {pid: row[2] for pid, row in rows.items()}
        self.at_s.append(time.monotonic())
        self._samples.append(dict(self._spent))

    def _named(self, pid: int, rows: dict[int, Row], names: dict[int, str | None]) -> str | None:
        """What a process is called; None for one that is not below the roots."""
        if pid not in rows:
            return None
        command, parent, _ = rows[pid]
        if pid not in names:
            names[pid] = None  # a circle that a pid used again makes ends here
            above = self._named(parent, rows, names)
            names[pid] = None if above is None else self._name_of(command) or above
        return names[pid]


def _rows() -> Iterable[tuple[int, Row]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (OSError, UnicodeDecodeError):  # it is gone
                continue
            yield int(folder.name), (command, int(fields[1]), (int(fields[11]) + int(fields[12])) * TICK_S)
