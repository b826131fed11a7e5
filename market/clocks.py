"""The market's time: it runs as evenly as a stopwatch, and follows the machine's clock without its jumps. Pure.

Everything that times out, expires or is charged goes by it. A clock that somebody sets an hour forward would end every
lease at its provider's expense, and one set back would stop the market until the hour is over. So the difference is made up
slowly, a twentieth of the time that passes, as time daemons slew: nothing notices, and a restart takes the clock as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

SLEW: Final = 20
"""One part in so many of the time that passes goes to a difference."""
TOLD_MS: Final = 2_000

log = logging.getLogger("torg.clock")


class SteadyClock:
    """Calling it answers milliseconds since the epoch, never less than before.

    Args:
        wall_ms: the machine's clock, which may jump. steady_ms: one that only runs, also while the machine sleeps.
    """

    def __init__(self, wall_ms: Callable[[], int], steady_ms: Callable[[], int]) -> None:
        self._wall_ms, self._steady_ms = wall_ms, steady_ms
        self._seen_ms = steady_ms()
        self._now_ms = wall_ms()
        self._owed = 0  # of slewing, in parts of a millisecond: SLEW of them are one
        self._told_ms = 0

    def not_before(self, at_ms: int) -> None:
        """Go on from here at least: what was told once stays the past."""
        self._now_ms = max(self._now_ms, at_ms)

    @property
    def ahead_ms(self) -> int:
        """How far the machine's clock is ahead; negative when it is behind."""
        return self._wall_ms() - self._now_ms

    def __call__(self) -> int:
        steady_ms = self._steady_ms()
        passed_ms = max(0, steady_ms - self._seen_ms)
        self._seen_ms = max(self._seen_ms, steady_ms)
        self._now_ms += passed_ms
        self._owed += passed_ms
        ahead_ms = self.ahead_ms
        step_ms = min(abs(ahead_ms), self._owed // SLEW)
        self._now_ms += step_ms if ahead_ms > 0 else -step_ms
        self._owed = self._owed % SLEW if step_ms < self._owed // SLEW else self._owed - step_ms * SLEW
        self._tell(ahead_ms)
        return self._now_ms

    def _tell(self, ahead_ms: int) -> None:
        if abs(ahead_ms - self._told_ms) < TOLD_MS:
            return
        if abs(ahead_ms) >= TOLD_MS:
            way = "ahead of" if ahead_ms > 0 else "behind"
            log.warning(
                "the machine's clock is %.1f s %s the market's, which follows by one part in %s; restart the market to take it as it is",
                abs(ahead_ms) / 1000, way, SLEW,
            )  # fmt: skip
        self._told_ms = ahead_ms
