"""A trial of learning alone: the members of a job in one process, merged as in production, without clock or network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.trials import Job, Trial
from trainers.options import strategy_options
from trainers.simulation import simulate
from trainers.workloads.byte_lm import ByteLM


def simulated_trial(data: Path, job: Job, strategy: str, options: Mapping[str, Any]) -> Trial:
    """As `trials.torg_trial`; bytes are the payloads' that were sent, and there are no seconds."""
    torch.set_num_threads(1)
    chosen = strategy_options({"name": strategy, "inner_steps": job.inner_steps, **options})
    rounds = simulate(
        lambda: ByteLM(job.options(), data, job.seed), chosen, steps=job.steps, seed=job.seed,
        workers=job.workers, evaluate=True,
    )  # fmt: skip
    curve = [(one.step, one.held_out, 0.0) for one in rounds if one.held_out is not None]
    sent = max(sum(one.sent_bytes[slot] for one in rounds) for slot in rounds[0].slots)
    return Trial(
        system=strategy, job=job, held_out=curve[-1][1], curve=curve, tokens=sum(sum(one.tokens.values()) for one in rounds),
        sent_bytes_per_step=sent / job.steps, peak_round_bytes=max(max(one.sent_bytes.values()) for one in rounds),
        set=dict(chosen),
    )  # fmt: skip
