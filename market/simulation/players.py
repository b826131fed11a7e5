"""The players, as state machines that send the commands of the real ones: customers, their runs, and what a run still has to do.

A job of one GPU is a batch job: a command, whose files are saved now and then. A gang trains: rounds, checkpoints. Nothing
here knows a clock or an exchange: each function says what its player sends at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from market.checking import MAX_STEPS
from market.command_checking import MAX_TIMEOUT_MS
from market.commands import (
    AddBudget,
    Command,
    HaltJob,
    LostWorker,
    Member,
    Reading,
    ReportAttempt,
    ReportCheckpoint,
    ReportReadings,
    ReportRound,
    ReportSave,
    StartLease,
    SubmitJob,
)
from market.simulation.trace import TraceJob
from market.simulation.waiting import Class
from market.speeds import ROUND_MS, START_MS
from market.worth import LEAST_MS
from storage.units import MS_PER_HOUR, MS_PER_MINUTE, charge_nanos

PLANE: Final = "plane"
SLACK_MS: Final = 10 * MS_PER_MINUTE
DIGEST: Final = sha256(b"simulated").hexdigest()
_RETRIES: Final = 100
_STRATEGY: Final = {"name": "diloco", "outer_momentum": 0.9, "codec": "int8"}
STEP_MS: Final = 1_000
"""An inner step of a gang on any machine, as its measured figures say."""
TRAIN_GFLOPS: Final = 4.608
"""What makes it so for one GPU: byte_lm 1M takes so many billion operations a step (market/speeds.py)."""
_OWN_STEP: Final = 1e-6
ROUND_STEPS: Final = 21_600
INTERRUPTIBLE_STEPS: Final = 3_600
_LARGEST_BUDGET: Final = 10_000_000 * 10**9


@dataclass(slots=True)
class Held:
    """A lease that the run holds."""

    id: str
    epoch: int
    slot: int
    offer: str
    provider: str
    price_nanos: int
    granted_ms: int


@dataclass(slots=True)
class Run:
    """A job from its submission to its end. `left_gpu_ms` is work still to do as of `since_ms`, `durable_gpu_ms` what would be
    left after losing everybody. `leaving` says of leases that have notice why. `version` makes plans of before void."""

    job: TraceJob
    order: int
    left_gpu_ms: int
    durable_gpu_ms: int
    budget_nanos: int
    held: dict[str, Held] = field(default_factory=dict)
    leaving: dict[str, str] = field(default_factory=dict)
    since_ms: int = 0
    version: int = 0
    waits_since_ms: int = 0
    rounds: int = 0
    added: int = 0
    spent_nanos: int = 0

    @property
    def gang(self) -> bool:
        return self.job.gpus_max > 1

    def advance(self, now_ms: int) -> None:
        """Work has gone on, as fast as there are workers, and cost what they ask."""
        passed = now_ms - self.since_ms
        self.since_ms = now_ms
        if passed > 0 and self.held:
            self.left_gpu_ms = max(0, self.left_gpu_ms - passed * len(self.held))
            self.spent_nanos += charge_nanos(self.rate_nanos(), 1, passed)

    def rate_nanos(self) -> int:
        """What it costs in an hour."""
        return sum(one.price_nanos for one in self.held.values())

    def done_ms(self) -> int:
        """When it is done, if nothing happens."""
        return self.since_ms + -(-self.left_gpu_ms // max(1, len(self.held)))


def kind_of(job: TraceJob) -> Class:
    """The class of requirements that the job is of."""
    return (job.models, job.regions, job.vram_gib)


def expected_ms(run: Run) -> int:
    """For how long the market expects it to hold its machines from now on, by market/worth.py."""
    job = run.job
    money = max(0, run.budget_nanos - run.spent_nanos) * MS_PER_HOUR // (job.limit_nanos * job.gpus_min)
    whole_ms = START_MS + _rounds(job) * ROUND_MS + _steps(job) * STEP_MS
    left = whole_ms * max(0, _rounds(job) - run.rounds) // _rounds(job) if run.gang else _timeout(job)
    return max(LEAST_MS, min(left, money))


def budget_of(job: TraceJob) -> int:
    """What the customer puts into escrow: its limit for as long as it thinks that the job runs, and ten minutes."""
    asked = charge_nanos(job.limit_nanos, job.gpus_max, job.estimate_ms + SLACK_MS)
    return min(max(1, asked), _LARGEST_BUDGET)


def submit(job: TraceJob, order: int, shared: dict[Any, Any]) -> SubmitJob:
    """The customer's first word; the `order`th job. `shared` keeps the parts that specs have in common.

    A gang's steps and rounds are those of its estimate, so that the market expects what its customer does. Its outer
    learning rate is its own, so that no gang's estimate is made of what another one took.
    """
    workers = shared.get(("workers", job.gpus_min, job.gpus_max, kind_of(job)))
    if workers is None:
        workers = shared["workers", job.gpus_min, job.gpus_max, kind_of(job)] = {
            "min": job.gpus_min, "max": job.gpus_max, "gpus": 1, "gpu": list(job.models), "vram_gib": job.vram_gib,
            "region": list(job.regions), "reliability": 0.0, "isolation": "process",
        }  # fmt: skip
    limits: dict[str, Any] = {"max_price_nanos_per_gpu_hour": job.limit_nanos, "budget_nanos": budget_of(job), "deadline_ms": None}
    if job.interruptible:
        limits["interruptible"] = True
    both = {"name": job.id, "data": _NO_DATA, "workers": workers, "limits": limits, "tags": _NO_TAGS}
    if job.gpus_max == 1:
        command: dict[str, Any] = {"argv": ["train", job.id], "env": {}, "workdir": None, "artifacts": [], "timeout_ms": _timeout(job), "retries": _RETRIES}
        return SubmitJob(job.id, {**both, "command": command}, job.tenant)
    strategy = {**_STRATEGY, "inner_steps": _round_steps(job), "outer_lr": round(0.5 + order % 1_000_000 * _OWN_STEP, 6)}
    return SubmitJob(job.id, {**both, **_TRAINING, "strategy": strategy, "steps": _steps(job), "rounds": _rounds(job)}, job.tenant)


def _steps(job: TraceJob) -> int:
    return min(MAX_STEPS, max(1, job.estimate_ms // STEP_MS))


def _round_steps(job: TraceJob) -> int:
    return INTERRUPTIBLE_STEPS if job.interruptible else ROUND_STEPS


def _rounds(job: TraceJob) -> int:
    """Of an interruptible gang one more: the first, by which the market measures what starting costs it."""
    return -(-_steps(job) // _round_steps(job)) + job.interruptible


def _timeout(job: TraceJob) -> int:
    """Ten times what its customer thinks: by it, and by the budget, the market knows for how long the job means to stay."""
    return min(MAX_TIMEOUT_MS, max(1_000, 10 * job.estimate_ms))


_NO_DATA: Final = {"kind": "none"}
_NO_TAGS: Final[dict[str, str]] = {}
_TRAINING: Final = {
    "workload": {"kind": "builtin", "name": "byte_lm"}, "options": {"size": "1M"},
    "checkpoint": {"every_rounds": 1, "keep": 3}, "seed": 1,
}  # fmt: skip


def start(lease: Held) -> StartLease:
    """The provider's word that a worker holds the lease."""
    return StartLease(lease.id, lease.epoch, f"worker-{lease.epoch}", 1, lease.offer, lease.provider)


def save(run: Run, now_ms: int) -> Iterator[Command]:
    """What there is so far is made durable."""
    run.rounds += 1
    if run.gang:
        yield _round(run, now_ms)
        yield _checkpoint(run)
        return
    yield _readings(run, now_ms)
    one = next(iter(run.held.values()))
    mark = sha256(f"{run.job.id} {run.rounds}".encode()).hexdigest()
    yield ReportSave(run.job.id, 1, one.id, one.epoch, mark, 0, PLANE)


def finish(run: Run, now_ms: int) -> Iterator[Command]:
    """The work is done."""
    job = run.job.id
    if run.gang:
        run.rounds += 1
        yield _round(run, now_ms)
        yield _checkpoint(run)
    else:
        one = next(iter(run.held.values()))
        yield _readings(run, now_ms)
        yield ReportAttempt(job, 1, one.id, one.epoch, "exit", 0, None, now_ms - one.granted_ms, "", None, PLANE)
    yield HaltJob(job, "done", "", "", None, PLANE)


def read(run: Run, now_ms: int) -> Command:
    """The meters."""
    return _readings(run, now_ms)


def lose(run: Run, lost: Held, now_ms: int) -> Command:
    """The run says that a worker's machine is gone."""
    word = LostWorker(lost.id, lost.epoch, "node_died")
    return ReportReadings(run.job.id, 1, (_reading(lost, now_ms),), (), (word,), PLANE)


def leave(run: Run, now_ms: int) -> Iterator[Command]:
    """What there is so far is made durable, and those that have notice go."""
    yield from save(run, now_ms)
    words = tuple(LostWorker(name, run.held[name].epoch, reason) for name, reason in run.leaving.items())
    yield ReportReadings(run.job.id, 1, (), (), words, PLANE)


def more_budget(run: Run) -> AddBudget:
    """The customer puts in as much again as at first."""
    run.added += 1
    more = min(budget_of(run.job), _LARGEST_BUDGET)
    run.budget_nanos += more
    return AddBudget(f"more-{run.added}", run.job.id, more, run.job.tenant)


def pause(run: Run, now_ms: int) -> Iterator[Command]:
    """The run stops because it was asked to."""
    yield from save(run, now_ms) if run.held else ()
    yield HaltJob(run.job.id, "paused", "", "", None, PLANE)


def _readings(run: Run, now_ms: int) -> ReportReadings:
    return ReportReadings(run.job.id, 1, tuple(_reading(one, now_ms) for one in run.held.values()), (), (), PLANE)


def _reading(lease: Held, now_ms: int) -> Reading:
    ms = now_ms - lease.granted_ms
    return Reading(lease.id, lease.epoch, ms, ms, 0, 0, 0)


def _round(run: Run, now_ms: int) -> ReportRound:
    members = tuple(
        Member(one.id, one.epoch, one.slot, None, 1, 0, now_ms - one.granted_ms, now_ms - one.granted_ms, 0, DIGEST)
        for one in run.held.values()
    )
    return ReportRound(run.job.id, run.rounds, run.rounds, DIGEST, "simulated", 1_000, members, (), PLANE)


def _checkpoint(run: Run) -> ReportCheckpoint:
    return ReportCheckpoint(run.job.id, run.rounds, run.rounds, DIGEST, 0, 0, (), PLANE)
