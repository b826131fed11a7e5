"""How far a provider can be relied on, learned from the journal. Pure integers, so a replay has the same bits.

Reliability is the mean of a Beta distribution: the share of leases that do not end by the provider's fault. Before anything
is known it is Beta(19, 1): 0.95, as if twenty leases had been seen and one of them lost. So one loss brings a newcomer to
19/21 = 0.905, and it takes 80 good leases to come to 0.99: neither banned nor trusted. Then

    reliability = (19 + kept) ÷ (20 + kept + lost)

`kept`: 1 for a lease that began and did not end by the provider's fault, 1/4 for a day on which the machine was heard of.
`lost`: 1 for a lease that ended by its fault, 1/2 for falling silent while open, once a minute at most.
Both are multiplied by 2^(−1/30) at each full day of the market's clock, so that they halve in thirty days; that is looked at
when something is learned, and between two events nothing changes. Idling alone never brings more than 10.9 leases' worth
of evidence, 0.967. A lease of an owner on a machine of its own counts nothing. After Jøsang and Ismail, The Beta Reputation
System (2002), which has the prior and the forgetting factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UNIT: Final = 1 << 32
"""The weight of one lease."""
PRIOR_KEPT: Final = 19 * UNIT
PRIOR_LOST: Final = 1 * UNIT
DAY_MS: Final = 86_400_000
DAYS_A_LEASE: Final = 4
SILENCE: Final = UNIT // 2
SILENCES_APART_MS: Final = 60_000
KEEP: Final = 18_025_419_856_780_639_094
"""The integer part of 2^64 · 2^(−1/30)."""
NEWCOMER_BELOW: Final = 5 * UNIT
PLACES: Final = 10_000


@dataclass(slots=True)
class ProviderRecord:
    """What is known of a provider. `ended`, `faulted` (leases), `silences` and `heard_ms` are plain counts; `kept` and `lost`
    are decayed weights in `UNIT`s as of `at_ms`. `heard_until_ms`: time before it was counted already, of whatever offer."""

    ended: int = 0
    faulted: int = 0
    silences: int = 0
    heard_ms: int = 0
    kept: int = 0
    lost: int = 0
    at_ms: int = 0
    heard_until_ms: int = 0
    silent_at_ms: int | None = None

    @property
    def reliability(self) -> float:
        """From 0 to 1, in steps of 0.0001, rounded down."""
        kept = PRIOR_KEPT + self.kept
        return kept * PLACES // (kept + PRIOR_LOST + self.lost) / PLACES

    @property
    def newcomer(self) -> bool:
        """Whether the prior still says more than what was seen: less than five leases' worth."""
        return self.kept + self.lost < NEWCOMER_BELOW

    def lease_ended(self, at_ms: int, *, faulted: bool, began: bool) -> None:
        """A lease that never began says something only by the provider's fault."""
        self._pass_time(at_ms)
        self.ended += 1
        if faulted:
            self.faulted += 1
            self.lost += UNIT
        elif began:
            self.kept += UNIT

    def forgive(self, lost_at_ms: int, at_ms: int) -> None:
        """A lease lost at `lost_at_ms` was not by the provider's fault after all."""
        self._pass_time(at_ms)
        weight = min(self.lost, decayed(UNIT, lost_at_ms, at_ms))
        self.faulted -= 1
        self.lost -= weight
        self.kept += weight

    def heard(self, from_ms: int, at_ms: int) -> None:
        """One of its offers was open and heard of all the time from `from_ms` on; what several offers share counts once."""
        self._pass_time(at_ms)
        fresh_ms = at_ms - max(from_ms, self.heard_until_ms)
        self.heard_until_ms = max(self.heard_until_ms, at_ms)
        if fresh_ms > 0:
            self.heard_ms += fresh_ms
            self.kept += UNIT * fresh_ms // (DAYS_A_LEASE * DAY_MS)

    def fell_silent(self, at_ms: int) -> None:
        """An open offer is not heard of any more; several at once are one machine."""
        if self.silent_at_ms is not None and at_ms - self.silent_at_ms < SILENCES_APART_MS:
            return
        self._pass_time(at_ms)
        self.silences += 1
        self.silent_at_ms = at_ms
        self.lost += SILENCE

    def _pass_time(self, at_ms: int) -> None:
        self.kept, self.lost = decayed(self.kept, self.at_ms, at_ms), decayed(self.lost, self.at_ms, at_ms)
        self.at_ms = max(self.at_ms, at_ms)


def decayed(weight: int, from_ms: int, to_ms: int) -> int:
    """What is left of a weight: it shrinks at each full day between the two."""
    for _ in range(to_ms // DAY_MS - from_ms // DAY_MS):
        if not weight:
            break
        weight = weight * KEEP >> 64
    return weight
