"""Commands by which a job's run reports what its workers did, and the values in them (market/commands.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from storage.values import value


@value
class Reading:
    """A meter of one lease, all figures cumulative since its grant. `rounds` is what the worker counts; the market's own
    count is of the rounds that it was told of. `run_ms` is what the run saw of `leased_ms` by its own clock (None: it does not
    say), `signature` the worker's of its figures (storage/meter_readings.py), which the run has checked."""

    lease: str
    epoch: int
    leased_ms: int
    trained_ms: int
    rounds: int
    tokens: int
    bytes: int
    run_ms: int | None = None
    signature: str = ""


@value
class LostWorker:
    """A worker that the run gave up; `reason` is a cause of market/faults.py."""

    lease: str
    epoch: int
    reason: str
    detail: str = ""


@value
class Evaluated:
    """The held-out loss after a round, and the workload's own figures by name (`trainers.metrics`)."""

    round: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@value
class ReportReadings:
    job: str
    run_pid: int | None
    readings: tuple[Reading, ...]
    evaluated: tuple[Evaluated, ...]
    lost: tuple[LostWorker, ...]
    by: str


@value
class Member:
    """What one worker gave to a round. `loss` may be None; `contribution` is a digest. `sent_bytes` and
    `received_bytes` were counted on its sockets, `stall_ms` is how long its training stood still for the round."""

    lease: str
    epoch: int
    slot: int
    loss: float | None
    steps: int
    tokens: int
    leased_ms: int
    trained_ms: int
    bytes: int
    contribution: str
    sent_bytes: int = 0
    received_bytes: int = 0
    stall_ms: int = 0
    run_ms: int | None = None


@value
class Word:
    """A worker's signature under its work in a round (hex). `parameters`: the digest after it, where it is not the round's."""

    lease: str
    epoch: int
    signature: str
    parameters: str | None = None


@value
class Warned:
    """A worker whose contribution to a round was left out, and why; the next time it is dropped."""

    slot: int
    reason: str


@value
class ReportRound:
    """Round `round` (from 1) is committed by `members`. Told again: answered. A round after the durable one may be
    replaced by another run of it, when every machine was lost.

    `tuning` numbers the tuning of the job that the round was made with, as the directive does; None is the newest one
    that fits `strategy`. `attempts` counts the tries of the merge, `late` are slots whose work came after the deadline.
    """

    job: str
    round: int
    step: int
    digest: str
    reason: str
    duration_ms: int
    members: tuple[Member, ...]
    lost: tuple[LostWorker, ...]
    by: str
    strategy: str = ""
    tuning: int | None = None
    attempts: int = 1
    late: tuple[int, ...] = ()
    warned: tuple[Warned, ...] = ()
    words: tuple[Word, ...] = ()


@value
class ReportCheckpoint:
    """Everything up to `round` is on disk under the digest `manifest`; this is when work is charged. `kind`: base or
    delta, `base_round` the round of its base (None: this one)."""

    job: str
    round: int
    step: int
    manifest: str
    bytes: int
    stall_ms: int
    removed: tuple[str, ...]
    by: str
    kind: str = "base"
    base_round: int | None = None


@value
class ReportAttempt:
    """Try `number` (from 1) of a batch job's command has ended by itself. Told again: answered.

    `kind`, `code` and `signal` as in `trainers.attempts.Outcome`; `manifest` names its artifacts, if they were collected.
    """

    job: str
    number: int
    lease: str
    epoch: int
    kind: str
    code: int | None
    signal: int | None
    duration_ms: int
    detail: str
    manifest: str | None
    by: str


@value
class ReportSave:
    """What the command's try `number` has closed in its checkpoint folder is on disk under the digest `manifest`."""

    job: str
    number: int
    lease: str
    epoch: int
    manifest: str
    bytes: int
    by: str


@value
class HaltJob:
    """The run has stopped. `state`: paused, done or failed; `reason` is a cause of market/faults.py when failed.

    `run` is the attempt that says so, as the directive numbers them; None is taken for the one of now.
    """

    job: str
    state: str
    reason: str
    detail: str
    manifest: str | None
    by: str
    run: int | None = None


ReportCommand = ReportReadings | ReportRound | ReportCheckpoint | ReportAttempt | ReportSave | HaltJob
