"""Commands: everything that anybody may ask of the exchange. Frozen values; `Exchange.step` answers each.

`by` is the member who asks, as the bearer key proved it; the exchange checks role and ownership again. `SYSTEM` is the
exchange's own process (opening, first members, clearing, ticks); no member can have that name.
Money is in integer nano-dollars, time in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final

from market.book_commands import BookTransfers, ClosePeriod, CorrectTransfer
from market.clearing import Clearing
from market.dispute_commands import DecideDispute, DisputeCommand, OpenDispute
from market.offer_commands import (
    ChangeOffer,
    EndLease,
    Heard,
    HoldOffer,
    LoseRay,
    OfferCommand,
    PlaceOffer,
    ReportMeasured,
    SetLeaseTimes,
    StartLease,
)
from market.report_commands import (
    Evaluated,
    HaltJob,
    LostWorker,
    Member,
    Reading,
    ReportAttempt,
    ReportCheckpoint,
    ReportCommand,
    ReportReadings,
    ReportRound,
    ReportSave,
    Warned,
    Word,
)
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
from storage.values import value

__all__ = [
    "KEEP",
    "ChangeOffer",
    "DecideDispute",
    "EndLease",
    "Evaluated",
    "GrantCredit",
    "HaltJob",
    "Heard",
    "HoldOffer",
    "Join",
    "LoseRay",
    "LostWorker",
    "MakeInvite",
    "Member",
    "MoveMember",
    "NoteFormat",
    "OpenDispute",
    "PlaceOffer",
    "Reading",
    "RemoveTeam",
    "ReportAttempt",
    "ReportCheckpoint",
    "ReportMeasured",
    "ReportReadings",
    "ReportRound",
    "ReportSave",
    "ResumeMember",
    "RevokeInvite",
    "SetLeaseTimes",
    "SetLimits",
    "SetRole",
    "SetTeam",
    "StartLease",
    "SuspendMember",
    "Warned",
    "Word",
]  # fmt: skip
SYSTEM: Final = "market"


@value
class OpenMarket:
    """The first record of a journal. The same market again is answered, another refused."""

    market_id: str
    version: str
    by: str = SYSTEM


@value
class AddMember:
    """A new member, or a new key for a revoked one. Only the key's SHA-256 is kept."""

    member: str
    role: str
    key_sha256: str
    by: str


@value
class RotateKey:
    """Another key for the member; the one of now works for `grace_ms` on. Told again: answered."""

    member: str
    key_sha256: str
    grace_ms: int
    by: str


@value
class RevokeMember:
    """The member's key stops working; a provider's offers are withdrawn."""

    member: str
    by: str


@value
class Deposit:
    """Operators only: money comes in from the world."""

    id: str
    account: str
    amount_nanos: int
    by: str


@value
class Payout:
    """Operators only: a provider's earnings go out to the world."""

    id: str
    account: str
    amount_nanos: int
    by: str


@value
class SetSecret:
    """A value was sealed on the disk under `token` (market/api/vault.py) and counts from now on."""

    name: str
    token: str
    by: str


@value
class RemoveSecret:
    """Forget a secret that no open job names."""

    name: str
    by: str


@value
class SubmitJob:
    """`spec` is the normalised job spec; its budget is held in escrow at once."""

    id: str
    spec: Mapping[str, Any]
    by: str


@value
class CancelJob:
    job: str
    by: str


@value
class AddBudget:
    """More escrow; resumes a job that paused because it ran out."""

    id: str
    job: str
    add_nanos: int
    by: str


@value
class RetuneJob:
    """Another strategy, or other options of it, from a round boundary on. `strategy` None keeps the one in force;
    `options` go on top of what market/tuning.py says is kept."""

    id: str
    job: str
    strategy: str | None
    options: Mapping[str, Any]
    by: str


@value
class StopMarket:
    """Refuse new work, ask every running job to pause at a durable round."""

    by: str


@value
class SetPriceRule:
    """Operators only: by which rule of market/price_rules.py seats are priced from the next clearing on."""

    rule: str
    by: str


@value
class SetDueRule:
    """Operators only: when a bid is due from now on (`DueRule` of market/worth.py); no patience: never by waiting."""

    patience: int | None
    most_ms: int
    by: str


@value
class ReopenMarket:
    """Take new work again; jobs that paused because the market went down become pending."""

    by: str


@value
class Flexible:
    """Whom the interruptible part of a clearing looks at, where the caller knows that nobody else could get anything.

    `bids` are interruptible jobs, `losers` firm ones without their gang; `outbid`: whether any of them may outbid."""

    bids: tuple[str, ...]
    losers: tuple[str, ...]
    outbid: bool


@value
class ApplyClearing:
    """The result of `clear()`; every match is validated again on the state of now. `flexible` None: everybody is looked at."""

    clearing: Clearing
    by: str = SYSTEM
    flexible: Flexible | None = None


@value
class Tick:
    """Time passes: silent offers, leases that never start, pauses that never halt, deadlines.

    `random`, 64 bits that nobody can guess, decides when which offer is measured; 0 for none."""

    by: str = field(default=SYSTEM)
    random: int = 0


Command = (
    OpenMarket
    | AddMember
    | RevokeMember
    | RotateKey
    | Deposit
    | Payout
    | BookTransfers
    | CorrectTransfer
    | ClosePeriod
    | SetSecret
    | RemoveSecret
    | SubmitJob
    | CancelJob
    | AddBudget
    | RetuneJob
    | StopMarket
    | SetDueRule
    | SetPriceRule
    | ReopenMarket
    | ApplyClearing
    | Tick
    | OfferCommand
    | ReportCommand
    | TeamCommand
    | DisputeCommand
)
