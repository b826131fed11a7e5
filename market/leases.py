"""A lease: granted → active → ended, and what is owed for it.

    granted --(provider: worker holds it)--> active
    granted, active --(cause of market/faults.py)--> ended

Meters are cumulative milliseconds since the worker took the lease. `committed` holds (round, leased_ms) of committed
rounds that are not yet paid; a checkpoint that becomes durable turns them into a charge. `took_part` holds every round
that the lease was ever a committed member of, so that one which is run again counts once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from storage.units import charge_nanos


class LeaseState(StrEnum):
    GRANTED = "granted"
    ACTIVE = "active"
    ENDED = "ended"


_ENDED: Final = LeaseState.ENDED  # a member of an enum is looked up through its class each time
TRANSITIONS: Final = (
    (LeaseState.GRANTED, LeaseState.ACTIVE),
    (LeaseState.GRANTED, LeaseState.ENDED),
    (LeaseState.ACTIVE, LeaseState.ENDED),
)
"""A tuple, since a member of an enum is compared by what it is and hashed by a call of Python."""


@dataclass(slots=True)
class Lease:
    """`slot` is the worker's number for data, never used twice in a job; `epoch` is unique in the market; `ending` is the
    notice that it has, if it has: {reason, notice_ms, ends_ms}."""

    id: str
    epoch: int
    slot: int
    job: str
    customer: str
    offer: str
    provider: str
    gpu: str
    gpus: int
    price_nanos_per_gpu_hour: int
    granted_ms: int
    replaces: str | None = None
    state: LeaseState = LeaseState.GRANTED
    worker: str | None = None
    pid: int | None = None
    node: str | None = None
    started_ms: int | None = None
    metered_ms: int = 0
    claimed_ms: int = 0
    """What its worker says where that is more than what its run saw: the rest is in question (market/metering.py)."""
    meter_key: str = ""
    held_nanos: int = 0
    """What the escrow keeps of it for an open dispute (market/disputes.py)."""
    signed: dict[str, Any] | None = None
    """The newest signed reading that is in the record."""
    trained_ms: int = 0
    rounds: int = 0
    tokens: int = 0
    bytes: int = 0
    committed: list[tuple[int, int]] = field(default_factory=list)
    took_part: set[int] = field(default_factory=set)
    charged_ms: int = 0
    charged_nanos: int = 0
    fee_nanos: int = 0
    ending: dict[str, Any] | None = None
    saved_ms: int = 0
    """The meter when its command last saved."""
    ended_ms: int | None = None
    reason: str | None = None
    fault: str | None = None
    detail: str = ""
    longest_until_ms: int | None = None
    """When it is over by the longest time that its offer let for when it was granted."""
    window_ms: int | None = None
    """When the maintenance window begins that its offer had announced when it was granted, later where that was put off since;
    None: none was, or it was taken back."""
    team: str | None = None
    """Whose usage it is, the customer's team when it was granted; None: granted when there were no teams."""

    @property
    def live(self) -> bool:
        return self.state is not _ENDED

    @property
    def questioned_ms(self) -> int:
        """What its worker says beyond what both sides agree on."""
        return max(0, self.claimed_ms - self.metered_ms)

    @property
    def questioned_nanos(self) -> int:
        return self.nanos_at(self.metered_ms + self.questioned_ms) - self.nanos_at(self.metered_ms)

    @property
    def accrued_nanos(self) -> int:
        """Metered and not yet charged."""
        return self.nanos_at(self.metered_ms) - self.charged_nanos

    @property
    def own(self) -> bool:
        """Whether its customer owns the machine: only such a lease has no price."""
        return self.price_nanos_per_gpu_hour == 0

    def unit_ms_since(self, begin_ms: int, now_ms: int) -> int:
        """For how long it has had its units since then (units times milliseconds), trained or not."""
        return self.gpus * max(0, now_ms - max(self.granted_ms, begin_ms))

    @property
    def rate_nanos_per_hour(self) -> int:
        return self.price_nanos_per_gpu_hour * self.gpus

    def nanos_at(self, leased_ms: int) -> int:
        """What `leased_ms` of this lease cost in all."""
        return charge_nanos(self.price_nanos_per_gpu_hour, self.gpus, leased_ms)

    def owed_ms(self, durable_round: int) -> int:
        """The meter at the newest committed round that is durable, never less than what is charged."""
        return max([self.charged_ms, *(ms for number, ms in self.committed if number <= durable_round)])

    def payable_ms(self, budget_nanos: int) -> int:
        """The highest meter that `budget_nanos` still pays from what is charged."""
        if self.rate_nanos_per_hour == 0:
            return 2**62
        return ((self.charged_nanos + budget_nanos + 1) * 3_600_000 - 1) // self.rate_nanos_per_hour

    def move(self, state: LeaseState) -> None:
        """Change state; a transition that is not in the table is a bug."""
        assert (self.state, state) in TRANSITIONS, f"{self.id}: {self.state} -> {state}"
        self.state = state
