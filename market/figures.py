"""Figures of the market of now, for its operator: counts by state, what waits and why, what is not durable yet.

No member's name and no id is in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from market.leases import LeaseState
from market.order_making import is_suspect
from market.pricing import BUDGET_PERCENTS
from market.spending import limits_reached
from market.state import OFFER_STATES, State, Volatile

JOB_STATES: Final = ("pending", "running", "paused", "done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Figures:
    """By state: all states, zeros too. `undurable_rounds` is the most that a running job would lose with all its machines;
    `silent_ms` the longest that an open offer has not been heard of."""

    offers: dict[str, int]
    jobs: dict[str, int]
    leases: dict[str, int]
    unmatched: dict[str, int]
    rounds: int
    undurable_rounds: int
    silent_ms: int
    suspect: int
    doubted: int
    balance_sum_nanos: int
    budgets_reached: dict[str, int]
    limits_reached: dict[str, int]


def figures(state: State, volatile: Volatile, now_ms: int) -> Figures:
    """Everything counted anew, in one pass over what there is."""
    live = [offer for offer in state.offers.values() if offer.state == "open"]
    heard = [volatile.heard_ms.get(offer.id, volatile.awake_ms or now_ms) for offer in live]
    running = list(state.running())
    waiting = [job for job in state.jobs.values() if job.state == "pending" and job.unmatched is not None]
    return Figures(
        offers=_count(OFFER_STATES, (offer.state for offer in state.offers.values())),
        jobs=_count(JOB_STATES, (job.state for job in state.jobs.values())),
        leases=_count(
            (str(LeaseState.GRANTED), str(LeaseState.ACTIVE)),
            (str(state.leases[name].state) for name in state.live_leases),
        ),
        unmatched=_count((), (str(job.unmatched["reason"]) for job in waiting if job.unmatched is not None)),
        rounds=sum(job.rounds_committed for job in state.jobs.values()),
        undurable_rounds=max((job.rounds_committed - job.durable_round for job in running), default=0),
        silent_ms=max((max(0, now_ms - at_ms) for at_ms in heard), default=0),
        suspect=sum(is_suspect(offer, volatile) for offer in live),
        doubted=sum(bool(offer.doubt) for offer in live),
        balance_sum_nanos=sum(state.ledger.balances().values()),
        budgets_reached=_count(
            (str(percent) for percent in BUDGET_PERCENTS),
            (str(job.alerted) for job in map(state.jobs.__getitem__, state.open_jobs) if job.alerted),
        ),
        limits_reached=_count(
            (str(percent) for percent in BUDGET_PERCENTS),
            (str(percent) for percent in limits_reached(state, now_ms) if percent),
        ),
    )


def _count(known: Iterable[str], found: Iterable[str]) -> dict[str, int]:
    counts = dict.fromkeys(known, 0)
    for one in found:
        counts[one] = counts.get(one, 0) + 1
    return counts
