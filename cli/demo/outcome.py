"""What the demo measured, and whether it showed what it promises."""

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from cli.live import RunView


@dataclass(slots=True)
class Killing:
    """The SIGKILL in the middle. Times are milliseconds since the epoch, on one machine."""

    provider: str
    lease: str
    at_ms: int
    after_round: int
    pids: list[int]
    next_round_ms: int | None = None
    newcomer: str | None = None
    newcomer_lease: str | None = None
    newcomer_round_ms: int | None = None
    noticed: bool = False

    def hear(self, record: dict[str, Any]) -> list[str]:
        """Take in what happened after the kill; lines worth telling."""
        event, at_ms = record["event"], int(record["at_ms"])
        if event["type"] == "lease_ended" and event["lease"] == self.lease and event["fault"] == "provider":
            self.noticed = True
        elif event["type"] == "lease_granted" and self.newcomer_lease is None:
            self.newcomer, self.newcomer_lease = event["provider"], event["lease"]
        elif event["type"] == "round_committed" and event["round"] > self.after_round:
            return self._committed(event, at_ms)
        return []

    def _committed(self, event: dict[str, Any], at_ms: int) -> list[str]:
        told = []
        leases = {member["lease"] for member in event["members"]}
        if self.next_round_ms is None and self.lease not in leases:
            self.next_round_ms = at_ms
            told.append(
                f"round {event['round']} committed without {self.provider}, {self.recovery_s:.1f} s after the kill"
            )
        if self.newcomer_round_ms is None and self.newcomer_lease in leases:
            self.newcomer_round_ms = at_ms
            told.append(f"{self.newcomer} trains along, {self.replacement_s:.1f} s after the kill")
        return told

    @property
    def recovery_s(self) -> float | None:
        """From the kill to the next committed round."""
        return None if self.next_round_ms is None else (self.next_round_ms - self.at_ms) / 1000

    @property
    def replacement_s(self) -> float | None:
        """From the kill to the first round with the newcomer's own contribution."""
        return None if self.newcomer_round_ms is None else (self.newcomer_round_ms - self.at_ms) / 1000


@dataclass(slots=True)
class WarmStarts:
    """From a lease's grant to its worker's first inner step; the step's time is a reading's, less what it trained."""

    granted_ms: dict[str, int] = field(default_factory=dict)
    waited_s: dict[str, float] = field(default_factory=dict)

    def hear(self, record: dict[str, Any]) -> None:
        """Take in one event of the job."""
        event, at_ms = record["event"], int(record["at_ms"])
        if event["type"] == "lease_granted":
            self.granted_ms[event["lease"]] = at_ms
        elif event["type"] == "lease_metered" and event["trained_ms"] > 0 and event["lease"] not in self.waited_s:
            self.waited_s[event["lease"]] = (at_ms - event["trained_ms"] - self.granted_ms[event["lease"]]) / 1000

    @property
    def median_s(self) -> float | None:
        """Over the leases of this job."""
        return round(median(self.waited_s.values()), 3) if self.waited_s else None


@dataclass(slots=True)
class Outcome:
    """The document of `torg demo --json`."""

    loss_first: float | None = None
    loss_last: float | None = None
    rounds: int = 0
    workers_killed: int = 0
    recovery_seconds: float | None = None
    replacement_seconds: float | None = None
    billed_nanos: int = 0
    refunded_nanos: int = 0
    provider_earnings_nanos: int = 0
    fee_nanos: int = 0
    escrow_left_nanos: int = 0
    books_balanced: bool = False
    provenance_verified: bool = False
    invoice_verified: bool = False
    checkpoint_stall_fraction: float | None = None
    lease_to_training_seconds: float | None = None
    round_seconds: float | None = None
    startup_seconds: float | None = None
    seconds: float | None = None
    state: str = "none"
    failures: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    def judge(self, view: RunView, killing: Killing | None) -> None:
        """Write down everything that did not go as promised."""
        failures = self.failures
        if view.state != "done":
            failures.append(f"the job ended as {view.state}: {view.reason}")
        if self.loss_first is None or self.loss_last is None or not self.loss_last < self.loss_first:
            failures.append(f"the held-out loss did not fall: {self.loss_first} → {self.loss_last}")
        if killing is None:
            failures.append("nobody was killed")
        else:
            if not killing.noticed:
                failures.append("the market did not see the killed lease end by its provider's fault")
            if killing.recovery_s is None:
                failures.append("no round was committed without the killed worker")
            if killing.replacement_s is None:
                failures.append("nobody took the killed worker's place")
        if not self.books_balanced:
            failures.append("the books do not balance")
        if self.billed_nanos != self.provider_earnings_nanos + self.fee_nanos:
            failures.append("billed is not earnings and fee")
        if self.escrow_left_nanos:
            failures.append("money was left in escrow")
        if not self.provenance_verified:
            failures.append("the provenance bundle does not verify")
        if not self.invoice_verified:
            failures.append("the invoice with its proof does not verify")
