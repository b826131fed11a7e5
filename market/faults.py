"""Who pays when something fails: one table, fixed beforehand.

A lease that ends by the provider's or the market's fault is never charged beyond its committed rounds (these are charged
when a checkpoint makes them durable, if it ever does). One that ends by the customer's doing is charged to its last
reading. What is metered and not charged is refunded: it never leaves the escrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    PROVIDER = "provider"
    CUSTOMER = "customer"
    MARKET = "market"
    NONE = "none"


class Charged(StrEnum):
    """Up to where a lease is charged when it ends."""

    LAST_READING = "to its last reading"
    DURABLE_ROUNDS = "its committed rounds, once they are durable"
    COMMITTED_WORK = "its committed rounds, once they are durable; a command, to its last save"


@dataclass(frozen=True, slots=True)
class Cause:
    """`event` is what happened; `aftermath` is what the market does next; `saved_counts`: the lease had notice and is
    nobody's fault, so that its committed work is paid, of a command what it had saved, and nothing else; `by_market`: the market
    gives notice of it, and nobody else may say it."""

    reason: str
    event: str
    fault: Fault
    aftermath: str
    saved_counts: bool = False
    by_market: bool = False

    @property
    def charged(self) -> Charged:
        if self.saved_counts:
            return Charged.COMMITTED_WORK
        return Charged.LAST_READING if self.fault in _CUSTOMERS_DOING else Charged.DURABLE_ROUNDS


_CUSTOMERS_DOING: Final = (Fault.CUSTOMER, Fault.NONE)

_REPLACED: Final = "the round commits without it; a replacement is looked for within the budget"
_FAILED: Final = "the job fails; the rest of the escrow goes back"
_SHRINKS: Final = "the job goes on with the others, or waits for capacity at its price, and goes on from what is durable"
_RESUMES: Final = "the job goes on from the newest round that a living worker or the disk holds"

CAUSES: Final[tuple[Cause, ...]] = (
    Cause("done", "the job has done its work", Fault.NONE, "the rest of the escrow goes back"),
    Cause("cancelled", "the customer cancelled", Fault.CUSTOMER, "the rest of the escrow goes back"),
    Cause("released", "the run needs the worker no longer", Fault.NONE, "the job goes on with the others"),
    Cause("escrow_exhausted", "the escrow ran out", Fault.CUSTOMER, "the job pauses; more budget resumes it"),
    Cause(
        "spending_limit",
        "a spending limit of the customer or its team is reached",
        Fault.CUSTOMER,
        "the job pauses; it goes on when the limit has room again",
    ),
    Cause("deadline", "the job's deadline has passed", Fault.CUSTOMER, _FAILED),
    Cause("exception", "the customer's code raised", Fault.CUSTOMER, _FAILED),
    Cause("nan", "the loss is not a number", Fault.CUSTOMER, _FAILED),
    Cause("hang", "the customer's code hangs on every worker", Fault.CUSTOMER, _FAILED),
    Cause("memory", "the customer's code takes more memory than its limit", Fault.CUSTOMER, _FAILED),
    Cause("shape", "the customer's model changed shape", Fault.CUSTOMER, _FAILED),
    Cause("import", "the customer's workload does not import", Fault.CUSTOMER, _FAILED),
    Cause("command_failed", "the customer's command failed, as often as the job says", Fault.CUSTOMER, _FAILED),
    Cause("requirements", "the customer's requirements cannot be installed from wheels", Fault.CUSTOMER, _FAILED),
    Cause(
        "kills_workers",
        "machines die in a row soon after the customer's command began, with nothing saved",
        Fault.CUSTOMER,
        _FAILED,
    ),
    Cause("diverged", "the workers no longer agree on the parameters", Fault.MARKET, _FAILED),
    Cause("checkpoint_lost", "no checkpoint of the job can be restored", Fault.MARKET, _FAILED),
    Cause("worker_killed", "the worker process died", Fault.PROVIDER, _REPLACED),
    Cause("worker_frozen", "the worker does not answer", Fault.PROVIDER, _REPLACED),
    Cause("worker_slow", "the worker misses its deadlines", Fault.PROVIDER, _REPLACED),
    Cause("worker_lost", "the worker is gone, nobody knows why", Fault.PROVIDER, _REPLACED),
    Cause("network_cut", "the provider cannot be reached", Fault.PROVIDER, _REPLACED),
    Cause("node_died", "the provider's machine is gone", Fault.PROVIDER, _REPLACED),
    Cause("stale", "the worker holds other parameters than its peers", Fault.PROVIDER, _REPLACED),
    Cause("bad_contribution", "the worker sent what its peers could not use, twice", Fault.PROVIDER, _REPLACED),
    Cause("failed_to_start", "the provider could not start the worker", Fault.PROVIDER, _REPLACED),
    Cause("start_timeout", "the worker was not started in time", Fault.PROVIDER, _REPLACED),
    Cause("offer_offline", "the provider stopped asking for its leases", Fault.PROVIDER, _REPLACED),
    Cause("preempted", "the provider took the machine back", Fault.PROVIDER, _REPLACED),
    Cause("drained", "the provider drained the offer", Fault.PROVIDER, _REPLACED),
    Cause("withdrew", "the provider withdrew the offer", Fault.PROVIDER, _REPLACED),
    Cause("outbid", "another bid more for what an interruptible lease had", Fault.NONE, _SHRINKS, saved_counts=True, by_market=True),
    Cause("max_lease", "it lasted as long as its offer lets", Fault.NONE, _SHRINKS, saved_counts=True, by_market=True),
    Cause("maintenance", "the offer's maintenance began, announced before the lease", Fault.NONE, _SHRINKS, saved_counts=True, by_market=True),
    Cause("maintenance_unannounced", "the offer's maintenance began, set after the lease was granted", Fault.PROVIDER, _REPLACED, by_market=True),
    Cause("run_died", "the RunActor died and no worker outlived it", Fault.MARKET, _RESUMES),
    Cause("head_lost", "the head node was away for longer than the workers could wait", Fault.MARKET, _RESUMES),
    Cause(
        "pause_timeout", "a pause was not confirmed in time", Fault.MARKET, "the job pauses at its last durable round"
    ),
    Cause("market_down", "the operator took the market down", Fault.MARKET, "the job pauses; `torg up` resumes it"),
)

BY_REASON: Final[Mapping[str, Cause]] = {cause.reason: cause for cause in CAUSES}
NOTICED: Final = frozenset(cause.reason for cause in CAUSES if cause.by_market)
"""Reasons for which the market itself gives a lease notice."""
_GONE: Final = frozenset({"worker_killed", "worker_frozen", "worker_lost", "network_cut", "node_died"})
CUSTOMER_FAILURES: Final = frozenset(
    {"exception", "nan", "hang", "memory", "shape", "import", "command_failed", "kills_workers"}
)


def cause_of_loss(reason: str) -> Cause:
    """The cause by which one worker is lost while its job goes on.

    Nobody can say this of a customer's doing: an unknown reason, or one of the customer's, counts as `worker_lost`.
    """
    cause = BY_REASON.get(reason)
    if cause is None or reason in NOTICED or (cause.fault in _CUSTOMERS_DOING and reason != "released"):
        return BY_REASON["worker_lost"]
    return cause


def cause_of_notice(ending: Mapping[str, object] | None, reason: str) -> Cause | None:
    """The cause by which the market gave this lease notice, where a report says that it ends by it, or that its worker is gone;
    else None. Whoever has notice goes, and its run may see that sooner than its provider says so.
    """
    if ending is None or ending["reason"] not in NOTICED or reason not in {ending["reason"], *_GONE}:
        return None
    return BY_REASON[str(ending["reason"])]


def cause_of_provider_end(reason: str, *, run_silent: bool) -> Cause:
    """The cause when a provider ends a lease itself: the provider's fault.

    Only of a run that the market itself has not heard for long (`run_silent`) may it say that the head is lost.
    """
    if reason == "head_lost" and run_silent:
        return BY_REASON["head_lost"]
    cause = BY_REASON.get(reason)
    known = cause is not None and cause.fault is Fault.PROVIDER and reason not in NOTICED
    return cause if cause is not None and known else BY_REASON["worker_lost"]


def cause_of_halt(state: str, reason: str) -> Cause:
    """The cause that ends the leases of a run that has stopped as `done`, `paused`, `cancelled` or `failed`."""
    if state == "done":
        return BY_REASON["done"]
    cause = BY_REASON.get(reason)
    if state == "paused":
        return cause if cause is not None and reason in _PAUSES else BY_REASON["run_died"]
    if state == "cancelled":
        return BY_REASON["cancelled"]
    return cause if cause is not None and reason not in _NO_FAILURE | NOTICED else BY_REASON["run_died"]


_PAUSES: Final = frozenset({"escrow_exhausted", "spending_limit", "market_down"})
_NO_FAILURE: Final = frozenset({"done", "released", "cancelled", "escrow_exhausted", "spending_limit"})


def render_table() -> str:
    """The table as Markdown, for docs/FAULTS.md."""
    lines = ["| what happens | reason | whose fault | the lease is charged | then |", "|---|---|---|---|---|"]
    lines += [
        f"| {cause.event} | `{cause.reason}` | {cause.fault} | {cause.charged} | {cause.aftermath} |"
        for cause in CAUSES
    ]
    return "\n".join(lines) + "\n"
