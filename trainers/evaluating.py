"""When the held-out loss is measured: a pure function of the round, the clock and the last time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One that has begun: after how many rounds, and when by a monotonic clock."""

    round: int
    began_ms: int


@dataclass(frozen=True, slots=True)
class Evaluations:
    """A job's `evaluate`: by rounds, by the clock, or by both."""

    every_rounds: int | None = 1
    every_ms: int | None = None

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """What the job says, or the default when it says nothing."""
        said = spec.get("evaluate") or {"every_rounds": 1}
        return cls(said.get("every_rounds"), said.get("every_ms"))

    def due(self, round: int, now_ms: int, last: Evaluation | None) -> bool:
        """Whether to measure at the boundary after `round` rounds; `last`: this run's last one, None before its first.

        The loss after round 1 is what every later one is held against. A boundary that is met again (its next round came
        to nothing, perhaps before anything was measured) is due as it was. The last round is nobody's question here: the
        end of a job always measures.
        """
        if round == 0:
            return False
        if round == 1 or (last is not None and last.round == round):
            return True
        by_rounds = self.every_rounds is not None and round % self.every_rounds == 0
        by_clock = self.every_ms is not None and (last is None or now_ms - last.began_ms >= self.every_ms)
        return by_rounds or by_clock
