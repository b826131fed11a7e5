"""What several machines buy that one alone does not: measured points, and what follows from them for a plan. Pure.

A point is how many steps each worker needs to the held-out loss that one machine alone ends with, by that machine's steps.
Without the time of exchanges, and with a worker costing the same everywhere, that is the share of the time, and times the
workers the share of the price. Points are never interpolated: of strategies and numbers of workers that were not measured
nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from market.outcomes import Json
from storage.units import format_duration
from trainers.workloads.options import size_of

NEARLY: Final = 0.8
"""From this share of its time on, several machines buy so little that one alone is called nearly as fast."""
ALIKE: Final = math.log(10)
"""Up to a factor of ten in size and batch together a job is like one that was measured."""


@dataclass(frozen=True, slots=True)
class Study:
    """One study by `benchmarks.renting`: conditions, and what came out.

    Args:
        workload, size: of the model. batch_tokens: of one worker, a step. steps: the lone machine's.
        inner_steps: a round's, of strategies that do not exchange in every step. seeds: paired ones.
        steps_ratios: by strategy and number of workers, lowest and highest over the seeds.
        options: by strategy, in words, those that were not its defaults.
    """

    workload: str
    size: str
    batch_tokens: int
    steps: int
    inner_steps: int
    seeds: int
    steps_ratios: Mapping[str, Mapping[int, tuple[float, float]]]
    options: Mapping[str, str] = field(default_factory=dict)

    def conditions(self, strategy: str) -> str:
        """For people: of what the points of that strategy are."""
        each = f"{self.batch_tokens:,} tokens a step, {self.steps} steps alone, rounds of {self.inner_steps}"
        own = "".join(f", {text}" for name, text in self.options.items() if name == strategy)
        return f"{self.workload} {self.size}, {each}{own}, {self.seeds} seed{'s' * (self.seeds != 1)}"

    def distance(self, parameters: float, batch_tokens: int) -> float:
        """How far another job is from this one: factors of its size and batch, as logarithms."""
        size = size_of(self.size)
        assert size is not None, self.size
        return abs(math.log(parameters / size)) + abs(math.log(batch_tokens / self.batch_tokens))


STUDIES: Final = (
    Study(
        workload="byte_lm", size="100k", batch_tokens=768, steps=360, inner_steps=30, seeds=2,
        steps_ratios={"ddp": {2: (0.55, 0.66)}, "diloco": {2: (0.91, 1.04), 4: (0.77, 1.07)}},
        options={"diloco": "outer_momentum 0.5"},
    ),
    Study(
        workload="byte_lm", size="1M", batch_tokens=768, steps=300, inner_steps=30, seeds=2,
        steps_ratios={"diloco": {2: (0.82, 0.86), 4: (0.76, 0.78)}},
        options={"diloco": "outer_momentum 0.5"},
    ),
    Study(
        workload="byte_lm", size="10M", batch_tokens=768, steps=300, inner_steps=30, seeds=1,
        steps_ratios={"ddp": {2: (0.60, 0.60)}, "diloco": {2: (0.76, 0.76)}},
        options={"diloco": "outer_momentum 0.5"},
    ),
)  # fmt: skip
"""The table: all that plans know. Commands and losses are in docs/PROTOCOLS.md, «Against one machine alone»."""


def nearest_study(
    strategy: str, workers: int, parameters: float, batch_tokens: int, studies: Sequence[Study] = STUDIES
) -> Study | None:
    """Of those that measured so many workers by that strategy, the one whose job is most like this one."""
    measured = [one for one in studies if workers in one.steps_ratios.get(strategy, {})]
    return min(measured, key=lambda one: one.distance(parameters, batch_tokens), default=None)


def against_alone(
    strategy: str, workers: int, parameters: float, batch_tokens: int, studies: Sequence[Study] = STUDIES
) -> Json | None:
    """The field `against_alone` of a plan; ratios are [lowest, highest] over the seeds. None where nothing was measured."""
    study = nearest_study(strategy, workers, parameters, batch_tokens, studies)
    if study is None:
        return None
    low, high = study.steps_ratios[strategy][workers]
    return {
        "workers": workers,
        "hours_ratio": [low, high],
        "dollars_ratio": [low * workers, high * workers],
        "measured_on": study.conditions(strategy),
        "alike": study.distance(parameters, batch_tokens) <= ALIKE,
    }


def sentence(found: Json, strategy: str, steps: int, expected_ms: int | None, link: str | None) -> str:
    """What `against_alone` means for a job of `steps`. `link`: the speed from which on exchanges take little, in words."""
    workers, (low, high) = found["workers"], found["hours_ratio"]
    if expected_ms is None:
        what = f"reach a loss in {_range(low, high)} of the time of one machine alone"
    else:
        sooner, later = (format_duration(round(expected_ms / ratio)) for ratio in (high, low))
        alone = sooner if sooner == later else f"{sooner} to {later}"
        what = f"reach in {format_duration(expected_ms)} what one machine alone reaches in {alone}"
    told = f"{workers} workers by {strategy} {what}, for {_range(*found['dollars_ratio'])} times its price"
    over = "" if link is None else f", over links from {link} on"
    other = "" if found["alike"] else "a job unlike this one: "
    return f"{told}{over}{_instead(found, steps)} (measured on {other}{found['measured_on']}; docs/PROTOCOLS.md)"


def _instead(found: Json, steps: int) -> str:
    """That one machine alone is the better choice, where a job like this one showed it, and how to ask for it."""
    hours, dollars = (sum(found[name]) / 2 for name in ("hours_ratio", "dollars_ratio"))
    if hours < NEARLY or dollars <= 1 or not found["alike"]:
        return ""
    as_fast = "nearly as fast" if hours < 1 else "no slower"
    return f"; one machine alone is {as_fast} and cheaper: workers.min 1, workers.max 1, steps {round(steps / hours)}"


def _range(low: float, high: float) -> str:
    first, last = f"{low:.2f}", f"{high:.2f}"
    return first if first == last else f"{first} to {last}"
