"""Commands about what somebody does not agree with (market/disputes.py)."""

from __future__ import annotations

from storage.values import value


@value
class OpenDispute:
    """A customer objects to what one of its leases was charged. `amount_nanos` None: all of it. Told again: answered."""

    id: str
    job: str
    lease: str
    amount_nanos: int | None
    reason: str
    evidence: str
    by: str


@value
class DecideDispute:
    """An operator decides: `upheld` for the customer (None: of all of it), or `rejected`."""

    dispute: str
    verdict: str
    amount_nanos: int | None
    reason: str
    by: str


DisputeCommand = OpenDispute | DecideDispute
