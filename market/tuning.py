"""A job's strategy while it runs: what is in force, what a change makes of it, and which rounds were made with what.

Tunings of a job count from 1; 0 is the strategy that it was submitted with. A change takes effect at a round boundary
after it was asked for; the round reports say from which one on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from market.checking import CHECKPOINT_DEFAULTS, EVALUATE_DEFAULTS, MAX_ROUNDS, TRAIN_DEFAULTS
from market.state import Job
from trainers.options import STRATEGIES, keeps_inner_state, strategy_options
from trainers.round_lengths import round_lengths

KEPT: Final[tuple[str, ...]] = ("inner_steps", "inner_steps_later", "later_from", "adapt")
"""Options that another strategy takes over: they say how often workers meet, not how they merge."""
MAX_TUNINGS: Final = 1_000

Json = dict[str, Any]


def retuned(current: Mapping[str, Any], name: str | None, options: Mapping[str, Any]) -> Json:
    """The whole strategy after a change, defaults filled in. Raises trainers.options.OptionError.

    The same strategy keeps every option that is not changed, but that error feedback follows a new codec and that new
    inner steps are those of the whole rest, unless these are named. Another one takes over what it knows of `KEPT` and has
    its own defaults for the rest.
    """
    own = dict(current)
    if "codec" in options:
        own.pop("error_feedback", None)
    if "inner_steps" in options:
        own.pop("inner_steps_later", None)
        own.pop("later_from", None)
    if name is None or name == current["name"]:
        return strategy_options({**own, **options})
    kept = {option: own[option] for option in KEPT if option in own and option in STRATEGIES.get(name, KEPT)}
    return strategy_options({**kept, **options, "name": name})


def strategy_in_force(job: Job, tuning: int) -> Json:
    """The strategy of a tuning of the job, defaults filled in."""
    return strategy_options(job.tunings[tuning - 1]["strategy"] if tuning else job.spec["strategy"])


def planned_rounds(job: Job) -> int:
    """Rounds of the whole job as far as is known: those that are committed and what the rest of the steps needs. A batch
    job has none."""
    if job.command is not None:
        return 0
    if not job.tunings:
        return int(job.spec["rounds"])
    left = round_lengths(job.strategy, int(job.spec["steps"])).rounds_from(job.step)
    return min(MAX_ROUNDS, job.rounds_committed + left)


def spec_in_force(job: Job) -> Json:
    """The spec as a run follows it now: newest strategy, every default filled in, `rounds` to match. A batch job's is
    as it was submitted."""
    spec = job.spec
    if job.command is not None:
        return spec
    strategy = strategy_options(job.strategy)
    inner_state = keeps_inner_state(spec["checkpoint"], strategy)
    return {
        **spec,
        "strategy": strategy,
        "rounds": planned_rounds(job),
        "train": {**TRAIN_DEFAULTS, **spec.get("train", {})},
        "checkpoint": {**CHECKPOINT_DEFAULTS, **spec["checkpoint"], "inner_state": inner_state},
        "evaluate": dict(spec.get("evaluate") or EVALUATE_DEFAULTS),
    }


def tuning_of_round(tunings: Sequence[Mapping[str, Any]], number: int, strategy: str) -> int:
    """The newest tuning that round `number` can have been made with, by the name that its report says."""
    for one in reversed(tunings):
        if one["after_round"] < number and strategy == one["strategy"]["name"]:
            return int(one["tuning"])
    return 0


def tunings_view(job: Job) -> list[Json]:
    """The history: each change with the first round that was made with it, None until there is one."""
    first: dict[int, int] = {}
    for number, record in sorted(job.rounds.items()):
        first.setdefault(record.get("tuning", 0), number)
    return [
        {
            "tuning": one["tuning"],
            "id": one["id"],
            "strategy": one["strategy"],
            "asked_ms": one["asked_ms"],
            "after_round": one["after_round"],
            "first_round": first.get(one["tuning"]),
        }
        for one in job.tunings
    ]
