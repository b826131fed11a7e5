"""Commands: everything that anybody may ask of the exchange. Frozen values; `Exchange.step` answers each.

`by` is the member who asks, as the bearer key proved it; the exchange checks role and ownership again. `SYSTEM` is the
exchange's own process (opening, first members, clearing, ticks); no member can have that name.
Money is in integer nano-dollars, time in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from market.clearing import Clearing
from market.owner_terms import OwnerTerms
from market.team_commands import (
    KEEP,
    GrantCredit,
    Join,
    MakeInvite,
    MoveMember,
    NoteFormat,
    RemoveTeam,
    ResumeMember,
    RevokeInvite,
    SetLimits,
    SetRole,
    SetTeam,
    SuspendMember,
    TeamCommand,
)

__all__ = [
    "KEEP", "GrantCredit", "Join", "MakeInvite", "MoveMember", "NoteFormat", "RemoveTeam", "ResumeMember",
    "RevokeInvite", "SetLimits", "SetRole", "SetTeam", "SuspendMember",
]  # fmt: skip
SYSTEM: Final = "market"


@dataclass(frozen=True, slots=True)
class OpenMarket:
    """The first record of a journal. The same market again is answered, another refused."""

    market_id: str
    version: str
    by: str = SYSTEM


@dataclass(frozen=True, slots=True)
class AddMember:
    """A new member, or a new key for a revoked one. Only the key's SHA-256 is kept."""

    member: str
    role: str
    key_sha256: str
    by: str


@dataclass(frozen=True, slots=True)
class RotateKey:
    """Another key for the member; the one of now works for `grace_ms` on. Told again: answered."""

    member: str
    key_sha256: str
    grace_ms: int
    by: str


@dataclass(frozen=True, slots=True)
class RevokeMember:
    """The member's key stops working; a provider's offers are withdrawn."""

    member: str
    by: str


@dataclass(frozen=True, slots=True)
class Deposit:
    """Operators only: money comes in from the world."""

    id: str
    account: str
    amount_nanos: int
    by: str


@dataclass(frozen=True, slots=True)
class Payout:
    """Operators only: a provider's earnings go out to the world."""

    id: str
    account: str
    amount_nanos: int
    by: str


@dataclass(frozen=True, slots=True)
class SetSecret:
    """A value was sealed on the disk under `token` (market/api/vault.py) and counts from now on."""

    name: str
    token: str
    by: str


@dataclass(frozen=True, slots=True)
class RemoveSecret:
    """Forget a secret that no open job names."""

    name: str
    by: str


@dataclass(frozen=True, slots=True)
class PlaceOffer:
    """List hardware. An offer that is offline or withdrawn may be placed again under its id with other terms.

    `selftest`: signed, see `market/selftests.py`; without one by which a sandbox held the offer shows isolation `process`.
    """

    id: str
    name: str
    gpu: str
    gpus: int
    vram_gib: float
    region: str
    price_nanos_per_gpu_hour: int
    floor_price_nanos_per_gpu_hour: int | None
    isolation: str
    measured: Mapping[str, float]
    shares: tuple[str, ...]
    node: str
    versions: Mapping[str, str]
    by: str
    terms: OwnerTerms = field(default_factory=OwnerTerms)
    selftest: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ChangeOffer:
    """`action`: price, drain, withdraw or relist; only `price` takes `price_nanos_per_gpu_hour`."""

    offer: str
    action: str
    by: str
    price_nanos_per_gpu_hour: int | None = None


@dataclass(frozen=True, slots=True)
class HoldOffer:
    """The owner holds `gpus` units of an offer back (0 releases them), until `until_ms` if that is said, and gives notice
    to `leases`. `reason` is one of market/holding.py, `why` a sentence for people."""

    offer: str
    gpus: int
    by: str
    reason: str = "reclaim"
    why: str = ""
    until_ms: int | None = None
    leases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """A sign of life from the provider of this offer; journaled only when the offer was offline."""

    offer: str
    by: str


@dataclass(frozen=True, slots=True)
class LoseRay:
    """Ray's head is another one than before: what ran on the cluster of the old one is gone, by nobody's fault but the
    market's. Offers come back when their providers have joined the new cluster and place them again."""

    by: str


@dataclass(frozen=True, slots=True)
class SubmitJob:
    """`spec` is the normalised job spec; its budget is held in escrow at once."""

    id: str
    spec: Mapping[str, Any]
    by: str


@dataclass(frozen=True, slots=True)
class CancelJob:
    job: str
    by: str


@dataclass(frozen=True, slots=True)
class AddBudget:
    """More escrow; resumes a job that paused because it ran out."""

    id: str
    job: str
    add_nanos: int
    by: str


@dataclass(frozen=True, slots=True)
class RetuneJob:
    """Another strategy, or other options of it, from a round boundary on. `strategy` None keeps the one in force;
    `options` go on top of what market/tuning.py says is kept."""

    id: str
    job: str
    strategy: str | None
    options: Mapping[str, Any]
    by: str


@dataclass(frozen=True, slots=True)
class StartLease:
    """The provider's word that a worker holds the lease."""

    lease: str
    epoch: int
    worker: str
    pid: int
    node: str
    by: str


@dataclass(frozen=True, slots=True)
class EndLease:
    """The provider's word that a lease is over; whatever the reason, the customer is not at fault."""

    lease: str
    epoch: int
    reason: str
    detail: str
    by: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A meter of one lease, all figures cumulative since its grant. `rounds` is what the worker counts; the market's own
    count is of the rounds that it was told of."""

    lease: str
    epoch: int
    leased_ms: int
    trained_ms: int
    rounds: int
    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True)
class LostWorker:
    """A worker that the run gave up; `reason` is a cause of market/faults.py."""

    lease: str
    epoch: int
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The held-out loss after a round, and the workload's own figures by name (`trainers.metrics`)."""

    round: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReportReadings:
    job: str
    run_pid: int | None
    readings: tuple[Reading, ...]
    evaluated: tuple[Evaluated, ...]
    lost: tuple[LostWorker, ...]
    by: str


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Warned:
    """A worker whose contribution to a round was left out, and why; the next time it is dropped."""

    slot: int
    reason: str


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class ReportSave:
    """What the command's try `number` has closed in its checkpoint folder is on disk under the digest `manifest`."""

    job: str
    number: int
    lease: str
    epoch: int
    manifest: str
    bytes: int
    by: str


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class StopMarket:
    """Refuse new work, ask every running job to pause at a durable round."""

    by: str


@dataclass(frozen=True, slots=True)
class ReopenMarket:
    """Take new work again; jobs that paused because the market went down become pending."""

    by: str


@dataclass(frozen=True, slots=True)
class ApplyClearing:
    """The result of `clear()`; every match is validated again on the state of now."""

    clearing: Clearing
    by: str = SYSTEM


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes: silent offers, leases that never start, pauses that never halt, deadlines."""

    by: str = field(default=SYSTEM)


Command = (
    OpenMarket
    | AddMember
    | RevokeMember
    | RotateKey
    | Deposit
    | Payout
    | SetSecret
    | RemoveSecret
    | PlaceOffer
    | ChangeOffer
    | HoldOffer
    | Heard
    | LoseRay
    | SubmitJob
    | CancelJob
    | AddBudget
    | RetuneJob
    | StartLease
    | EndLease
    | ReportReadings
    | ReportRound
    | ReportCheckpoint
    | ReportAttempt
    | ReportSave
    | HaltJob
    | StopMarket
    | ReopenMarket
    | ApplyClearing
    | Tick
    | TeamCommand
)
