"""The accountant's books: every transfer, what is disputed, given back, corrected and closed, from the journal's records alone.

A part of `Auditor` (auditor.py), which shares no line with the market.
"""

from collections import Counter
from typing import Any

from tests.storms.purses import Purse
from tests.storms.records import Event

FINAL = ("done", "failed", "cancelled")
KINDS = {
    "deposit": ("world", "wallet"), "payout": ("wallet earnings fee", "world"), "hold": ("wallet credit", "escrow"),
    "charge": ("escrow", "earnings"), "fee": ("escrow", "fee"), "release": ("escrow", "wallet credit"),
    "grant": ("grants", "credit"), "expire": ("credit", "grants"), "award": ("escrow", "earnings fee"), "refund": ("earnings fee", "wallet credit"),
}  # fmt: skip


class Books:
    """`balances` and `findings`; what happened is in `facts`, in the words of `promises.py`."""

    leases: dict[str, Any]
    jobs: dict[str, Any]

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.balances: Counter[str] = Counter()
        self.facts: Counter[tuple[object, ...]] = Counter()
        """What came true and how often."""
        self.first_at: dict[tuple[object, ...], int] = {}
        self.disputes: dict[str, Event] = {}
        self._transfers: dict[str, Event] = {}
        self._moves: list[tuple[int, str, str, int]] = []
        self._corrected: Counter[str] = Counter()
        self._given_back: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._purses: dict[str, Purse] = {}
        self._over: set[str] = set()
        self._limits: dict[tuple[str, str], dict[str, int | None]] = {}
        self._told: Counter[tuple[tuple[str, str], str, int]] = Counter()
        self._failed: set[str] = set()
        self._closed_ms = -1
        self._paid_in = 0
        self._at_ms = 0
        self._record = 0
        self._events: list[Event] = []

    def _say(self, finding: str) -> None:
        self.findings.append(f"record {self._record}: {finding}")

    def _require(self, holds: bool, finding: str) -> None:
        if not holds:
            self._say(finding)

    def _note(self, *fact: object) -> None:
        self.facts[fact] += 1
        self.first_at.setdefault(fact, self._record)

    def _of_type(self, type: str, /, **wanted: object) -> list[Event]:
        return [
            event for event in self._events if event["type"] == type and all(event[name] == value for name, value in wanted.items())
        ]

    def _on_transfer(self, event: Event) -> None:
        id, kind, debit, credit, nanos = (event[name] for name in ("id", "kind", "debit", "credit", "amount_nanos"))
        self._require(id not in self._transfers, f"the transfer {id} is booked twice")
        self._require(id not in self._failed, f"the transfer {id} is booked, and was refused for good")
        self._require(self._at_ms > self._closed_ms, f"the transfer {id} is booked at {self._at_ms} in a period that is closed")
        self._transfers[id] = event
        self._moves.append((self._at_ms, debit, credit, nanos))
        if kind == "correction":
            self._correct(event)
        else:
            classes = KINDS.get(kind, ("", ""))
            fits = debit.partition(":")[0] in classes[0].split() and credit.partition(":")[0] in classes[1].split()
            self._require(fits, f"the {kind} {id} goes from {debit} to {credit}")
        self._require(isinstance(nanos, int) and nanos > 0, f"the transfer {id} moves {nanos}")
        self.balances[debit] -= nanos
        self.balances[credit] += nanos
        if debit not in ("world", "grants"):
            self._require(self.balances[debit] >= 0, f"{debit} is below zero after {id}: {self.balances[debit]}")
        self._paid_in += nanos * ((debit in ("world", "grants")) - (credit in ("world", "grants")))
        if event["job"] is not None:
            wrong = self._purses.setdefault(event["job"], Purse()).wrong(event, self.jobs[event["job"]].disputed)
            self._require(wrong is None, f"by the {kind} {id} {wrong}")
        if kind in ("deposit", "payout", "grant"):
            self._note(kind, id.removeprefix("grant:"), nanos)
        elif kind == "hold":
            self._note("hold", ":".join(id.split(":")[:3 if id.startswith("budget:") else 2]))
        elif kind == "release":
            closes = any(one["state"] in FINAL for one in self._of_type("job_state", job=event["job"]))
            self._require(closes or bool(self._of_type("dispute_closed", job=event["job"])), f"{event['job']} gets its escrow back and is not over")

    def _on_transfer_refused(self, event: Event) -> None:
        self._require(event["id"] not in self._transfers, f"the transfer {event['id']} is refused, and was booked")
        self._failed.add(event["id"])

    def _correct(self, event: Event) -> None:
        """A correction goes backwards, says why, and gives no more back than was moved, together with what disputes gave."""
        name = _correction(event["id"])
        said = self._of_type("transfer_corrected", id=name)
        moved = sum(one["amount_nanos"] for one in self._of_type("transfer", kind="correction") if _correction(one["id"]) == name)
        self._require(len(said) == 1 and said[0]["amount_nanos"] == moved, f"the correction {event['id']} has no word for it")
        original = self._transfers[said[0]["transfer"]]
        back = original["debit"] if original["lease"] is None else f"wallet:{self.jobs[original['job']].customer}"
        to_grant = original["lease"] is not None and event["credit"].startswith("credit:")
        sides = event["debit"] == original["credit"] and (event["credit"] == back or to_grant)
        self._require(sides, f"the correction {event['id']} goes from {event['debit']} to {event['credit']}, against {original['id']}")
        self._corrected[original["id"]] += event["amount_nanos"]
        self._require(self._corrected[original["id"]] <= original["amount_nanos"], f"{original['id']} is corrected beyond its amount")
        if original["lease"] is not None:
            self._give_back(original["lease"], event["amount_nanos"])

    def _give_back(self, name: str, nanos: int) -> None:
        self._given_back[name] += nanos
        lease = self.leases[name]
        self._require(self._given_back[name] <= lease.charged, f"{name} gave {self._given_back[name]} back and was charged {lease.charged}")

    def _on_period_closed(self, event: Event) -> None:
        """What the books say of an instant is what was booked up to it, and it is over."""
        through_ms = event["through_ms"]
        self._require(self._closed_ms < through_ms < self._at_ms, f"the books are closed to {through_ms} at {self._at_ms}")
        self._require(event["from_ms"] == self._closed_ms + 1 or self._closed_ms < 0, f"a period begins at {event['from_ms']}")
        booked, balances = 0, Counter[str]()
        for at_ms, debit, credit, nanos in self._moves:
            if at_ms <= through_ms:
                booked += 1
                balances[debit] -= nanos
                balances[credit] += nanos
        self._require(event["transfers"] == booked, f"a period is closed with {event['transfers']} transfers, and {booked} were booked")
        same = {name: nanos for name, nanos in event["balances"].items() if nanos} == {name: nanos for name, nanos in balances.items() if nanos}
        self._require(same, f"a period is closed to {through_ms} with other balances than were booked")
        self._closed_ms = through_ms
        self._note("closed", through_ms)

    def _on_dispute_opened(self, event: Event) -> None:
        """What worker and run do not agree on waits in the escrow; what the customer objects to, in the provider's earnings."""
        lease = self.leases[event["lease"]]
        self._require(event["dispute"] not in self.disputes, f"{event['dispute']} is opened twice")
        least = event["about"] == "meter"
        self._require(least <= event["held_nanos"] <= event["amount_nanos"], f"{event['dispute']} holds {event['held_nanos']} of {event['amount_nanos']}")
        self.disputes[event["dispute"]] = event
        if event["about"] == "meter":
            self.jobs[event["job"]].disputed += event["held_nanos"]
        else:
            self._held[f"earnings:{lease.provider}"] += event["held_nanos"]
            self._note("dispute", event["dispute"])
            asked = sum(one["amount_nanos"] for one in self.disputes.values() if one["lease"] == lease.id and one["about"] == "charges")
            asked += self._given_back[lease.id]
            self._require(asked <= lease.charged, f"{event['dispute']} makes {asked} asked back of {lease.id}, which was charged {lease.charged}")

    def _on_dispute_closed(self, event: Event) -> None:
        dispute = self.disputes.pop(event["dispute"])
        if dispute["about"] == "meter":
            self.jobs[event["job"]].disputed -= dispute["held_nanos"]
        else:
            self._held[f"earnings:{self.leases[dispute['lease']].provider}"] -= dispute["held_nanos"]
            self._note("decided", event["dispute"], event["state"])
        refunded = self._moved("refund", event["dispute"])
        given = event["amount_nanos"] if dispute["about"] == "charges" and event["state"] == "upheld" else 0
        self._require(refunded == given, f"{event['dispute']} is {event['state']}: {refunded} goes back, {given} should")
        self._require(given <= dispute["amount_nanos"], f"{event['dispute']} gives back more than it was about")
        if given:
            self._give_back(dispute["lease"], given)
        awarded = self._moved("award", event["dispute"])
        due = dispute["amount_nanos"] if dispute["about"] == "meter" and event["state"] == "rejected" else 0
        self._require(awarded == due, f"{event['dispute']} is {event['state']}: {awarded} is awarded, {due} is due")

    def _moved(self, kind: str, dispute: str) -> int:
        found = self._of_type("transfer", kind=kind)
        return sum(one["amount_nanos"] for one in found if one["id"].startswith(f"{kind}:{dispute}:"))

    def _on_credit_expired(self, event: Event) -> None:
        self._note("expired", event["grant"])
        self._over.add(f"credit:{event['grant']}")

    def _on_limit_set(self, event: Event) -> None:
        """A limit that changes may be told anew."""
        holder = (event["member"], event["team"])
        self._limits[holder] = {"day": event["per_day_nanos"], "month": event["per_month_nanos"]}
        self._told = Counter({key: percent for key, percent in self._told.items() if key[0] != holder})

    def _on_limit_reached(self, event: Event) -> None:
        """Once each in a period, when so much of the limit is used, or when it makes a run pause."""
        holder, percent, limit = (event["member"], event["team"]), event["percent"], event["limit_nanos"]
        key = (holder, event["period"], event["ends_ms"])
        whose = event["team"] or event["member"]
        self._require(percent > self._told[key], f"{whose} is told of {percent} % of a limit again")
        self._require(limit == self._limits[holder][event["period"]], f"{whose} is told of a limit of {limit}, which it has not")
        self._require(self._at_ms < event["ends_ms"], f"{whose} is told of a {event['period']} that is over")
        self._require(percent == 100 or event["used_nanos"] * 100 >= percent * limit, f"{whose} is told of {percent} % too early")
        self._told[key] = percent

    def _close_books(self) -> None:
        """What must hold at the end of each record."""
        self._require(sum(self.balances.values()) == 0, "the balances together are not zero")
        held = sum(nanos for account, nanos in self.balances.items() if account not in ("world", "grants"))
        self._require(held == self._paid_in, f"{held} is held, and deposits and grants less payouts are {self._paid_in}")
        for account in self._over:
            self._require(not self.balances[account], f"{account} is over and holds {self.balances[account]}")
        for account, nanos in self._held.items():
            self._require(self.balances[account] >= nanos, f"{account} holds {self.balances[account]}, of which {nanos} are disputed")


def _correction(transfer: str) -> str:
    """Of which correction a transfer is: it has its name, what goes to further accounts `correction:NAME:2` and so on."""
    return transfer.split(":")[1] if ":" in transfer else transfer
