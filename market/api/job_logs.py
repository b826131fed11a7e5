"""What a job's workers print, one file a job, cut off at a size. Not a record: lost lines cost nobody money.

A line is `TIME SOURCE | TEXT`, TIME in UTC with milliseconds (`2026-11-26T12:00:00.123Z`); older logs have only `HH:MM:SS`.

Each line is shown once, whoever was killed: beside the log stands how far it counts (`JOB.lines`), replaced after the log
was written. What lies behind that was cut off by a kill: nobody reads it, the next report replaces it. A worker's lines
are numbered, so that a run that was replaced, and tells what its predecessor told, adds only what is new; what has no
number (a run's own lines) is known by the report that it came in.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from storage.units import MAX_INSTANT_MS, format_instant

LOG_BYTES = 8 * 1024 * 1024
RUN_BYTES = 256 * 1024
"""Beyond the limit, for what runs say: how a command ended is read also where it has printed too much."""
ANSWER_BYTES = 256 * 1024
RUN = "run"
REPORTS_REMEMBERED = 8
STREAMS_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Line:
    """One printed line; `at_ms` is the worker's clock, milliseconds since the epoch. `number` counts up in its `stream`,
    which is one lease's worker; 0 where nobody counts.
    """

    at_ms: int
    source: str
    text: str
    stream: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a log counts: its bytes, the newest reports by digest, and the last number of each stream, newest last."""

    end: int
    reports: tuple[str, ...] = ()
    streams: tuple[tuple[str, int], ...] = ()

    def to_text(self) -> str:
        """As it is kept."""
        rows = [f"end {self.end}", *(f"report {digest}" for digest in self.reports)]
        return "".join(f"{row}\n" for row in [*rows, *(f"stream {name} {number}" for name, number in self.streams)])

    @staticmethod
    def from_text(text: str) -> "Counts":
        """The same read."""
        rows = [row.split() for row in text.splitlines()]
        return Counts(
            int(rows[0][1]), tuple(row[1] for row in rows if row[0] == "report"),
            tuple((row[1], int(row[2])) for row in rows if row[0] == "stream"),
        )  # fmt: skip

    def with_report(self, digest: str, lines: Sequence[Line], end: int) -> "Counts":
        """When a report was written."""
        streams = dict(self.streams)
        for line in lines:
            if line.number:
                last = streams.pop(line.stream, 0)
                streams[line.stream] = max(last, line.number)
        kept = tuple(streams.items())[-STREAMS_REMEMBERED:]
        return Counts(end, (*self.reports, digest)[-REPORTS_REMEMBERED:], kept)


class JobLogs:
    """Appends to and reads from `folder/JOB.log`. Offsets are bytes."""

    def __init__(self, folder: Path, *, limit_bytes: int = LOG_BYTES, run_bytes: int = RUN_BYTES) -> None:
        self._folder = folder
        self._limit_bytes, self._run_bytes = limit_bytes, run_bytes

    def append(self, job: str, lines: Sequence[Line]) -> bool:
        """Add those lines that are not there; whether there were any.

        Raises OSError when the disk takes no more.
        """
        path, digest, counts = self._path(job), _digest(lines), self._counts(job)
        last = dict(counts.streams)
        fresh = [line for line in lines if not line.number or line.number > last.get(line.stream, 0)]
        fitting = self._fitting(fresh, counts.end)
        if not fitting or digest in counts.reports:
            return False
        if counts.end == 0:
            self._keep(job, counts)  # else what a kill leaves would be taken for an older log, which has no counts
        with path.open("ab") as file:
            file.truncate(counts.end)
        whole = b"" if _ends_whole(path) else b"\n"  # the rest of a line that was cut off never came
        data = whole + b"".join(fitting)
        with path.open("ab") as file:
            file.write(data)
        self._keep(job, counts.with_report(digest, fresh, counts.end + len(data)))
        return True

    def read(self, job: str, after: int) -> tuple[str, int]:
        """Whole lines from byte `after` on and the offset that follows them."""
        room = min(ANSWER_BYTES, self._counts(job).end - after)
        if room <= 0:
            return "", after
        with self._path(job).open("rb") as file:
            file.seek(after)
            data = file.read(room)
        whole = data[: data.rfind(b"\n") + 1] or data
        return whole.decode("utf-8", "replace"), after + len(whole)

    def place(self, job: str, *, tail: int | None, since_ms: int | None) -> int:
        """The offset from which on there are the last `tail` lines of those printed at `since_ms` or later.

        Lines of logs that are older than full times count as printed before any `since_ms`.
        """
        length = self._counts(job).end
        if length == 0:
            return 0
        data = self._path(job).read_bytes()[:length]
        start = 0 if since_ms is None else _first_since(data, since_ms)
        if tail is not None:
            end = len(data)
            for _ in range(tail + 1):
                end = data.rfind(b"\n", start, end)
                if end < 0:
                    return start
            return end + 1
        return start

    def _fitting(self, lines: Sequence[Line], held: int) -> list[bytes]:
        """Whole lines for which there is room, and in the place of the first that has none, one that says so."""
        found, full = list[bytes](), held >= self._limit_bytes
        for line in lines:
            data = _render(line).encode("utf-8", "replace")
            if not full and held + len(data) > self._limit_bytes:
                full = True
                end = f"[torg: the log is full: {self._limit_bytes:,} bytes; what the command prints from here on is not kept]"
                end_data = _render(Line(line.at_ms, RUN, end)).encode()
                found.append(end_data)
                held = max(held + len(end_data), self._limit_bytes)
            if not full or (line.source == RUN and held + len(data) <= self._limit_bytes + self._run_bytes):
                found.append(data)
                held += len(data)
        return found

    def _counts(self, job: str) -> Counts:
        """Of a log from before there were any, all of it counts; of one that lost its end in a power cut, what is left."""
        try:
            held = self._path(job).stat().st_size
        except FileNotFoundError:
            return Counts(0)
        try:
            counts = Counts.from_text(self._counts_path(job).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Counts(held)
        return replace(counts, end=min(counts.end, held))

    def _keep(self, job: str, counts: Counts) -> None:
        path = self._counts_path(job)
        fresh = path.with_suffix(".lines-new")
        fresh.write_text(counts.to_text(), encoding="utf-8")
        os.replace(fresh, path)

    def _path(self, job: str) -> Path:
        assert "/" not in job, f"not an id: {job!r}"
        return self._folder / f"{job}.log"

    def _counts_path(self, job: str) -> Path:
        return self._path(job).with_suffix(".lines")


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        return file.seek(0, os.SEEK_END) == 0 or (file.seek(-1, os.SEEK_END), file.read(1))[1] == b"\n"


def _digest(lines: Sequence[Line]) -> str:
    """By their milliseconds and numbers: the same text may well be printed twice in a second."""
    told = repr([(line.at_ms, line.source, line.text, line.stream, line.number) for line in lines])
    return sha256(told.encode("utf-8", "replace")).hexdigest()


def _render(line: Line) -> str:
    return f"{format_instant(min(line.at_ms, MAX_INSTANT_MS))} {line.source} | {line.text.translate(_NO_BREAKS)}\n"


def _first_since(data: bytes, since_ms: int) -> int:
    """Where the first line begins that was printed then or later; the end where there is none."""
    since = format_instant(min(since_ms, MAX_INSTANT_MS)).encode()
    at = 0
    while at < len(data):
        time = data[at : at + len(since)]
        if time[10:11] == b"T" and time[-1:] == b"Z" and time >= since:
            return at
        following = data.find(b"\n", at)
        if following < 0:
            break
        at = following + 1
    return len(data)


_NO_BREAKS = {ord("\n"): "␤", ord("\r"): "", ord("\x1b"): "␛"}
