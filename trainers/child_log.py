"""What a trainer child prints, read by a thread so that it never blocks, and limited in every direction."""

import threading
from collections import deque
from typing import IO

MAX_LINES = 2_000
MAX_LINE_CHARACTERS = 2_000
TAIL_LINES = 20


class ChildLog:
    """Lines of one pipe: the newest `MAX_LINES` not yet taken, and the last few for a post-mortem."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._read, name="trainer-child-log", daemon=True)
        self._thread.start()

    def take(self) -> list[str]:
        """The lines since the last call; a line says how many were dropped before them, if any were."""
        with self._lock:
            lines = list(self._lines)
            if self._dropped:
                lines.insert(0, f"[torg: {self._dropped} lines dropped]")
            self._lines.clear()
            self._dropped = 0
        return lines

    def tail(self) -> str:
        """The last lines, taken or not."""
        with self._lock:
            return "\n".join(self._tail)

    def close(self) -> None:
        """Wait for the end of the pipe (its writer is dead) and close it."""
        self._thread.join(timeout=5)
        self._pipe.close()

    def _read(self) -> None:
        rest = b""
        while data := self._pipe.read(1 << 16):
            *whole, rest = (rest + data).split(b"\n")
            self._add(whole)
            if len(rest) > 4 * MAX_LINE_CHARACTERS:
                self._add([rest])
                rest = b""
        if rest:
            self._add([rest])

    def _add(self, lines: list[bytes]) -> None:
        with self._lock:
            for line in lines:
                text = line[: 4 * MAX_LINE_CHARACTERS].decode(errors="replace").rstrip("\r")[:MAX_LINE_CHARACTERS]
                if len(self._lines) == MAX_LINES:
                    self._dropped += 1
                self._lines.append(text)
                self._tail.append(text)
