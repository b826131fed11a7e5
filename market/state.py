"""What the exchange knows: members, offers, jobs, leases, money. Changed by market/reducer.py alone, from events.

Everything here follows from the journal; what does not survive a restart lives in `Volatile`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from market.avoidance import Avoidance
from market.dispute_events import Dispute
from market.experience import Experience
from market.fair_share import Usage
from market.leases import Lease
from market.member_records import (
    GrantRecord,
    InviteRecord,
    LimitRecord,
    MemberRecord,
    SpentRecord,
    TeamRecord,
    ToldRecord,
)
from market.owner_terms import OwnerTerms
from market.periods import DAY
from market.reliability import ProviderRecord
from market.worth import DueRule
from storage.ledger import Ledger
from storage.values import value

if TYPE_CHECKING:
    from market.agenda import Agenda
    from market.listing import Listing

ROLES = ("customer", "provider", "operator", "plane")
FINAL_STATES = frozenset({"done", "failed", "cancelled"})
RECENT_TRADES = 256
OFFER_STATES = ("open", "draining", "offline", "withdrawn")


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A window in which an offer is not for rent, in milliseconds since the epoch."""

    begin_ms: int
    end_ms: int


@dataclass(slots=True)
class OfferRecord:
    """`returns_to` is the state that an offline offer has again when its provider is heard; `away` is why it is offline;
    `base_nanos` is its price outside the hours of its terms;
    `held` is what its owner holds back: {gpus, reason, why, until_ms} (market/holding.py); `let_unit_ms` is for how long each
    customer had it on the day `let_day` (UTC), of leases that ended then."""

    id: str
    provider: str
    name: str
    gpu: str
    gpus: int
    vram_gib: float
    region: str
    price_nanos_per_gpu_hour: int
    floor_price_nanos_per_gpu_hour: int | None
    isolation: str
    measured: dict[str, float]
    shares: tuple[str, ...]
    node: str
    versions: dict[str, str]
    request_digest: str
    placed_ms: int
    state: str = "open"
    returns_to: str = "open"
    away: str = ""
    lost_ms: int | None = None
    earned_nanos: int = 0
    version: int = 1
    live: dict[str, None] = field(default_factory=dict)
    gpus_used: int = 0
    terms: OwnerTerms = field(default_factory=OwnerTerms)
    base_nanos: int = 0
    window: Maintenance | None = None
    """The maintenance window that it is in, else the next one that is known."""
    selftest: dict[str, Any] | None = None
    let_day: int = 0
    let_unit_ms: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] | None = None
    answered: int | None = None
    strikes: int = 0
    doubt: str = ""
    """The measurement that is asked for, {seed, until_ms}, the last one, how many in a row were too low, and what the market
    doubts of it for that (market/measuring.py)."""
    measured_first: dict[str, float] = field(default_factory=dict)
    measured_ms: int = 0
    pace: dict[str, Any] | None = None
    """How its newest training lease did against others of its model (market/pace.py)."""
    counted_ms: int = 0
    """Until when its signs of life are in the record (market/heartbeats.py)."""
    held: dict[str, Any] = field(default_factory=lambda: {"gpus": 0, "reason": "", "why": "", "until_ms": None})
    promised: dict[str, int] = field(default_factory=dict)
    """Units that are kept for jobs that have outbid others, by job (market/outbidding.py)."""

    def note_let(self, lease: Lease, at_ms: int) -> None:
        """Count for the day what a lease that ends now has had of it."""
        today = DAY.number_of(at_ms)
        if self.let_day != today:
            self.let_day, self.let_unit_ms = today, {}
        if not lease.own:
            before = self.let_unit_ms.get(lease.customer, 0)
            self.let_unit_ms[lease.customer] = before + lease.unit_ms_since(DAY.begin_ms(today), at_ms)

    def is_in_maintenance(self, at_ms: int) -> bool:
        """Whether it is not for rent for a window that was announced."""
        return self.window is not None and self.window.begin_ms <= at_ms < self.window.end_ms

    @property
    def gpus_free(self) -> int:
        """Units for rent now: neither leased, held back nor promised."""
        return max(0, self.gpus - self.gpus_used - int(self.held["gpus"]) - sum(self.promised.values()))


@dataclass(slots=True)
class Job:
    """`wanted` is what its run is asked to do; `waits_since_ms` since when it has waited for
    workers that it needs; `attempt` numbers the stretches of running; `topped_up` says that budget
    was added while a pause was wanted; `tunings` are the changes of its strategy (market/tuning.py), `attempts` the tries of a
    batch job's command that ended by themselves, `saved` what it keeps for the next one (market/attempts.py), `estimate` what its customer was told (market/estimates.py), `holds`
    what each request for budget put into escrow, `alerted` the highest percent of it that was told (market/alerts.py), `granted` what of it came from which grant (market/credits.py),
    `returned` what has gone back to each of these, `noted_nanos` what awards, refunds and corrections made of what was billed (market/giving_back.py)."""

    id: str
    customer: str
    name: str
    spec: dict[str, Any]
    spec_digest: str
    budget_nanos: int
    tags: dict[str, str]
    submitted_ms: int
    waits_since_ms: int = 0
    state: str = "pending"
    reason: str = "waiting"
    detail: str = ""
    wanted: str = "run"
    wanted_reason: str = ""
    wanted_ms: int = 0
    topped_up: bool = False
    attempt: int = 0
    next_slot: int = 0
    step: int = 0
    rounds_committed: int = 0
    last_round_ms: int = 0
    last_round_at_ms: int = 0
    rounds: dict[int, dict[str, Any]] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)  # the workload's own figures of the same rounds
    durable: dict[str, Any] | None = None
    leases: list[str] = field(default_factory=list)
    live: dict[str, None] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    avoided: dict[str, Avoidance] = field(default_factory=dict)
    unmatched: dict[str, Any] | None = None
    estimate: dict[str, Any] | None = None
    segments: list[dict[str, Any]] = field(default_factory=list)
    tunings: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    saved: dict[str, Any] | None = None
    proved_ms: dict[str, tuple[int, int]] = field(default_factory=dict)
    result: str | None = None
    billed_nanos: int = 0
    alerted: int = 0
    holds: dict[str, int] = field(default_factory=dict)
    granted: dict[str, int] = field(default_factory=dict)
    returned: dict[str, int] = field(default_factory=dict)
    noted_nanos: int = 0
    running_since_ms: int = 0
    ended_ms: int | None = None
    version: int = 1
    promise: dict[str, Any] | None = None
    """The seats of others that it gets once these have left them, as its `outbid` event says."""
    disputes: list[str] = field(default_factory=list)
    joined_ms: list[int] = field(default_factory=list)
    """How long each lease took from its grant to its first committed round, the newest of them."""

    @property
    def open(self) -> bool:
        return self.state not in FINAL_STATES

    @property
    def durable_round(self) -> int:
        return 0 if self.durable is None else int(self.durable["round"])

    @property
    def strategy(self) -> dict[str, Any]:
        """The newest strategy; a run may still be at the one before. None of a batch job's."""
        found: dict[str, Any] = self.tunings[-1]["strategy"] if self.tunings else self.spec.get("strategy", {})
        return found

    @property
    def command(self) -> dict[str, Any] | None:
        """What a batch job runs; None of a job that trains."""
        found: dict[str, Any] | None = self.spec.get("command")
        return found


@value
class Trade:
    """A lease as it was granted: what it cost, and for how long its job had waited."""

    at_ms: int
    gpu: str
    region: str
    gpus: int
    price_nanos_per_gpu_hour: int
    job: str
    waited_ms: int


@value
class Departure:
    """A job that was over before it had any lease: for how long it had waited, and for what."""

    at_ms: int
    waited_ms: int
    gpu: tuple[str, ...]
    region: tuple[str, ...]
    vram_gib: float
    limit_nanos_per_gpu_hour: int


@dataclass(frozen=True, slots=True)
class CorrectionRecord:
    """Why a part of a booked transfer was reversed."""

    transfer: str
    amount_nanos: int
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class PeriodRecord:
    """A closed period: `transfers` were booked up to its end, `digest` is of all balances then."""

    number: int
    from_ms: int
    through_ms: int
    transfers: int
    digest: str
    closed_ms: int
    by: str


@dataclass(slots=True)
class State:
    """The whole market. Ids map to records, `secrets` a member's names to {token, set_ms}; `usage` is by team
    since there are teams (market/fair_share.py); `open_jobs` and `live_leases` are sets in order of arrival. `grants_of`, `limits`,
    `spent` and `limits_told` are by ("member" or "team", name). `held_earnings` is by provider what open disputes keep of its earnings. `position` is how many events there were, `clearings` how many of them are numbered clearings."""

    market_id: str = ""
    fee_ppm: int = 0
    version: str = ""
    journal_format: int = 1
    stopped: bool = False
    now_ms: int = 0
    position: int = 0
    price_rule: str = "ask"
    due_rule: DueRule = field(default_factory=DueRule)
    clearings: int = 0
    members: dict[str, MemberRecord] = field(default_factory=dict)
    by_key: dict[str, str] = field(default_factory=dict)
    invites: dict[str, InviteRecord] = field(default_factory=dict)
    teams: dict[str, TeamRecord] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)
    grants: dict[str, GrantRecord] = field(default_factory=dict)
    grants_of: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)
    expiring: dict[str, None] = field(default_factory=dict)
    limits: dict[tuple[str, str], LimitRecord] = field(default_factory=dict)
    spent: dict[tuple[str, str], SpentRecord] = field(default_factory=dict)
    limits_told: dict[tuple[str, str], ToldRecord] = field(default_factory=dict)
    disputes: dict[str, Dispute] = field(default_factory=dict)
    open_disputes: dict[str, None] = field(default_factory=dict)
    held_earnings: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    offers: dict[str, OfferRecord] = field(default_factory=dict)
    offers_of: dict[str, dict[str, None]] = field(default_factory=dict)
    providers: dict[str, ProviderRecord] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    jobs_of: dict[str, dict[str, None]] = field(default_factory=dict)
    open_jobs: dict[str, None] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    live_leases: dict[str, None] = field(default_factory=dict)
    experience: Experience = field(default_factory=Experience)
    last_epoch: int = 0
    runs_version: int = 1
    ledger: Ledger = field(default_factory=Ledger)
    corrections: dict[str, CorrectionRecord] = field(default_factory=dict)
    corrected: dict[str, int] = field(default_factory=dict)
    """Nano-dollars of each corrected transfer that were reversed."""
    periods: list[PeriodRecord] = field(default_factory=list)
    touched: dict[str, None] = field(default_factory=dict)
    """Offers to which something happened since the book was written last (market/listing.py)."""
    trades: deque[Trade] = field(default_factory=lambda: deque(maxlen=RECENT_TRADES))
    departures: deque[Departure] = field(default_factory=lambda: deque(maxlen=RECENT_TRADES))
    """The newest leases, the newest last."""
    lost: dict[str, None] = field(default_factory=dict)
    """Offers that ever lost a lease."""
    promised_jobs: dict[str, None] = field(default_factory=dict)
    """Jobs that have outbid others and wait for these to leave."""
    flexible_jobs: dict[str, None] = field(default_factory=dict)
    """Open jobs of which some lease may be outbid."""
    open_of: dict[str, int] = field(default_factory=dict)
    """How many jobs of each customer are open."""

    def touch_provider(self, provider: str) -> None:
        """Note that something of a provider has changed that its offers show."""
        self.touched.update(self.offers_of.get(provider, {}))

    def forget_job(self, name: str) -> Job:
        """Drop a job that is over, and its leases, as if they had never been; money is not touched."""
        job = self.jobs.pop(name)
        assert not job.open, f"{name} is {job.state}"
        del self.jobs_of[job.customer][name]
        for lease in job.leases:
            del self.leases[lease]
        return job

    def balance(self, account: str) -> int:
        return self.ledger.balance(account)

    def escrow(self, job: Job) -> int:
        return self.ledger.balance(f"escrow:{job.id}")

    def live_leases_of(self, job: Job) -> list[Lease]:
        return [self.leases[lease] for lease in job.live]

    def accrued_nanos(self, kind: str, name: str) -> int:
        """What living leases of a member's or a team's open jobs have run up and nobody was billed yet."""
        found = 0
        for job in map(self.jobs.__getitem__, self.open_jobs):
            if name == (job.customer if kind == "member" else self.members[job.customer].team):
                found += sum(lease.accrued_nanos for lease in self.live_leases_of(job))
        return found

    def leases_of(self, job: Job) -> list[Lease]:
        return [self.leases[lease] for lease in job.leases]

    def running(self) -> Iterator[Job]:
        for job in self.open_jobs:
            if self.jobs[job].state == "running":
                yield self.jobs[job]


@dataclass(slots=True)
class Volatile:
    """Signs of life and process ids: gone after a restart, when every timer starts anew at `awake_ms`.

    `heard_ms` and `measure_ms` (when it is measured next) are by offer, `reading_ms` by lease, `run_ms` (the last word of its run) and `run_pid` by job.
    """

    answers: bool = True
    """Whether anybody hears what commands are answered: nobody does in a simulation."""
    awake_ms: int | None = None
    heard_ms: dict[str, int] = field(default_factory=dict)
    measure_ms: dict[str, int] = field(default_factory=dict)
    reading_ms: dict[str, int] = field(default_factory=dict)
    run_ms: dict[str, int] = field(default_factory=dict)
    run_pid: dict[str, int] = field(default_factory=dict)
    signed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By lease: its newest signed reading, until a charge puts it into the record."""
    dirty: bool = True
    listing: Listing | None = None
    agenda: Agenda | None = None
    """Of the ticks of this life; None: the next one looks at every offer."""
    settled_ms: int | None = None
    """When a clearing looked at everybody and left no free seat that anybody who waits could use; None: not so now."""
    arrived: dict[str, None] = field(default_factory=dict)
    """Jobs that were submitted to the settled book: they alone may be cleared (`snapshots.snapshot_of_arrivals`)."""
    kept_for: str | None = None
    """The due job for which the last clearing keeps free seats."""
    now_ms: int = 0
    ticked_ms: int = 0
