"""The meter of one lease: cumulative, monotonic milliseconds. Given its clock, so tests turn it by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Meter:
    """Leased time runs from `start` (the first load of a lease) to `stop`; trained time only between `training` and
    `trained`. Both count up while they run, so a reading in the middle of a round is current.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._started: float | None = None
        self._stopped: float | None = None
        self._training_since: float | None = None
        self._trained_s = 0.0
        self._rounds = 0
        self._last_round: int | None = None
        self._tokens = 0
        self._bytes = 0

    def start(self) -> None:
        """The lease begins to cost; a second start changes nothing."""
        with self._lock:
            if self._started is None:
                self._started = self._clock()

    def training(self) -> None:
        """The child begins to train or evaluate."""
        with self._lock:
            if self._training_since is None and self._stopped is None:
                self._training_since = self._clock()

    def trained(self) -> None:
        """The child has ended, well or not."""
        with self._lock:
            if self._training_since is not None:
                self._trained_s += self._now() - self._training_since
                self._training_since = None

    def contributed(self, tokens: int, payload_bytes: int) -> None:
        """A contribution of that many tokens and bytes is made."""
        with self._lock:
            self._tokens += tokens
            self._bytes += payload_bytes

    def committed(self, round: int) -> bool:
        """A round is committed; the same round again changes nothing, and False is the answer."""
        with self._lock:
            if round == self._last_round:
                return False
            self._rounds += 1
            self._last_round = round
            return True

    def stop(self) -> None:
        """The lease has ended; readings stay as they are from here on."""
        with self._lock:
            if self._stopped is None:
                self._stopped = self._clock()

    def reading(self) -> dict[str, int]:
        """{leased_ms, trained_ms, rounds, tokens, bytes}, none of which ever falls."""
        with self._lock:
            now = self._now()
            leased_s = 0.0 if self._started is None else now - self._started
            running_s = 0.0 if self._training_since is None else max(0.0, now - self._training_since)
            return {
                "leased_ms": int(leased_s * 1000),
                "trained_ms": int((self._trained_s + running_s) * 1000),
                "rounds": self._rounds,
                "tokens": self._tokens,
                "bytes": self._bytes,
            }

    def _now(self) -> float:
        return self._clock() if self._stopped is None else self._stopped
