"""What share of the lone machine's steps others need to its last loss, everybody at its own best rate. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.frontier import effort_to
from benchmarks.learnt import Learnt


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """Runs that differ in nothing but length, inner rate and seed."""

    strategy: str
    workers: int
    batch: int
    inner_steps: int

    @classmethod
    def of(cls, one: Learnt) -> Kind:
        return cls(one.strategy, one.job.workers, one.job.batch, one.job.inner_steps)

    def __str__(self) -> str:
        return f"{self.strategy}.{self.workers}.b{self.batch}.h{self.inner_steps}"


def by_kind(runs: Iterable[Learnt]) -> dict[Kind, list[Learnt]]:
    """The runs of each kind."""
    found: dict[Kind, list[Learnt]] = {}
    for one in runs:
        found.setdefault(Kind.of(one), []).append(one)
    return found


def at_best_rates(runs: Iterable[Learnt]) -> list[Learnt]:
    """Runs of one kind: of each length those at the rate whose mean held-out loss over the seeds is lowest.

    A rate at which any seed diverged is not chosen; a length without another is left out.
    """
    groups: dict[int, dict[float | None, list[Learnt]]] = {}
    for one in runs:
        groups.setdefault(one.job.steps, {}).setdefault(one.job.lr, []).append(one)
    chosen = (min(rates.values(), key=_mean_loss) for _, rates in sorted(groups.items()))
    return [one for group in chosen if _mean_loss(group) < math.inf for one in group]


def _mean_loss(group: Sequence[Learnt]) -> float:
    return statistics.fmean(math.inf if one.held_out is None else one.held_out for one in group)


def steps_ratios(runs: Sequence[Learnt], alone: Sequence[Learnt]) -> list[float] | None:
    """By seed: steps of each worker to the loss that the lone machine of that seed ends with, by the lone machine's steps.

    `alone`: one run a seed. None where a loss lies outside those that the lengths of `runs` ended with.
    """
    found = []
    for lone in alone:
        points = [(one.job.steps, one.held_out) for one in runs if one.job.seed == lone.job.seed]
        assert lone.held_out is not None, "at_best_rates leaves out what diverged"
        steps = effort_to([(steps, loss) for steps, loss in points if loss is not None], lone.held_out)
        if steps is None:
            return None
        found.append(steps / lone.job.steps)
    return found
