"""What callers were told: each acknowledged command as a fact that the auditor must find in the journal, exactly once."""

from dataclasses import dataclass, field

from market.book_commands import BookTransfers
from market.commands import (
    AddBudget,
    CancelJob,
    Command,
    Deposit,
    EndLease,
    GrantCredit,
    HaltJob,
    Payout,
    PlaceOffer,
    ReportAttempt,
    ReportCheckpoint,
    ReportRound,
    StartLease,
    SubmitJob,
)
from market.dispute_commands import OpenDispute
from market.outcomes import Outcome, Refusal
from tests.storms.auditor import Auditor

CLOCKS_DIFFER_MS, CLOCKS_DIFFER_PART = 1_000, 500
"""What a worker may be ahead of its run (docs/FAULTS.md)."""
Fact = tuple[object, ...]
ONCE = ("deposit", "payout", "dispute", "grant", "job", "hold", "attempt", "durable")
"""Facts that may be true once at most; a round may be run again, and an offer be placed again."""


def fact_of(command: Command) -> Fact | None:
    """What must stand in the journal if the command was answered as done."""
    if isinstance(command, Deposit):
        return ("deposit", command.id, command.amount_nanos)
    if isinstance(command, Payout):
        return ("payout", command.id, command.amount_nanos)
    if isinstance(command, OpenDispute):
        return ("dispute", command.id)
    if isinstance(command, GrantCredit):
        return ("grant", command.id, command.amount_nanos)
    if isinstance(command, SubmitJob):
        return ("job", command.id, command.by, command.spec["limits"]["budget_nanos"])
    if isinstance(command, AddBudget):
        return ("hold", f"budget:{command.job}:{command.id}")
    if isinstance(command, CancelJob):
        return ("state", command.job, "cancelled")
    if isinstance(command, PlaceOffer):
        return ("offer", command.id)
    if isinstance(command, StartLease):
        return ("started", command.lease, command.epoch)
    if isinstance(command, EndLease):
        return ("ended", command.lease, command.epoch)
    return None


def fact_of_report(command: Command, state: str) -> Fact | None:
    """The same for what a run reports: only what was taken, so only of a first answer, by a job in this state."""
    if isinstance(command, ReportRound):
        return ("round", command.job, command.round, command.digest)
    if isinstance(command, ReportCheckpoint):
        return ("durable", command.job, command.round)
    if isinstance(command, ReportAttempt):
        return ("attempt", command.job, command.number)
    if isinstance(command, HaltJob) and state != "pending":
        return ("state", command.job, state)
    return None


@dataclass(slots=True)
class Promises:
    """`kept` are facts with the record that was the last one when they were promised."""

    kept: dict[Fact, int] = field(default_factory=dict)
    refused: dict[Fact, int] = field(default_factory=dict)
    heard_of: int = 0
    seen_ms: dict[str, int] = field(default_factory=dict)
    """Of each lease the most that its run, which is honest here, ever saw: nothing beyond it may be billed."""

    def saw(self, lease: str, ms: int) -> None:
        """A run is about to report this much."""
        self.seen_ms[lease] = max(ms, self.seen_ms.get(lease, 0))

    def answered(self, command: Command, outcome: Outcome, records: int) -> None:
        """The answer is about to leave the exchange."""
        if isinstance(command, BookTransfers):
            self._answered_batch(command, outcome, records)
            return
        fact = fact_of(command)
        if isinstance(outcome.answer, Refusal):
            if fact is not None and fact[0] in ONCE and outcome.answer.code != "conflict":
                self.refused[fact] = records
            return
        if isinstance(command, StartLease) and outcome.answer["state"] == "ended":
            return
        if fact is None and outcome.created:
            fact = fact_of_report(command, outcome.answer.get("state", ""))
        if fact is not None:
            self.kept.setdefault(fact, records)

    def _answered_batch(self, command: BookTransfers, outcome: Outcome, records: int) -> None:
        if isinstance(outcome.answer, Refusal):
            return
        told = zip(command.kinds, command.ids, command.amounts_nanos, outcome.answer["statuses"], strict=True)
        for kind, id, nanos, status in told:
            known = self.kept if status in ("created", "exists") else self.refused
            known.setdefault((kind, id, nanos), records)

    def heard(self, command: Command, outcome: Outcome) -> None:
        """The answer has come to its caller."""
        self.heard_of += not isinstance(outcome.answer, Refusal)

    def broken(self, auditor: Auditor) -> list[str]:
        """What was promised and is not so, in sentences."""
        found: list[str] = []
        for fact, record in self.kept.items():
            words = " ".join(map(str, fact))
            times, first = auditor.facts[fact], auditor.first_at.get(fact, 0)
            if not times:
                found.append(f"acknowledged and not in the journal: {words}")
            elif first > record:
                found.append(f"acknowledged at record {record} and written only at {first}: {words}")
        for fact, times in auditor.facts.items():
            if times > 1 and fact[0] in ONCE and fact[0] != "hold":
                found.append(f"done {times} times: {' '.join(map(str, fact))}")
        for fact, record in self.refused.items():
            first = auditor.first_at.get(fact)
            if first is not None and first <= record:
                found.append(f"refused at record {record}, and done at {first}: {' '.join(map(str, fact))}")
        for lease in auditor.leases.values():
            seen_ms = self.seen_ms.get(lease.id, 0)
            if lease.metered_ms > seen_ms + CLOCKS_DIFFER_MS + seen_ms // CLOCKS_DIFFER_PART:
                found.append(f"{lease.id} is metered to {lease.metered_ms} ms, and its run saw {seen_ms}")
        return found
