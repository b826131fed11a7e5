"""How long a job needs a machine to be there, as far as lease times and maintenance windows go. Pure.

A job that may be moved (it is interruptible, or says `workers.movable`) takes any machine and goes on elsewhere from its last round
or save; any other one takes only machines that are for rent until it is expected to be done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from market.elastic import is_interruptible
from market.state import Job, State

TIMED_OUT: Final = frozenset({"max_lease", "maintenance", "maintenance_unannounced"})
"""Reasons of leases that an offer's lease times or windows have ended."""


def is_movable(spec: Mapping[str, Any]) -> bool:
    """Whether the job takes machines that it is expected to outlast."""
    return is_interruptible(spec) or bool(spec["workers"].get("movable", False))


def lasts_ms(spec: Mapping[str, Any], expected_ms: int, *, flexible: bool = False) -> int:
    """For how long it needs a machine: what it asks for, and what it is expected to take unless it, or this wish of it, may be
    moved."""
    asked_ms: int = spec["workers"].get("available_ms", 0)
    return asked_ms if flexible or is_movable(spec) else max(asked_ms, expected_ms)


def outlived_ms(state: State, job: Job) -> int:
    """More than what a command has had of leases that were ended for their time before it had saved anything: it has shown that
    it takes longer, and would lose as much again. 0 of others."""
    if job.command is None or not job.leases:
        return 0
    ended = [lease for lease in state.leases_of(job) if lease.reason in TIMED_OUT and not lease.saved_ms]
    return max((1 + (lease.ended_ms or 0) - lease.granted_ms for lease in ended), default=0)
