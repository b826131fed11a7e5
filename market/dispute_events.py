"""Disputes as the state holds them, and the events that change them; called by market/reducer.py alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from market.events import Event

if TYPE_CHECKING:
    from market.state import State

CHARGES, METER = "charges", "meter"


@dataclass(slots=True)
class Dispute:
    """`about`: `charges`, to which the customer objects, or the `meter`, on which worker and run do not agree. Of
    `amount_nanos` the fee is `fee_nanos`, and `held_nanos` is what is kept of it: in the provider's earnings, or in the escrow.
    `state`: open, upheld, rejected or expired; upheld means that the customer does not pay `decided_nanos`,
    of which `granted_nanos` went back to granted credits."""

    id: str
    job: str
    lease: str
    customer: str
    provider: str
    by: str
    about: str
    reason: str
    evidence: dict[str, Any]
    amount_nanos: int
    fee_nanos: int
    held_nanos: int
    opened_ms: int
    until_ms: int
    state: str = "open"
    decided_nanos: int = 0
    decided_by: str = ""
    decision: str = ""
    closed_ms: int | None = None
    granted_nanos: int = 0


def _dispute_opened(state: State, event: Event, at_ms: int) -> None:
    lease = state.leases[event["lease"]]
    dispute = Dispute(
        id=event["dispute"], job=event["job"], lease=lease.id, customer=lease.customer, provider=lease.provider,
        by=event["by"], about=event["about"], reason=event["reason"], evidence=event["evidence"],
        amount_nanos=event["amount_nanos"], fee_nanos=event["fee_nanos"], held_nanos=event["held_nanos"], opened_ms=at_ms,
        until_ms=event["until_ms"],
    )  # fmt: skip
    state.disputes[dispute.id] = dispute
    state.open_disputes[dispute.id] = None
    job = state.jobs[dispute.job]
    job.disputes.append(dispute.id)
    job.version += 1
    _hold(state, dispute, dispute.held_nanos)


def _dispute_closed(state: State, event: Event, at_ms: int) -> None:
    dispute = state.disputes[event["dispute"]]
    del state.open_disputes[dispute.id]
    _hold(state, dispute, -dispute.held_nanos)
    dispute.state, dispute.decided_nanos, dispute.closed_ms = event["state"], event["amount_nanos"], at_ms
    dispute.decided_by, dispute.decision = event["by"], event["reason"]
    state.jobs[dispute.job].version += 1


def _hold(state: State, dispute: Dispute, nanos: int) -> None:
    if dispute.about == METER:
        state.leases[dispute.lease].held_nanos += nanos
    else:
        state.held_earnings[dispute.provider] = state.held_earnings.get(dispute.provider, 0) + nanos


DISPUTE_HANDLERS: Final[Mapping[str, Callable[[State, Event, int], Any]]] = {
    "dispute_opened": _dispute_opened,
    "dispute_closed": _dispute_closed,
}
