"""What a job's workers print, one file a job, cut off at a size. Not a record: lost lines cost nobody money.

A line is `TIME SOURCE | TEXT`, TIME in UTC with milliseconds (`2026-11-26T12:00:00.123Z`); older logs have only `HH:MM:SS`.

A report that is told again adds nothing, whenever this process was killed: which batch stands where in the log is written
beside it (`JOB.marks`) before the batch is, so that what a kill cut off is completed by the next telling.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from storage.units import MAX_INSTANT_MS, format_instant

LOG_BYTES = 8 * 1024 * 1024
ANSWER_BYTES = 256 * 1024
BATCHES_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class Line:
    """One printed line; `at_ms` is the worker's clock, milliseconds since the epoch."""

    at_ms: int
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A batch of lines: its digest, and the bytes of the log that it has or was to have."""

    digest: str
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


class JobLogs:
    """Appends to and reads from `folder/JOB.log`. Offsets are bytes."""

    def __init__(self, folder: Path, *, limit_bytes: int = LOG_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes

    def append(self, job: str, lines: Sequence[Line]) -> bool:
        """Add lines; the same batch again (a retried report) adds nothing but what is missing of it. Whether anything was
        written.

        Raises OSError when the disk takes no more.
        """
        if not lines:
            return False
        path, digest, marks = self._path(job), _digest(lines), self._marks(job)
        held = path.stat().st_size if path.exists() else 0
        known = next((mark for mark in marks if mark.digest == digest), None)
        if known is None:
            if held >= self._limit_bytes:
                return False
            if marks and held < marks[-1].end and not _ends_whole(path):
                _write(path, b"\n")  # the rest of a line that was cut off never came
                held += 1
        start = held if known is None else known.start
        data = self._cut("".join(map(_render, lines)).encode("utf-8", "replace"), start)
        if known is None:
            self._remember(job, [*marks[1 - BATCHES_REMEMBERED :], Mark(digest, start, len(data))])
        elif known != marks[-1] or held >= known.end:
            return False
        else:
            data = data[held - start :]
        _write(path, data)
        return True

    def read(self, job: str, after: int) -> tuple[str, int]:
        """Whole lines from byte `after` on and the offset that follows them."""
        try:
            with self._path(job).open("rb") as file:
                file.seek(after)
                data = file.read(ANSWER_BYTES)
        except FileNotFoundError:
            return "", after
        whole = data[: data.rfind(b"\n") + 1] or data
        return whole.decode("utf-8", "replace"), after + len(whole)

    def place(self, job: str, *, tail: int | None, since_ms: int | None) -> int:
        """The offset from which on there are the last `tail` lines of those printed at `since_ms` or later.

        Lines of logs that are older than full times count as printed before any `since_ms`.
        """
        try:
            data = self._path(job).read_bytes()
        except FileNotFoundError:
            return 0
        start = 0 if since_ms is None else _first_since(data, since_ms)
        if tail is not None:
            end = len(data)
            for _ in range(tail + 1):
                end = data.rfind(b"\n", start, end)
                if end < 0:
                    return start
            return end + 1
        return start

    def _cut(self, data: bytes, held: int) -> bytes:
        """As much of it as the log has room for; what follows a log that is full is not kept."""
        if held + len(data) <= self._limit_bytes:
            return data
        end = f"\n… the log ends here: {self._limit_bytes} bytes\n".encode()
        return data[: max(0, self._limit_bytes - held)] + end

    def _marks(self, job: str) -> list[Mark]:
        """Of the newest batches, the newest last."""
        try:
            rows = [row.split() for row in self._marks_path(job).read_text(encoding="ascii").splitlines()]
        except FileNotFoundError:
            return []
        return [Mark(digest, int(start), int(length)) for digest, start, length in rows]

    def _remember(self, job: str, marks: Sequence[Mark]) -> None:
        path = self._marks_path(job)
        fresh = path.with_suffix(".marks-new")
        fresh.write_text("".join(f"{one.digest} {one.start} {one.length}\n" for one in marks), encoding="ascii")
        os.replace(fresh, path)

    def _path(self, job: str) -> Path:
        assert "/" not in job, f"not an id: {job!r}"
        return self._folder / f"{job}.log"

    def _marks_path(self, job: str) -> Path:
        return self._path(job).with_suffix(".marks")


def _write(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        return file.seek(0, os.SEEK_END) == 0 or (file.seek(-1, os.SEEK_END), file.read(1))[1] == b"\n"


def _digest(lines: Sequence[Line]) -> str:
    """By their milliseconds: the same text may well be printed twice in a second."""
    told = repr([(line.at_ms, line.source, line.text) for line in lines])
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
