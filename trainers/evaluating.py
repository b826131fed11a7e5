"""When the held-out loss is measured, by whom, and whose word ends a job: pure functions."""

from collections.abc import Collection, Mapping, Sequence
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


class HeldOut:
    """Who measures a job's held-out loss at which boundary, and whose word that it is low enough ends the job.

    A lowest loss is kept by provider (`hear`, called by one thread). One provider's word is enough only where nobody else
    takes part; otherwise the next measurement is another provider's, and the job is done once two have said so.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._wanted: float | None = spec.get("until_loss")
        self._evaluations = Evaluations.of(spec)
        self._last: Evaluation | None = None
        self._lowest: dict[str, float] = {}

    def hear(self, provider: str, loss: float) -> None:
        """A worker of this provider measured that."""
        self._lowest[provider] = min(loss, self._lowest.get(provider, loss))

    def evaluator(self, able: Sequence[tuple[int, str]], round: int, now_ms: int) -> int | None:
        """The slot that measures what `round` rounds have made, or None when nobody does.

        able: (slot, provider) of those that will have it, who is asked first in front.
        """
        claims = self._claims()
        others = [slot for slot, provider in able if provider not in claims]
        doubted = bool(round and claims and others)
        if not able or not (doubted or self._evaluations.due(round, now_ms, self._last)):
            return None
        self._last = Evaluation(round, now_ms)
        return others[0] if doubted else able[0][0]

    def reached(self, present: Collection[str]) -> float | None:
        """The loss at which the job has what it wanted, or None. present: the providers whose workers take part now."""
        claims = self._claims()
        if len(claims) >= 2:
            return sorted(claims.values())[1]
        return next(iter(claims.values())) if claims and set(present) <= set(claims) else None

    def _claims(self) -> dict[str, float]:
        wanted = self._wanted
        return {} if wanted is None else {one: loss for one, loss in self._lowest.copy().items() if loss <= wanted}
