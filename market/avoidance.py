"""For how long a job keeps away from an offer that lost one of its workers. Pure.

Five seconds, so that somebody else is asked first, and a job whose machines are all there is goes on at once; twice as
long for each further loss, so that a broken machine is not paid to fail again and again; as after the first for one
that had served well in between.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.outcomes import Settings

SERVED_WELL_MS = 600_000
LONGEST_MS = 600_000


@dataclass(frozen=True, slots=True)
class Avoidance:
    """When an offer last lost a worker of a job, and how many in a row."""

    at_ms: int
    losses: int

    def until_ms(self, settings: Settings) -> int:
        """When the job takes the offer again."""
        doubled = settings.avoid_ms << min(self.losses - 1, LONGEST_MS.bit_length())
        return self.at_ms + min(doubled, max(settings.avoid_ms, LONGEST_MS))


def after_loss(before: Avoidance | None, at_ms: int, served_ms: int) -> Avoidance:
    """What a job remembers of an offer that lost a worker after it had served for so long."""
    if before is None or served_ms >= SERVED_WELL_MS:
        return Avoidance(at_ms, losses=1)
    return Avoidance(at_ms, before.losses + 1)
