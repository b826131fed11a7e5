"""An accountant who trusts nobody: from the journal's records alone it recomputes every balance, lease, charge and promise.

It imports nothing of the market and shares no line with it. What an exchange must never do is written here a second time, from
docs/FAULTS.md and docs/FORMATS.md, one `_on_…` for each kind of event and `_close` for what must hold at the end of each record.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.storms.books import FINAL, Books
from tests.storms.records import Event, Record

HOUR_MS = 3_600_000
LAST_READING, COMMITTED, SAVED = "to its last reading", "its committed rounds, once they are durable", "to its last save"
A_MINUTE_MS = 60_000
LATE_MS = 20_000
"""By which a lease may outlast its time, by the market's clock and by its own: ten seconds after its notice, and ticks. How long the
market was away meanwhile comes on top: nobody ends a lease then, and its worker trains on."""
_ROW = re.compile(r"\| [^|]+ \| `(\w+)` \| (provider|customer|market|none) \| ([^|]+) \|")
FAULTS = {
    reason: (fault, charged.strip())
    for reason, fault, charged in _ROW.findall((Path(__file__).parents[2] / "docs/FAULTS.md").read_text(encoding="utf-8"))
}
"""Who pays, as it is published: reason → (fault, how far the lease is charged)."""


@dataclass(frozen=True, slots=True)
class Absence:
    """A market that was away for so many ms, after the record `after` was written and before the one that follows `until`."""

    after: int
    until: int
    ms: int


@dataclass(slots=True)
class Offer:
    provider: str
    gpus: int
    price: int
    floor: int | None
    own: tuple[str, ...] = ()
    held: int = 0
    live: set[str] = field(default_factory=set)
    notice_ms: int = 5_000
    max_lease_ms: int | None = None
    window: tuple[int, int] | None = None

    @property
    def reserve(self) -> int:
        return self.price if self.floor is None else min(self.price, self.floor)


@dataclass(slots=True)
class Lease:
    id: str
    epoch: int
    job: str
    offer: str
    provider: str
    gpus: int
    price: int
    granted_ms: int
    record: int
    started: bool = False
    ended: bool = False
    metered_ms: int = 0
    trained_ms: int = 0
    saved_ms: int = 0
    charged_ms: int = 0
    charged: int = 0
    fee: int = 0
    until_ms: int | None = None
    announced_ms: int | None = None
    committed: dict[int, int] = field(default_factory=dict)

    def cost(self, ms: int) -> int:
        """What so many milliseconds come to in all, rounded down once."""
        return self.price * self.gpus * ms // HOUR_MS


@dataclass(slots=True)
class Job:
    id: str
    customer: str
    spec: dict[str, Any]
    budget: int
    state: str = "pending"
    billed: int = 0
    disputed: int = 0
    alerted: int = 0
    committed: int = 0
    durable: int = 0
    digests: dict[int, str] = field(default_factory=dict)
    leases: list[str] = field(default_factory=list)
    live: set[str] = field(default_factory=set)

    @property
    def flexible(self) -> bool:
        return bool(self.spec["limits"].get("interruptible")) or "grow_below_nanos_per_gpu_hour" in self.spec["workers"]


class Auditor(Books):
    """`read` it record after record; `findings` are sentences, empty for honest books."""

    def __init__(self, absences: Iterable[Absence] = ()) -> None:
        super().__init__()
        self._absences = tuple(absences)
        self.offers: dict[str, Offer] = {}
        self.leases: dict[str, Lease] = {}
        self.jobs: dict[str, Job] = {}
        self._fee_ppm = 0
        self._epoch = 0

    def read(self, records: Iterable[Record]) -> "Auditor":
        """Go on with these records."""
        for record in records:
            self._record, self._events = record.number, record.events
            self._require(record.at_ms >= self._at_ms, f"its time {record.at_ms} is before {self._at_ms}")
            self._at_ms = max(self._at_ms, record.at_ms)
            for event in record.events:
                on = getattr(self, f"_on_{event['type']}", None)
                if on is not None:
                    try:
                        on(event)
                    except KeyError as error:
                        self._say(f"{event['type']} speaks of {error}, which nobody has heard of")
            self._close()
        return self

    # money

    def _on_market_opened(self, event: Event) -> None:
        self._fee_ppm = event["fee_ppm"]

    def _on_lease_charged(self, event: Event) -> None:
        lease = self._lease(event)
        job, to_ms = self.jobs[lease.job], event["to_ms"]
        self._require(event["from_ms"] == lease.charged_ms < to_ms, f"{lease.id} is charged from {event['from_ms']} to {to_ms} after {lease.charged_ms}")
        self._require(to_ms <= lease.metered_ms, f"{lease.id} is charged to {to_ms} ms and metered to {lease.metered_ms}")
        amount = lease.cost(to_ms) - lease.charged
        fee = (lease.charged + amount) * self._fee_ppm // 1_000_000 - lease.fee
        self._require(event["amount_nanos"] == amount, f"{lease.id} is billed {event['amount_nanos']}, its readings come to {amount}")
        self._require(event["fee_nanos"] == fee, f"the fee of {lease.id} is {event['fee_nanos']} and should be {fee}")
        for kind, account, due in (("charge", f"earnings:{lease.provider}", amount - fee), ("fee", "fee", fee)):
            moved = self._of_type("transfer", kind=kind, lease=lease.id, credit=account, debit=f"escrow:{lease.job}")
            moved = [one for one in moved if one["id"].endswith(f":{to_ms}")]
            found = sum(one["amount_nanos"] for one in moved)
            self._require(found == due, f"{lease.id} has a {kind} of {due} due and {found} moved")
        self._justify(lease, to_ms)
        lease.charged_ms, lease.charged, lease.fee = to_ms, lease.charged + event["amount_nanos"], lease.fee + event["fee_nanos"]
        job.billed += event["amount_nanos"]
        self._require(job.billed <= job.budget, f"{job.id} is billed {job.billed} of a budget of {job.budget}")

    def _justify(self, lease: Lease, to_ms: int) -> None:
        """Work is paid when it is durable, or when the customer's doing ends the lease (docs/FAULTS.md)."""
        for durable in self._of_type("checkpoint_durable", job=lease.job):
            if to_ms <= max([0, *(ms for number, ms in lease.committed.items() if number <= durable["round"])]):
                return
        for ended in self._of_type("lease_ended", lease=lease.id):
            charged = FAULTS.get(ended["reason"], ("", ""))[1]
            if charged == LAST_READING or (SAVED in charged and to_ms <= lease.saved_ms):
                return
        self._say(f"{lease.id} is charged to {to_ms} ms for work that is neither durable nor the customer's to pay")

    # hardware

    def _on_offer_placed(self, event: Event) -> None:
        before = self.offers.get(event["offer"])
        offer = Offer(event["provider"], event["gpus"], event["price_nanos_per_gpu_hour"], event["floor_price_nanos_per_gpu_hour"])
        if before is not None:
            offer.live, offer.held, offer.window = before.live, before.held, before.window
            self._require(before.provider == offer.provider, f"the offer {event['offer']} changed hands")
        self.offers[event["offer"]] = offer
        self._note("offer", event["offer"])

    def _on_offer_terms(self, event: Event) -> None:
        offer, terms = self.offers[event["offer"]], event["terms"]
        offer.own = tuple(terms.get("own", ()))
        offer.notice_ms, offer.max_lease_ms = terms.get("notice_ms", 5_000), terms.get("max_lease_ms")

    def _on_offer_window(self, event: Event) -> None:
        offer = self.offers[event["offer"]]
        offer.window = None if event["begin_ms"] is None else (event["begin_ms"], event["end_ms"])
        for lease in map(self.leases.__getitem__, offer.live):
            if lease.announced_ms is not None:
                lease.announced_ms = None if offer.window is None else max(lease.announced_ms, offer.window[0])

    def _on_offer_changed(self, event: Event) -> None:
        self.offers[event["offer"]].price = event["price_nanos_per_gpu_hour"]

    def _on_offer_held(self, event: Event) -> None:
        self.offers[event["offer"]].held = event["gpus"]

    # jobs

    def _on_job_submitted(self, event: Event) -> None:
        self._require(event["job"] not in self.jobs, f"{event['job']} is submitted twice")
        self.jobs[event["job"]] = Job(event["job"], event["customer"], event["spec"], event["budget_nanos"])
        self._note("job", event["job"], event["customer"], event["budget_nanos"])

    def _on_job_budget(self, event: Event) -> None:
        job = self.jobs[event["job"]]
        job.budget += event["added_nanos"]
        job.alerted = 0
        held = sum(one["amount_nanos"] for one in self._of_type("transfer", kind="hold", job=job.id))
        self._require(held == event["added_nanos"], f"{job.id} is promised {event['added_nanos']} more and {held} is held")
        self._require(job.budget == event["budget_nanos"], f"the budget of {job.id} is {event['budget_nanos']}, not {job.budget}")

    def _on_budget_reached(self, event: Event) -> None:
        job = self.jobs[event["job"]]
        self._require(event["percent"] > job.alerted, f"{job.id} is told of {event['percent']} % of its budget again")
        job.alerted = event["percent"]

    def _on_job_state(self, event: Event) -> None:
        job = self.jobs[event["job"]]
        self._require(job.state not in FINAL, f"{job.id} is {event['state']} after it was {job.state}")
        job.state = event["state"]
        self._note("state", job.id, job.state)

    # leases

    def _lease(self, event: Event) -> Lease:
        lease = self.leases[event["lease"]]
        self._require(lease.epoch == event["epoch"], f"{lease.id} is spoken of with epoch {event['epoch']}, not {lease.epoch}")
        return lease

    def _on_lease_granted(self, event: Event) -> None:
        job, offer = self.jobs[event["job"]], self.offers[event["offer"]]
        lease = Lease(
            event["lease"], event["epoch"], job.id, event["offer"], event["provider"], event["gpus"],
            event["price_nanos_per_gpu_hour"], self._at_ms, self._record,
        )  # fmt: skip
        self._require(lease.epoch == self._epoch + 1, f"{lease.id} has epoch {lease.epoch} after {self._epoch}")
        self._epoch = lease.epoch
        self._require(lease.id not in self.leases, f"{lease.id} is granted twice")
        self._require(lease.provider == offer.provider, f"{lease.id} names {lease.provider} as the owner of {event['offer']}")
        self._bound(lease, offer, job)
        self.leases[lease.id] = lease
        offer.live.add(lease.id)
        job.live.add(lease.id)
        job.leases.append(lease.id)
        used = sum(self.leases[name].gpus for name in offer.live)
        self._require(used + offer.held <= offer.gpus, f"{event['offer']} has {offer.gpus} GPUs, {used} of them let and {offer.held} held")
        limit = job.spec["limits"]["max_price_nanos_per_gpu_hour"]
        self._require(lease.price <= limit, f"{lease.id} costs {lease.price}, above the limit of {limit}")
        ask = 0 if job.customer in offer.own else offer.reserve if job.flexible else offer.price
        self._require(lease.price >= ask, f"{lease.id} costs {lease.price}, below the ask of {ask}")

    def _bound(self, lease: Lease, offer: Offer, job: Job) -> None:
        """How long it may last, as its offer says at its grant."""
        if offer.max_lease_ms is not None and job.customer not in offer.own:
            lease.until_ms = self._at_ms + offer.max_lease_ms
        if offer.window is not None:
            begin_ms, end_ms = lease.announced_ms, _ = offer.window
            clear = self._at_ms >= end_ms or self._at_ms + A_MINUTE_MS <= begin_ms - offer.notice_ms
            self._require(clear, f"{lease.id} is granted at {self._at_ms}, and maintenance of {lease.offer} is from {begin_ms} to {end_ms}")

    def _on_lease_noticed(self, event: Event) -> None:
        lease, reason = self._lease(event), event["reason"]
        if reason not in ("max_lease", "maintenance", "maintenance_unannounced"):
            return
        offer = self.offers[lease.offer]
        begin_ms = None if offer.window is None else offer.window[0]
        over_ms = lease.until_ms if reason == "max_lease" else begin_ms
        early = over_ms is None or self._at_ms < over_ms - offer.notice_ms
        self._require(not early, f"{lease.id} has notice of {reason} at {self._at_ms}, and its time is over at {over_ms}")
        known = lease.announced_ms is not None and begin_ms is not None and lease.announced_ms <= begin_ms
        self._require(reason == "max_lease" or known == (reason == "maintenance"), f"{lease.id} is told of {reason}, and knew of {lease.announced_ms}")

    def _on_lease_started(self, event: Event) -> None:
        lease = self._lease(event)
        self._require(not lease.ended, f"{lease.id} is started after its end")
        lease.started = True
        self._note("started", lease.id, lease.epoch)

    def _on_lease_metered(self, event: Event) -> None:
        lease = self._lease(event)
        leased_ms, trained_ms = event["leased_ms"], event["trained_ms"]
        self._require(lease.metered_ms <= leased_ms, f"the meter of {lease.id} runs back to {leased_ms} from {lease.metered_ms}")
        passed_ms = self._at_ms - lease.granted_ms
        self._require(leased_ms <= passed_ms, f"the meter of {lease.id} says {leased_ms} ms after {passed_ms} ms")
        self._require(lease.trained_ms <= trained_ms <= leased_ms, f"{lease.id} has trained {trained_ms} ms of {leased_ms}")
        self._require(not lease.ended or leased_ms == lease.metered_ms, f"{lease.id} is metered after its end")
        lease.metered_ms, lease.trained_ms = leased_ms, trained_ms
        window = self.offers[lease.offer].window
        for what, over_ms in (("its offer lets", lease.until_ms), ("maintenance begins", None if window is None else window[0])):
            if over_ms is not None:
                late_ms = min(self._at_ms - over_ms, lease.metered_ms - (over_ms - lease.granted_ms))
                away_ms = sum(one.ms for one in self._absences if one.after < self._record and lease.record <= one.until)
                self._require(late_ms <= LATE_MS + away_ms, f"{lease.id} is metered {late_ms} ms after {what}; the market was away for {away_ms}")

    def _on_files_saved(self, event: Event) -> None:
        lease = self._lease(event)
        lease.saved_ms = lease.metered_ms
        self._note("saved", event["job"], event["manifest"])

    def _on_attempt_ended(self, event: Event) -> None:
        self._note("attempt", event["job"], event["number"])

    def _on_lease_ended(self, event: Event) -> None:
        lease = self._lease(event)
        self._require(not lease.ended, f"{lease.id} ends twice")
        lease.ended = True
        self.jobs[lease.job].live.discard(lease.id)
        self.offers[lease.offer].live.discard(lease.id)
        fault, charged = FAULTS.get(event["reason"], ("", ""))
        self._require(event["fault"] == fault, f"{lease.id} ends by {event['reason']}, which is the fault of {fault or 'nobody known'}, not {event['fault']}")
        if charged == LAST_READING:
            self._owes_nothing(lease, lease.metered_ms)
        self._note("ended", lease.id, lease.epoch)

    def _owes_nothing(self, lease: Lease, due_ms: int) -> None:
        """Charged up to there, or as far as the escrow goes."""
        next_ms = lease.cost(lease.charged_ms + 1) - lease.charged
        free = self.balances[f"escrow:{lease.job}"] - self.jobs[lease.job].disputed
        if lease.charged_ms < due_ms and free >= next_ms and lease.price:
            self._say(f"{lease.id} is charged to {lease.charged_ms} ms, {due_ms} ms are due and the escrow could pay more")

    # work

    def _on_round_committed(self, event: Event) -> None:
        job, number = self.jobs[event["job"]], event["round"]
        self._require(job.durable < number <= job.committed + 1, f"{job.id} commits round {number} after {job.committed}, {job.durable} durable")
        self._require(job.digests.get(number) != event["digest"] or number <= job.committed, f"round {number} of {job.id} is committed again")
        for name in job.leases:
            lease = self.leases[name]
            lease.committed = {one: ms for one, ms in lease.committed.items() if one < number}
        for member in event["members"]:
            lease = self._lease(member)
            self._require(lease.job == job.id, f"{lease.id} takes part in round {number} of {job.id}, and is of {lease.job}")
            self._require(member["leased_ms"] <= lease.metered_ms, f"round {number} of {job.id} says more than the meter of {lease.id}")
            lease.committed[number] = member["leased_ms"]
        job.committed, job.digests[number] = number, event["digest"]
        self._note("round", job.id, number, event["digest"])

    def _on_checkpoint_durable(self, event: Event) -> None:
        job, number = self.jobs[event["job"]], event["round"]
        self._require(job.durable < number <= job.committed, f"round {number} of {job.id} is durable after {job.durable}, of {job.committed}")
        job.durable = number
        self._note("durable", job.id, number)

    # the end of a record

    def _close(self) -> None:
        self._close_books()
        for event in self._of_type("job_submitted"):
            held = sum(one["amount_nanos"] for one in self._of_type("transfer", kind="hold", job=event["job"]))
            self._require(held == event["budget_nanos"], f"{event['job']} has a budget of {event['budget_nanos']} and {held} is held")
        for event in self._of_type("checkpoint_durable"):
            for lease in (self.leases[name] for name in self.jobs[event["job"]].leases):
                self._owes_nothing(lease, max([0, *(ms for number, ms in lease.committed.items() if number <= event["round"])]))
        charged = {event["lease"] for event in self._of_type("lease_charged")}
        for event in self._of_type("transfer"):
            if event["kind"] in ("charge", "fee"):
                self._require(event["lease"] in charged, f"the {event['kind']} {event['id']} has no reading behind it")
        granted = Counter(event["job"] for event in self._of_type("lease_granted"))
        for name, more in granted.items():
            job, least = self.jobs[name], self.jobs[name].spec["workers"]["min"]
            alone = len(job.live) == more
            self._require(not alone or more >= least, f"{name} begins with {more} workers, its gang is {least}")
        for name in {event["job"] for event in self._events if event["type"] in ("job_state", "lease_granted")}:
            job = self.jobs[name]
            self._require(not job.live or job.state == "running", f"{name} is {job.state} and holds {len(job.live)} leases")
            if job.state in FINAL:
                left = self.balances[f"escrow:{name}"]
                self._require(left == job.disputed, f"{name} is {job.state} and its escrow holds {left}, of which {job.disputed} is in dispute")
