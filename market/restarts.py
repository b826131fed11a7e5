"""What it costs a job to lose a lease that it could have kept, as far as it was measured.

Of a job that trains: how long a lease takes from its grant to its first committed round (the middle of what this job has
shown, else of what the same work has; `PRIOR_MS` where nothing has), and the round in progress where the notice is shorter than
a round. Of a command: from the grant to the start of its worker (the prior where it never started one), and all since its
last save. Each at the lease's limit: what the time is worth to its customer, at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from market.experience import work_of
from market.leases import Lease
from market.state import Job, State
from storage.units import MS_PER_HOUR

PRIOR_MS: Final = 30_000
KEPT: Final = 16


def note_joined(state: State, job: Job, lease: Lease, at_ms: int) -> None:
    """A lease is a member of its first committed round: called by the reducer alone."""
    took_ms = at_ms - lease.granted_ms
    job.joined_ms = [*job.joined_ms, took_ms][-KEPT:]
    state.experience.note_joined(work_of(job.spec, job.customer), took_ms)


def restart_ms(state: State, job: Job) -> int:
    """How long a new lease of the job takes until it works."""
    if job.command is not None:
        started = [lease.started_ms - lease.granted_ms for lease in state.leases_of(job) if lease.started_ms is not None]
        return _middle(started[-KEPT:]) or PRIOR_MS
    own = job.joined_ms or state.experience.joined_ms.get(work_of(job.spec, job.customer), [])
    return _middle(own) or PRIOR_MS


def lost_ms(job: Job, lease: Lease, notice_ms: int, now_ms: int) -> int:
    """How much work goes with the lease although it has notice."""
    if lease.started_ms is None:
        return 0
    if job.command is None:
        return 0 if job.last_round_ms <= notice_ms else job.last_round_ms
    saved = job.saved
    since_ms = lease.started_ms if saved is None or saved["lease"] != lease.id else max(lease.started_ms, saved["at_ms"])
    return now_ms - since_ms


def loss_nanos(limit_nanos_per_gpu_hour: int, gpus: int, ms: int) -> int:
    """What that time is worth at the limit, rounded up."""
    return -(-limit_nanos_per_gpu_hour * gpus * ms // MS_PER_HOUR)


def _middle(found: Sequence[int]) -> int:
    return sorted(found)[len(found) // 2] if found else 0
