"""A small market's journal, written by hand: what the books must show of it is known to the nano."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.canonical import canonical_bytes
from storage.journal import Journal
from storage.units import MS_PER_DAY, charge_nanos, fee_total

DAY_MS = 1_795_392_000_000 - 1_795_392_000_000 % MS_PER_DAY
PRICE = 450_000_001  # nano-dollars a GPU-hour, odd so that rounding shows
CHEAP = 300_000_007
Event = dict[str, Any]


def payload(at_ms: int, events: Sequence[Mapping[str, Any]]) -> bytes:
    """One record's payload as the exchange writes it."""
    return canonical_bytes({"v": 1, "at_ms": at_ms, "events": list(events)})


def transfer(
    id: str, kind: str, debit: str, credit: str, nanos: int, job: str | None = None, lease: str | None = None
) -> Event:
    return {
        "type": "transfer", "id": id, "kind": kind, "debit": debit, "credit": credit, "amount_nanos": nanos,
        "job": job, "lease": lease,
    }  # fmt: skip


class Story:
    """Writes one market's events, and keeps a plain model of what they add up to."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.charged: dict[str, int] = {}
        self.fees: dict[str, int] = {}
        self.leases: dict[str, tuple[str, str, int, int]] = {}

    def add(self, at_ms: int, *events: Event) -> None:
        self.records.append(payload(at_ms, events))

    def member(self, at_ms: int, name: str, role: str) -> None:
        self.add(at_ms, {"type": "member_added", "member": name, "role": role, "key_sha256": "0" * 64})

    def submit(self, at_ms: int, job: str, customer: str, budget: int, tags: Mapping[str, str]) -> None:
        submitted = {
            "type": "job_submitted", "job": job, "customer": customer, "name": f"name of {job}", "spec": {"steps": 600},
            "budget_nanos": budget, "spec_digest": "1" * 64, "tags": dict(tags),
        }  # fmt: skip
        hold = transfer(f"hold-{job}", "hold", f"wallet:{customer}", f"escrow:{job}", budget, job)
        self.add(at_ms, submitted, hold, {"type": "job_state", "job": job, "state": "pending", "reason": "submitted",
                                          "detail": ""})  # fmt: skip

    def grant(self, at_ms: int, job: str, customer: str, provider: str, price: int, gpus: int = 1) -> str:
        number = len(self.leases) + 1
        lease = f"lease-{number:06d}"
        self.leases[lease] = (job, provider, price, gpus)
        granted = {
            "type": "lease_granted", "lease": lease, "epoch": number, "slot": number - 1, "job": job,
            "customer": customer, "offer": f"offer-{provider}", "provider": provider, "gpu": "cpu", "gpus": gpus,
            "price_nanos_per_gpu_hour": price, "replaces": None,
        }  # fmt: skip
        started = {"type": "lease_started", "lease": lease, "epoch": number, "worker": "w", "pid": 1, "node": "n"}
        self.add(at_ms, granted, started)
        return lease

    def meter(self, at_ms: int, lease: str, leased_ms: int, rounds: int) -> None:
        self.add(at_ms, {
            "type": "lease_metered", "lease": lease, "epoch": 1, "job": self.leases[lease][0], "leased_ms": leased_ms,
            "trained_ms": leased_ms * 9 // 10, "rounds": rounds, "tokens": rounds * 1000, "bytes": rounds * 10,
        })  # fmt: skip

    def charge(self, at_ms: int, lease: str, from_ms: int, to_ms: int, round: int) -> None:
        job, provider, price, gpus = self.leases[lease]
        amount = charge_nanos(price, gpus, to_ms) - charge_nanos(price, gpus, from_ms)
        before = sum(self.charged.values())
        self.charged[lease] = self.charged.get(lease, 0) + amount
        fee = fee_total(before + amount) - fee_total(before)
        self.fees[lease] = self.fees.get(lease, 0) + fee
        self.add(
            at_ms,
            {"type": "lease_charged", "lease": lease, "epoch": 1, "job": job, "from_ms": from_ms, "to_ms": to_ms,
             "amount_nanos": amount, "fee_nanos": fee, "round": round},
            transfer(f"c-{lease}-{to_ms}", "charge", f"escrow:{job}", f"earnings:{provider}", amount - fee, job, lease),
            transfer(f"f-{lease}-{to_ms}", "fee", f"escrow:{job}", "fee", fee, job, lease),
        )  # fmt: skip

    def end(self, at_ms: int, lease: str, metered_ms: int, charged_ms: int, fault: str) -> None:
        self.add(at_ms, {
            "type": "lease_ended", "lease": lease, "epoch": 1, "job": self.leases[lease][0], "reason": "over",
            "fault": fault, "metered_ms": metered_ms, "charged_ms": charged_ms, "detail": "",
        })  # fmt: skip

    def round(self, at_ms: int, job: str, number: int, leases: Sequence[str], manner: Event = {}, **more: int) -> None:  # noqa: B006 - only read
        """`manner` and `more` are what journals of before do not say of a round and of its members."""
        members = [
            {"lease": lease, "epoch": 1, "slot": slot, "provider": self.leases[lease][1], "loss": 4.0 / number,
             "steps": 30, "tokens": 1000, "leased_ms": number * 1000, "trained_ms": number * 900, "bytes": 10,
             "contribution": "2" * 64} | more
            for slot, lease in enumerate(leases)
        ]  # fmt: skip
        self.add(
            at_ms,
            {"type": "round_committed", "job": job, "round": number, "step": 30 * number, "digest": "3" * 64,
             "reason": "everybody is there", "duration_ms": 1000, "members": members, "lost": []} | manner,
            {"type": "round_evaluated", "job": job, "round": number, "loss": 4.1 / number},
        )  # fmt: skip

    def finish(self, at_ms: int, job: str, customer: str, budget: int) -> None:
        billed = sum(nanos for lease, nanos in self.charged.items() if self.leases[lease][0] == job)
        self.add(
            at_ms,
            transfer(f"release-{job}", "release", f"escrow:{job}", f"wallet:{customer}", budget - billed, job),
            {"type": "job_state", "job": job, "state": "done", "reason": "all rounds committed", "detail": ""},
        )


def example_story() -> Story:
    """Two customers, two providers, a death, a midnight in the middle of a lease."""
    story = Story()
    at = DAY_MS + MS_PER_DAY - 60_000
    story.add(at, {"type": "market_opened", "market_id": "m", "fee_ppm": 50_000, "version": "0.1.0"})
    for name, role in (("ann", "customer"), ("bob", "customer"), ("p1", "provider"), ("p2", "provider")):
        story.member(at, name, role)
    story.add(at, transfer("d1", "deposit", "world", "wallet:ann", 20_000_000_000))
    story.add(at, transfer("d2", "deposit", "world", "wallet:bob", 5_000_000_000))
    story.submit(at + 1, "job-a", "ann", 5_000_000_000, {"team": "demo"})
    story.submit(at + 2, "job-b", "bob", 1_000_000_000, {})
    one = story.grant(at + 10, "job-a", "ann", "p1", PRICE)
    two = story.grant(at + 11, "job-a", "ann", "p2", CHEAP, gpus=2)
    for second in range(1, 6):
        story.meter(at + second * 1000, one, second * 997, second)
        story.meter(at + second * 1000, two, second * 991, second)
        story.round(at + second * 1000, "job-a", second, [one, two])
    story.charge(at + 5_100, one, 0, 4 * 997, 4)
    story.charge(at + 5_100, two, 0, 4 * 991, 4)
    story.end(at + 6_000, one, 5_531, 4 * 997, "provider")
    three = story.grant(at + 7_000, "job-b", "bob", "p1", PRICE)
    midnight = DAY_MS + MS_PER_DAY
    story.meter(midnight + 5_000, two, 64_000, 9)
    story.meter(midnight + 5_000, three, 50_000, 3)
    # round 5 becomes durable after the death of one of its members, which is paid for it
    story.charge(midnight + 6_000, one, 4 * 997, 5 * 997, 5)
    story.charge(midnight + 6_000, two, 4 * 991, 64_000, 9)
    story.end(midnight + 6_000, two, 64_000, 64_000, "none")
    story.finish(midnight + 6_001, "job-a", "ann", 5_000_000_000)
    return story


def write(folder: Path, records: Sequence[bytes]) -> None:
    """Append to a journal in small batches."""
    with Journal.open(folder) as journal:
        for batch in batches(records, 7):
            journal.append(batch)


def batches(records: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(records), size):
        yield records[start : start + size]
