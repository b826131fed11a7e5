"""How often somebody may ask: token buckets. Pure: the time is an argument, so a bucket can be replayed.

A bucket holds `burst` tokens and gains `per_s` a second; a call takes one. Limits are for what runs away, not for work: a
run with a round a second, its long polls and its uploads stay an order of magnitude below them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_s` calls a second in the long run, `burst` at once."""

    per_s: float
    burst: float


MEMBER = Rate(per_s=1_000, burst=4_000)
ADDRESS = Rate(per_s=50, burst=200)  # without a key: health checks and scrapes
WRONG_CODES = Rate(per_s=0.2, burst=20)  # 192 bits are not guessed either; nobody types more than a few
WRONG_KEYS = Rate(per_s=5, burst=200)  # spares the log and the processor: keys of 256 bits are not guessed


class Buckets:
    """One bucket a name. At most `most` are remembered: the one not asked for longest is forgotten, full as it may be."""

    __slots__ = ("_buckets", "_most", "rate")

    def __init__(self, rate: Rate, *, most: int = 10_000) -> None:
        self.rate = rate
        self._most = most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, now_s: float) -> float:
        """Take a token: 0 if there was one, else the seconds until there is. A clock that goes back gives nothing."""
        tokens, at_s = self._buckets.get(name, (self.rate.burst, now_s))
        tokens = min(self.rate.burst, tokens + max(0.0, now_s - at_s) * self.rate.per_s)
        taken = tokens >= 1
        self._buckets[name] = (tokens - 1 if taken else tokens, max(now_s, at_s))
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - tokens) / self.rate.per_s
