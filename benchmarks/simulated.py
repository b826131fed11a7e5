"""A trial of learning alone: the members of a job in one process, merged as in production, without clock or network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.learnt import Learnt
from benchmarks.trials import Job, Trial
from trainers.codecs import BadPayload
from trainers.loop import NotFinite
from trainers.options import round_steps, strategy_options
from trainers.simulation import Script, simulate
from trainers.workloads.byte_lm import ByteLM

Retunes = Sequence[tuple[int, Mapping[str, Any]]]
"""From which step on which options are others, ascending; from the next boundary, as `torg retune` does it."""


def script_of(strategy: Mapping[str, Any], workers: int, retunes: Retunes) -> Script:
    """A job of so many workers whose strategy is retuned on its way."""
    strategies, step, number = {1: dict(strategy)}, 0, 1
    for at, changes in retunes:
        current = strategies[max(strategies)]
        rounds = -(-max(0, at - step) // round_steps(current))
        step, number = step + rounds * round_steps(current), number + rounds
        strategies[number] = strategy_options({**current, **changes})
    return Script({1: range(workers)}, strategies)


def simulated_trial(
    data: Path, job: Job, strategy: str, options: Mapping[str, Any], *, evaluate: bool = True, retunes: Retunes = ()
) -> Trial:
    """As `trials.torg_trial`; bytes are the payloads' that were sent, and there are no seconds.

    `evaluate`: after every round, not only the last. Raises NotFinite or BadPayload when it diverges.
    """
    torch.set_num_threads(1)
    chosen = strategy_options({"name": strategy, "inner_steps": job.inner_steps, **options})
    rounds = simulate(
        lambda: ByteLM(job.options(), data, job.seed), chosen, steps=job.steps, seed=job.seed,
        script=script_of(chosen, job.workers, retunes), evaluate=evaluate,
    )  # fmt: skip
    curve = [(one.step, one.held_out, 0.0) for one in rounds if one.held_out is not None]
    sent = max(sum(one.sent_bytes[slot] for one in rounds) for slot in rounds[0].slots)
    return Trial(
        system=strategy, job=job, held_out=curve[-1][1], curve=curve, tokens=sum(sum(one.tokens.values()) for one in rounds),
        sent_bytes_per_step=sent / job.steps, peak_round_bytes=max(max(one.sent_bytes.values()) for one in rounds),
        set=dict(chosen),
    )  # fmt: skip


def learn(data: Path, digest: str, job: Job, strategy: str, options: Mapping[str, Any]) -> Learnt:
    """How the job ends. `options`: with all defaults; `digest`: the data's."""
    try:
        trial = simulated_trial(data, job, strategy, options, evaluate=False)
    except (NotFinite, BadPayload):
        return Learnt(strategy, job, options, digest, None, None)
    held_out = trial.held_out if math.isfinite(trial.held_out) else None
    return Learnt(strategy, job, options, digest, held_out, trial.peak_round_bytes)
