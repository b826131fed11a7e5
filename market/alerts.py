"""Half, four fifths and all of a job's budget: said once each, as events, by what is billed and what its leases have run up.

Raising the budget arms again whatever is then still ahead. A job that pauses because its escrow is too small for what comes
next has used it all, whatever a rounding leaves. The same of members' and teams' limits is in market/spending.py.
"""

from __future__ import annotations

from market.pricing import BUDGET_PERCENTS, budget_percent
from market.spending import tell_limits
from market.state import Job, State
from market.tuning import planned_rounds
from market.turn import Turn


def used_nanos(state: State, job: Job) -> int:
    """What is charged, and what the living leases have metered beyond that."""
    used = job.billed_nanos
    for lease in job.live:
        used += state.leases[lease].accrued_nanos
    return used


def forecast_nanos(state: State, job: Job) -> int | None:
    """What an open job comes to at its end, if its rounds to come cost what those so far did; None before the first one."""
    if not job.open or not job.rounds_committed or job.command is not None:
        return None
    return used_nanos(state, job) * max(planned_rounds(job), job.rounds_committed) // job.rounds_committed


def watch_budget(turn: Turn, job: Job, *, exhausted: bool = False) -> None:
    """Say what the job has reached of its budget, and its customer of its limits, and was not told yet. Most calls say nothing
    and cost a comparison."""
    tell_limits(turn, job)
    if job.alerted == BUDGET_PERCENTS[-1]:
        return
    used = used_nanos(turn.state, job)
    now = BUDGET_PERCENTS[-1] if exhausted else budget_percent(used, job.budget_nanos)
    for percent in BUDGET_PERCENTS:
        if job.alerted < percent <= now:
            fields = {"job": job.id, "percent": percent, "used_nanos": used, "budget_nanos": job.budget_nanos}
            turn.emit("budget_reached", fields)
