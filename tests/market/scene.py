"""A market to play on: an exchange with short words for what people and machines say to it.

Every step is checked: the books balance, and the journaled events alone rebuild the same exchange (through JSON bytes).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from market.clearing import Clearing, clear
from market.commands import (
    AddMember,
    ApplyClearing,
    Command,
    Deposit,
    Evaluated,
    HaltJob,
    Heard,
    LostWorker,
    Member,
    OpenMarket,
    PlaceOffer,
    Reading,
    ReportCheckpoint,
    ReportReadings,
    ReportRound,
    StartLease,
    SubmitJob,
    Tick,
)
from market.exchange import Exchange, Outcome, Refusal, Settings
from market.recollection import Recollection, from_snapshot, sections_of
from storage.journal_format import Place
from storage.records import decode_record, encode_record
from storage.snapshots import Snapshot

USD = 1_000_000_000
START_MS = 1_000_000


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def make_spec(**changes: Any) -> dict[str, Any]:
    """A normalised spec; a change is named by its path with double underscores: `workers__min=3`."""
    spec: dict[str, Any] = {
        "name": "tiny",
        "workload": {"kind": "builtin", "name": "byte_lm"},
        "options": {"size": "1M"},
        "data": {"kind": "none"},
        "strategy": {"name": "diloco", "inner_steps": 30, "outer_lr": 0.7, "outer_momentum": 0.9, "codec": "int8"},
        "steps": 600,
        "rounds": 20,
        "workers": {
            "min": 2, "max": 2, "gpus": 1, "gpu": ["cpu"], "vram_gib": 0, "region": [], "reliability": 0.0,
            "isolation": "process",
        },
        "limits": {"max_price_nanos_per_gpu_hour": 9 * USD // 10, "budget_nanos": 5 * USD, "deadline_ms": None},
        "checkpoint": {"every_rounds": 1, "keep": 3},
        "seed": 1,
        "tags": {"team": "demo"},
    }  # fmt: skip
    for path, value in changes.items():
        where, *rest = path.split("__")
        if rest:
            spec[where][rest[0]] = value
        else:
            spec[where] = value
    return spec


@dataclass
class Scene:
    """Members: `op`, `ann` and `bob` (customers, ann with 100 USD), `p1`..`p4` (providers), `plane`."""

    settings: Settings = field(default_factory=Settings)
    funds_nanos: int = 100 * USD
    now_ms: int = START_MS
    records: list[bytes] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    exchange: Exchange = field(init=False)

    def __post_init__(self) -> None:
        self.exchange = Exchange(self.settings)
        self.do(OpenMarket("square", "1"))
        roles = {"op": "operator", "ann": "customer", "bob": "customer", "plane": "plane"}
        for name, role in (roles | {f"p{n}": "provider" for n in range(1, 5)}).items():
            self.do(AddMember(name, role, digest(name), "market"))
        if self.funds_nanos:
            self.do(Deposit("d1", "ann", self.funds_nanos, "op"))

    # saying things

    def say(self, command: Command) -> Outcome:
        outcome = self.exchange.step(command, self.now_ms)
        if isinstance(outcome.answer, Refusal):
            assert all(event["type"] == "transfer_refused" for event in outcome.events)
        if outcome.events:
            self.records.append(encode_record(self.now_ms, outcome.events))
            self.events += outcome.events
        return outcome

    def do(self, command: Command) -> dict[str, Any]:
        """Say it and expect an answer."""
        answer = self.say(command).answer
        assert not isinstance(answer, Refusal), answer
        return answer

    def refused(self, command: Command) -> Refusal:
        """Say it and expect a refusal."""
        answer = self.say(command).answer
        assert isinstance(answer, Refusal), answer
        return answer

    def clear(self) -> Clearing:
        clearing = clear(self.exchange.snapshot())
        self.do(ApplyClearing(clearing))
        return clearing

    def wait(self, ms: int, silent: tuple[str, ...] = ()) -> None:
        """Let time pass; providers poll meanwhile, except the silent offers."""
        self.now_ms += ms
        for offer in self.exchange.offers(self.now_ms):
            if offer["id"] not in silent:
                self.do(Heard(offer["id"], offer["provider"]))
        self.do(Tick())

    def restart(self) -> None:
        """Forget everything but the journal."""
        self.exchange = self.replayed()

    def replayed(self) -> Exchange:
        """From the journal, its first half by way of a snapshot."""
        again = Recollection(Exchange(self.settings))
        for number, record in enumerate(self.records, 1):
            body = decode_record(record)
            again.take(body["at_ms"], number, body["events"])
            if number == len(self.records) // 2:
                kept = Snapshot(Place(1, 96, number, "00" * 32), again.at_ms, sections_of(again))
                again = from_snapshot(kept, lambda: Exchange(self.settings))
        return again.exchange

    # people

    def offer(
        self, id: str = "offer-1", by: str = "p1", usd: float = 0.5, gpus: int = 1, **changes: Any
    ) -> dict[str, Any]:
        return self.do(self.make_offer(id, by, usd, gpus, **changes))

    def make_offer(self, id: str, by: str, usd: float, gpus: int, **changes: Any) -> PlaceOffer:
        offer = PlaceOffer(
            id=id, name=by, gpu="cpu", gpus=gpus, vram_gib=4.0, region="eu",
            price_nanos_per_gpu_hour=round(usd * USD), floor_price_nanos_per_gpu_hour=None, isolation="sandbox",
            measured={"matmul_gflops": 50.0}, shares=(), node=f"node-{by}",
            versions={"python": "3.11", "ray": "2.60", "torg": "0.1"}, by=by,
        )  # fmt: skip
        return replace(offer, **changes)

    def submit(self, id: str = "job-1", by: str = "ann", **changes: Any) -> dict[str, Any]:
        return self.do(SubmitJob(id, make_spec(**changes), by))

    # machines

    def start_all(self, job: str = "job-1") -> None:
        for lease in self.view(job)["workers"]:
            if lease["state"] == "granted":
                self.do(StartLease(lease["id"], lease["epoch"], f"worker-{lease['offer']}", 100 + lease["slot"],
                                   "node", lease["provider"]))  # fmt: skip

    def running(self, job: str = "job-1", offers: int = 2, **changes: Any) -> None:
        """Offers `offer-1`.. by `p1`.., one GPU each at 0.5 USD and more, and a job that runs on the cheapest."""
        for number in range(1, offers + 1):
            self.offer(f"offer-{number}", f"p{number}", 0.4 + 0.1 * number)
        self.submit(job, **changes)
        self.clear()
        self.start_all(job)

    def read(self, job: str = "job-1", lost: tuple[LostWorker, ...] = (), **readings_ms: int) -> dict[str, Any]:
        """Meters by slot: `read(s0=1000, s1=900)`."""
        by_slot = {f"s{one['slot']}": one for one in self.view(job)["leases"]}
        readings = tuple(
            Reading(by_slot[slot]["id"], by_slot[slot]["epoch"], ms, ms, 0, 0, 0) for slot, ms in readings_ms.items()
        )
        return self.do(ReportReadings(job, 77, readings, (), lost, "plane"))

    def evaluate(self, job: str, number: int, loss: float, **metrics: float) -> None:
        self.do(ReportReadings(job, 77, (), (Evaluated(number, loss, metrics),), (), "plane"))

    def lose(self, slot: int, reason: str, job: str = "job-1") -> None:
        lease = next(one for one in self.view(job)["leases"] if one["slot"] == slot)
        self.read(job, lost=(LostWorker(lease["id"], lease["epoch"], reason, ""),))

    def make_round(self, number: int, meters: dict[int, int], job: str = "job-1", mark: str = "") -> ReportRound:
        """A round by the members that `meters` names: slot → leased_ms."""
        by_slot = {one["slot"]: one for one in self.view(job)["leases"]}
        members = tuple(
            Member(by_slot[slot]["id"], by_slot[slot]["epoch"], slot, 2.5, 30, 1000, ms, ms, 99, digest("c"))
            for slot, ms in meters.items()
        )
        return ReportRound(job, number, 30 * number, digest(f"{number}{mark}"), "all", 1_000, members, (), "plane")

    def round(self, number: int, meters: dict[int, int], job: str = "job-1", mark: str = "") -> dict[str, Any]:
        return self.do(self.make_round(number, meters, job, mark))

    def checkpoint(self, number: int, job: str = "job-1") -> dict[str, Any]:
        return self.do(ReportCheckpoint(job, number, 30 * number, digest(f"m{number}"), 10, 1, (), "plane"))

    def halt(self, state: str, reason: str = "", job: str = "job-1") -> dict[str, Any]:
        return self.do(HaltJob(job, state, reason, "", None, "plane"))

    # looking

    def view(self, job: str = "job-1") -> dict[str, Any]:
        found = self.exchange.job(job)
        assert found is not None
        return found

    def live(self, job: str = "job-1") -> list[dict[str, Any]]:
        """The workers whose lease has not ended."""
        return [one for one in self.view(job)["workers"] if one["state"] != "ended"]

    def state(self, job: str = "job-1") -> tuple[str, str]:
        view = self.view(job)
        return view["state"], view["reason"]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def balances(self) -> dict[str, int]:
        found: dict[str, int] = self.exchange.fingerprint()["balances"]
        return found
