"""What a machine's leases delivered against what the same work took elsewhere on the same model. Pure, in whole numbers.

A measurement is a provider's word; that a step of a customer's job took as long as on other machines of the model is not. When
a training job is done, each worker's milliseconds a step are held against the median of the others of its model in that job
and of earlier jobs of the same work (market/experience.py). It is also kept how fast it exchanged with its peers, at least.
A customer could slow its own code down on one machine, so this is shown and excludes nobody: the market measures sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from market.experience import Run
from market.leases import Lease
from market.outcomes import Json
from market.state import Job

LEAST_STEPS: Final = 20
LEAST_OTHERS: Final = 2
LOW_PERCENT: Final = 50


def paces(job: Job, leases: Sequence[Lease], runs: Sequence[Run]) -> dict[str, Json]:
    """By offer: {percent, others, exchange_kbytes_per_second, at_ms}. `percent`: of the pace of others, 100 when as fast, None
    where fewer than LEAST_OTHERS are known; `exchange_kbytes_per_second` None where nothing was exchanged, or all beside work.
    """
    if job.command is not None or job.tunings or job.ended_ms is None:
        return {}
    steps: dict[str, int] = {}
    trained_ms: dict[str, int] = {}
    best: dict[str, int] = {}
    for record in job.rounds.values():
        for member in record["members"]:
            lease, moved = member["lease"], member["sent_bytes"] + member["received_bytes"]
            steps[lease] = steps.get(lease, 0) + member["steps"]
            trained_ms[lease] = max(trained_ms.get(lease, 0), member["trained_ms"])
            if moved and member["stall_ms"] > 0:
                best[lease] = max(best.get(lease, 0), moved // member["stall_ms"])
    step_us = {
        lease.id: 1_000 * trained_ms[lease.id] // steps[lease.id] for lease in leases if steps.get(lease.id, 0) >= LEAST_STEPS
    }
    found: dict[str, Json] = {}
    for lease in leases:
        if lease.id not in steps:
            continue
        others = [step_us[one.id] for one in leases if one.id in step_us and one.provider != lease.provider and one.gpu == lease.gpu]
        others += [int(run.step_ms * 1_000) for run in runs if run.gpu == lease.gpu and run.job != job.id]
        own_us, percent = step_us.get(lease.id), None
        if own_us and len(others) >= LEAST_OTHERS:
            percent = 100 * sorted(others)[(len(others) - 1) // 2] // own_us
        found[lease.offer] = {
            "percent": percent,
            "others": len(others),
            "exchange_kbytes_per_second": best.get(lease.id),
            "at_ms": job.ended_ms,
        }
    return found
