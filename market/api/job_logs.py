"""What a job's workers print, one file a job, cut off at a size. Not a record: lost lines cost nobody money."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

LOG_BYTES = 8 * 1024 * 1024
ANSWER_BYTES = 256 * 1024
BATCHES_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class Line:
    """One printed line; `at_ms` is the worker's clock, milliseconds since the epoch."""

    at_ms: int
    source: str
    text: str


class JobLogs:
    """Appends to and reads from `folder/JOB.log`. Offsets are bytes."""

    def __init__(self, folder: Path, *, limit_bytes: int = LOG_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._batches: dict[str, list[bytes]] = {}

    def append(self, job: str, lines: Sequence[Line]) -> bool:
        """Add lines; the same batch again (a retried report) adds nothing. Whether anything was written.

        Raises OSError when the disk takes no more.
        """
        if not lines:
            return False
        data = "".join(_render(line) for line in lines).encode("utf-8", "replace")
        # By their milliseconds: the same text may well be printed twice in a second.
        mark = sha256(
            repr([(line.at_ms, line.source, line.text) for line in lines]).encode("utf-8", "replace")
        ).digest()
        seen = self._batches.setdefault(job, [])
        if mark in seen:
            return False
        path = self._path(job)
        held = path.stat().st_size if path.exists() else 0
        if held >= self._limit_bytes:
            return False
        if held + len(data) > self._limit_bytes:
            # past the limit from now on, so that nothing follows this line
            data = data[: self._limit_bytes - held] + f"\n… the log ends here: {self._limit_bytes} bytes\n".encode()
        with path.open("ab") as file:
            file.write(data)
        self._batches[job] = [*seen[1 - BATCHES_REMEMBERED :], mark]
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

    def forget(self, job: str) -> None:
        """The job is over: no retried report of it will come."""
        self._batches.pop(job, None)

    def _path(self, job: str) -> Path:
        assert "/" not in job, f"not an id: {job!r}"
        return self._folder / f"{job}.log"


def _render(line: Line) -> str:
    at = datetime.fromtimestamp(min(line.at_ms, 253_402_300_799_000) / 1000, UTC).strftime("%H:%M:%S")
    return f"{at} {line.source} | {line.text.translate(_NO_BREAKS)}\n"


_NO_BREAKS = {ord("\n"): "␤", ord("\r"): "", ord("\x1b"): "␛"}
