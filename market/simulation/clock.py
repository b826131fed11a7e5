"""Virtual time: what happens next, in order of time; what happens at one time, in the order in which it was planned."""

from __future__ import annotations

import heapq
from typing import Any


class Clock:
    """A queue of events (time, kind, about what, which version of it)."""

    __slots__ = ("_number", "_queue", "now_ms")

    def __init__(self) -> None:
        self.now_ms = 0
        self._queue: list[tuple[int, int, str, Any, int]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._queue)

    def at(self, at_ms: int, kind: str, about: Any = None, version: int = 0) -> None:
        """Plan something, never in the past."""
        self._number += 1
        heapq.heappush(self._queue, (max(at_ms, self.now_ms), self._number, kind, about, version))

    def next(self) -> tuple[str, Any, int]:
        """What is next; time goes there."""
        self.now_ms, _, kind, about, version = heapq.heappop(self._queue)
        return kind, about, version
