"""What a child prints, read by a thread so that it never blocks, and limited in every direction."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO

MAX_LINES = 2_000
MAX_BYTES = 4 << 20
MAX_LINE_CHARACTERS = 2_000
TAIL_LINES = 20
LINE_COST = 128
"""Bytes that a line counts beside its text: what keeping and telling it costs."""
UNFINISHED_S = 1.0
OVERWRITTEN_S = 30.0
"""After so long without another byte what there is of a line is shown; the second of one that is being written over."""


class ChildLog:
    """Lines of one pipe: the newest `max_lines` not yet taken, of `max_bytes` at most, and the last few for a post-mortem.

    Of a line that was written over (as bars of progress are), what a terminal would show last counts. Of one that stays
    unfinished (a prompt) what is there is a line, and so is what comes of it afterwards, unless that is its end alone.
    """

    def __init__(
        self, pipe: IO[bytes], *, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._pipe = pipe
        self._clock = clock
        self.read_bytes = 0
        self._rest, self._rest_at, self._shown_before = b"", 0.0, False
        self._max_lines, self._max_bytes = max_lines, max_bytes
        self._lock = threading.Lock()
        self._lines: deque[str] = deque()
        self._waiting_bytes = 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._dropped = 0
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="trainer-child-log", daemon=True)
        self._thread.start()

    def take(self, most_bytes: int | None = None) -> list[str]:
        """The lines since the last call, the oldest ones up to `most_bytes`; a line says how many were dropped before
        them, if any were.
        """
        with self._lock:
            self._show_unfinished()
            taken, room = [], most_bytes
            if self._dropped:
                taken.append(f"[torg: {self._dropped} lines dropped]")
                self._dropped = 0
            while self._lines and (room is None or room > 0):
                line = self._lines.popleft()
                self._waiting_bytes -= _size(line)
                room = None if room is None else room - _size(line)
                taken.append(line)
        return taken

    @property
    def said_all(self) -> bool:
        """Whether the pipe has ended and nothing of it waits."""
        with self._lock:
            return self._ended and not self._lines and not self._dropped

    def tail(self) -> str:
        """The last lines, taken or not."""
        with self._lock:
            return "\n".join(self._tail)

    def close(self) -> None:
        """Wait for the end of the pipe (its writer is dead) and close it."""
        self._thread.join(timeout=5)
        self._pipe.close()

    def _read(self) -> None:
        try:
            while data := self._pipe.read(1 << 16):
                with self._lock:
                    self._take_in(data)
            with self._lock:
                if self._rest:
                    self._add([self._rest])
        finally:
            with self._lock:
                self._ended = True

    def _take_in(self, data: bytes) -> None:
        *whole, rest = (self._rest + data).split(b"\n")
        if whole and self._shown_before:
            whole = whole if whole[0].strip(b"\r") else whole[1:]
            self._shown_before = False
        self._add(whole)
        if len(rest) > 4 * MAX_LINE_CHARACTERS:
            over, _, rest = rest.rpartition(b"\r")
            self._add([over or rest])
            rest = rest if over else b""
        self._rest, self._rest_at = rest, self._clock()
        self.read_bytes += len(data)

    def _show_unfinished(self) -> None:
        """What is there of a line that nobody goes on with."""
        patience_s = OVERWRITTEN_S if b"\r" in self._rest else UNFINISHED_S
        if self._rest and self._clock() - self._rest_at >= patience_s:
            self._add([self._rest])
            self._rest, self._shown_before = b"", True

    def _add(self, lines: list[bytes]) -> None:
        surplus = len(lines) - self._max_lines
        if surplus > 0:  # faster than anybody reads: these are not even looked at
            self._dropped += surplus
            lines = lines[surplus:]
        for line in lines:
            shown = line.rstrip(b"\r").rpartition(b"\r")[2]
            text = _text(shown)
            self._lines.append(text)
            self._waiting_bytes += _size(text)
            self._tail.append(text)
        while len(self._lines) > self._max_lines or self._waiting_bytes > self._max_bytes:
            self._waiting_bytes -= _size(self._lines.popleft())
            self._dropped += 1


def _text(shown: bytes) -> str:
    """The line, or the begin of one that is too long, which says so."""
    text = shown[: 4 * MAX_LINE_CHARACTERS].decode(errors="replace")
    if len(text) <= MAX_LINE_CHARACTERS:
        return text
    said = f" [torg: cut: {len(shown):,} bytes]"
    return text[: MAX_LINE_CHARACTERS - len(said)] + said


def _size(line: str) -> int:
    return len(line) + LINE_COST
