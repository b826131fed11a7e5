"""What became of each job and machine under one way of clearing; filled while it runs, read by figures.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from market.events import Event
from market.faults import NOTICED
from market.outcomes import Json, Refusal
from market.simulation.steps import StepSum
from market.simulation.supply import Machine
from market.simulation.trace import TraceJob
from storage.units import MS_PER_HOUR, charge_nanos

BIN_MS = MS_PER_HOUR
DONE, GAVE_UP, REFUSED, UNFINISHED, FAILED = "done", "gave_up", "refused", "unfinished", "failed"
OUTBID = "outbid"
DRAINS = frozenset({"preempted", "drained", "withdrew"}) | NOTICED - {OUTBID}


@dataclass(slots=True)
class JobRecord:
    """`cost_nanos`: asks × time of all its leases, whoever bore it. `state` is empty while it is open. `lost` counts workers whose
    machine was gone, `outbid` those that a higher bid took, `drained` those that had to leave their machine; `redone_gpu_ms` is
    work that was lost with them, `restarting_gpu_ms` what beginning again took."""

    job: TraceJob
    started_ms: int | None = None
    ended_ms: int | None = None
    state: str = ""
    reason: str = ""
    leased_gpu_ms: int = 0
    within_gpu_ms: int = 0
    cost_nanos: int = 0
    paid_nanos: int = 0
    lost: int = 0
    outbid: int = 0
    drained: int = 0
    paid_gpu_ms: int = 0
    redone_gpu_ms: int = 0
    restarting_gpu_ms: int = 0

    @property
    def value_nanos(self) -> int:
        """What its work is worth to its customer: the limit for each GPU-hour of it, once it is done."""
        return charge_nanos(self.job.limit_nanos, 1, self.job.gpu_ms) if self.state == DONE else 0

    @property
    def wait_ms(self) -> int | None:
        """Until its first worker; None if it never had one."""
        return None if self.started_ms is None else self.started_ms - self.job.submitted_ms


@dataclass(slots=True)
class Record:
    """One run of a trace. `window_ms`: when the last job came, up to which `within_gpu_ms` is counted; `outlooks`: what
    plans said of some jobs at their submission."""

    name: str
    window_ms: int
    jobs: dict[str, JobRecord] = field(default_factory=dict)
    used: StepSum = field(default_factory=lambda: StepSum(BIN_MS))
    supply: StepSum = field(default_factory=lambda: StepSum(BIN_MS))
    waiting: StepSum = field(default_factory=lambda: StepSum(BIN_MS))
    price_sum: dict[int, int] = field(default_factory=dict)
    price_gpus: dict[int, int] = field(default_factory=dict)
    revenue_nanos: dict[str, int] = field(default_factory=dict)
    leased_gpu_ms: dict[str, int] = field(default_factory=dict)
    outlooks: dict[str, Json] = field(default_factory=dict)
    fee_nanos: int = 0
    clearings: int = 0
    commands: int = 0
    end_ms: int = 0

    def submitted(self, job: TraceJob) -> JobRecord:
        """A job has come."""
        record = self.jobs[job.id] = JobRecord(job)
        return record

    def told(self, job: TraceJob, plan: Json | Refusal) -> None:
        """Its customer has looked at its plan."""
        if not isinstance(plan, Refusal):
            self.outlooks[job.id] = plan["outlook"]

    def granted(self, at_ms: int, ask_nanos: int, price_nanos: int, gpus: int) -> None:
        """Units were let at a price, which is their ask or above."""
        assert price_nanos >= ask_nanos
        place = at_ms // BIN_MS
        self.price_sum[place] = self.price_sum.get(place, 0) + price_nanos * gpus
        self.price_gpus[place] = self.price_gpus.get(place, 0) + gpus
        self.used.change(at_ms, gpus)

    def returned(self, record: JobRecord, machine: Machine, begin_ms: int, end_ms: int, gpus: int) -> None:
        """Units that were let are free again."""
        gpu_ms = gpus * (end_ms - begin_ms)
        record.leased_gpu_ms += gpu_ms
        record.within_gpu_ms += gpus * max(0, min(end_ms, self.window_ms) - begin_ms)
        record.cost_nanos += charge_nanos(machine.ask_nanos, gpus, end_ms - begin_ms)
        self.leased_gpu_ms[machine.provider] = self.leased_gpu_ms.get(machine.provider, 0) + gpu_ms
        self.used.change(end_ms, -gpus)

    def ended(self, record: JobRecord, at_ms: int, state: str, reason: str = "") -> None:
        """A job is over."""
        record.ended_ms, record.state, record.reason = at_ms, state, reason
        self.waiting.add(record.job.submitted_ms, at_ms if record.started_ms is None else record.started_ms, record.job.gpus_min)
        if state in (DONE, GAVE_UP):
            self.end_ms = max(self.end_ms, at_ms)

    def lease_ended(self, event: Event) -> None:
        """A lease is over: whether it was lost, and by what."""
        record, reason = self.jobs[event["job"]], event["reason"]
        record.outbid += reason == OUTBID
        record.drained += reason in DRAINS
        record.lost += event["fault"] == "provider" and reason not in DRAINS

    def charged(self, event: Event) -> None:
        """A customer has paid for a lease."""
        record = self.jobs[event["job"]]
        record.paid_nanos += event["amount_nanos"]
        record.paid_gpu_ms += event["to_ms"] - event["from_ms"]
        self.fee_nanos += event["fee_nanos"]

    def transferred(self, event: Event) -> None:
        """Money has moved: what a provider earned is counted."""
        if event["kind"] == "charge":
            provider = event["credit"].partition(":")[2]
            self.revenue_nanos[provider] = self.revenue_nanos.get(provider, 0) + event["amount_nanos"]

    def welfare_nanos(self) -> int:
        """What was made of the machines: the value of the jobs that were done, less the asks for all time that was let."""
        return sum(record.value_nanos - record.cost_nanos for record in self.jobs.values())


def pieces(machines: Sequence[Machine]) -> dict[str, Machine]:
    """By id."""
    return {machine.id: machine for machine in machines}
