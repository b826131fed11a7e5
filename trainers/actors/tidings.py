"""What a worker has to tell beside the meter: numbered, and kept until the market is known to have it."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

KEPT = 8000


class Tidings:
    """Evaluations and log lines. A run that is killed before the market has answered it loses none, and the market knows by
    their numbers which lines it has already. The oldest go when more than `KEPT` wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: deque[tuple[int, str, Any]] = deque(maxlen=KEPT)

    def add(self, kind: str, news: Iterable[Any]) -> None:
        """One or more of a kind: "evaluated" or "logs"."""
        with self._lock:
            self._waiting.extend((next(self._numbers), kind, one) for one in news)

    def evaluated(self, round: int, loss: float | None, metrics: Mapping[str, float]) -> str | None:
        """A held-out loss after a round, unless it is not finite (None), and figures; a line to log about it, if one is due."""
        if loss is None:
            return f"held-out after round {round}: the loss is not finite, so that it is missing"
        self.add("evaluated", [{"round": round, "loss": loss, "metrics": dict(metrics)}])
        if not metrics:
            return None
        told = ", ".join(f"{name} {value:.6g}" for name, value in sorted(metrics.items()))
        return f"held-out after round {round}: loss {loss:.6g}, {told}"

    @property
    def crowded(self) -> bool:
        """Whether so much waits that further lines had better wait elsewhere."""
        with self._lock:
            return len(self._waiting) > KEPT // 2

    def above(self, seen: int, kept: int) -> dict[str, Any]:
        """{evaluated, logs, seen}: what is numbered above `seen` (lines have their `number`), and the `seen` to ask with
        next. What is numbered up to `kept` is dropped: the market has it.
        """
        with self._lock:
            while self._waiting and self._waiting[0][0] <= kept:
                self._waiting.popleft()
            told = [one for one in self._waiting if one[0] > seen]
        return {
            "evaluated": [one for _, kind, one in told if kind == "evaluated"],
            "logs": [{**one, "number": number} for number, kind, one in told if kind == "logs"],
            "seen": told[-1][0] if told else seen,
        }
