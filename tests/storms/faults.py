"""What goes wrong in a story, how often, and the count of what did."""

from collections import Counter
from dataclasses import dataclass
from random import Random

CLASSES = {
    "loss": "message lost, answer lost",
    "duplication": "message twice",
    "delay": "message late",
    "kill": "the exchange dies at an operation on its disk, or between two",
    "power": "a power cut: what was not synced is kept, dropped or torn",
    "again": "it dies once more while it recovers",
    "full": "the disk is full for a while",
    "io": "a sync fails",
    "clock": "somebody sets the machine's clock forward or back",
    "death": "machines fall silent, and come again on another node",
    "lies": "providers and runs say what is not so",
    "whims": "people cancel, reprice, drain, hold back, stop and open the market",
}
"""Each can be left out of a story, to find the one that matters."""


@dataclass(slots=True)
class Weather:
    """The chances of one story, drawn from its seed; `count` is what happened."""

    random: Random
    without: frozenset[str]
    count: Counter[str]
    loss: float = 0.0
    twice: float = 0.0
    late: float = 0.0

    @classmethod
    def of(cls, random: Random, without: frozenset[str]) -> "Weather":
        """Every story has a mood of its own: some have a good network and a bad disk, some the other way round."""
        loss, twice, late = (random.choice((0.0, 0.02, 0.1, 0.3)) for _ in range(3))
        weather = cls(random, without, Counter())
        weather.loss = 0.0 if "loss" in without else loss
        weather.twice = 0.0 if "duplication" in without else twice
        weather.late = 0.0 if "delay" in without else late
        return weather

    def strikes(self, name: str, chance: float) -> bool:
        """Whether a fault of this class happens now. Drawn also where it is left out, so that the rest stays as it was."""
        drawn = self.random.random() < chance
        return drawn and name not in self.without
