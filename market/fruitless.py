"""Machines that died in a row under a batch job's command, each soon after its start, with nothing to show for it. Pure.

By the books, so that a run that was replaced knows what its predecessor counted. Up to which number that is bad luck, says
`trainers.attempts.kills_machines`.
"""

from __future__ import annotations

from collections.abc import Sequence

from market.leases import Lease
from market.state import Job
from trainers.attempts import DEATHS, SOON_MS


def deaths_in_a_row(job: Job, leases: Sequence[Lease]) -> list[Lease]:
    """The newest such leases of all the job's, oldest first. One that ended otherwise does not count and breaks no row,
    unless the command saved something there, or ended by itself.
    """
    fruitful = {attempt["lease"] for attempt in job.attempts} | (
        {job.saved["lease"]} if job.saved is not None else set()
    )
    found: list[Lease] = []
    for lease in sorted(
        (one for one in leases if not one.live), key=lambda one: (one.ended_ms or 0, one.epoch), reverse=True
    ):
        if lease.id in fruitful:
            break
        if lease.reason not in DEATHS or lease.started_ms is None:
            continue
        assert lease.ended_ms is not None
        if lease.ended_ms - lease.started_ms >= SOON_MS:
            break
        found.append(lease)
    return found[::-1]
