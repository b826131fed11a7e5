"""Why a job has more or fewer workers than before: one line for each lease that came or went. Pure, for `torg explain`."""

from __future__ import annotations

from typing import Final

from market.elastic import growth_limit, is_interruptible
from market.faults import BY_REASON
from market.leases import Lease
from market.outcomes import Json
from market.state import Job, State
from storage.units import format_usd

MOST_SHOWN: Final = 20


def changes_view(state: State, job: Job) -> list[Json]:
    """The newest changes, oldest first: {at_ms, workers, change (grew, shrank), lease, reason, why}. Nothing of who bid more."""
    leases = state.leases_of(job)
    happened = [(lease.granted_ms, 0, lease) for lease in leases]
    happened += [(lease.ended_ms, 1, lease) for lease in leases if lease.ended_ms is not None]
    found: list[Json] = []
    workers = 0
    for at_ms, gone, lease in sorted(happened, key=lambda one: (one[0], one[1], one[2].epoch)):
        workers += -1 if gone else 1
        change, reason = ("shrank", lease.reason) if gone else ("grew", "matched")
        why = _gone(lease) if gone else _came(job, lease, workers)
        found.append({"at_ms": at_ms, "workers": workers, "change": change, "lease": lease.id, "reason": reason, "why": why})
    return found[-MOST_SHOWN:]


def _came(job: Job, lease: Lease, workers: int) -> str:
    gang, paid = int(job.spec["workers"]["min"]), format_usd(lease.price_nanos_per_gpu_hour)
    if workers <= gang:
        kind = "interruptible, " if is_interruptible(job.spec) else ""
        return f"{kind}part of its gang of {gang}, at {paid} USD per GPU-hour"
    return f"growth: free at {paid} USD per GPU-hour, and it takes more below {format_usd(growth_limit(job.spec))}"


def _gone(lease: Lease) -> str:
    cause = BY_REASON.get(lease.reason or "")
    event = (lease.reason or "") if cause is None else cause.event
    return f"{event}: {lease.detail}" if lease.detail else event


def promise_told(state: State, job: Job, now_ms: int) -> str:
    """What a job waits for that has outbid others."""
    assert job.promise is not None
    going = [state.leases[victim["lease"]] for victim in job.promise["victims"]]
    left = [lease for lease in going if lease.live]
    last_ms = max((lease.ending["ends_ms"] for lease in left if lease.ending is not None), default=now_ms)
    seconds = -(-max(0, last_ms - now_ms) // 1000)
    return f"it has outbid {len(going)} interruptible leases; {len(left)} of them leave within {seconds} s"
