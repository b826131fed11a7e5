"""An invoice with its proof in one file, and the check of it, offline, with the standard library (signatures need `cryptography`).

    {"format": "torg-invoice-1",
     "body": {"market", "job", "invoice": {...}, "head": {a signed tree head},
              "records": [{"number", "at_ms", "count", "root", "path": [...],
                           "events": [{"ordinal", "salt", "event", "path": [...]}...]}...],
              "hashes": [hex...]},
     "digest", "signature"}

`records` hold every event that the bill is made of: submission, holds, leases, their meters' last readings, charges, ends,
transfers. A path is a list of places in `hashes`. The checks, in order: format, digest, signature, head (signed by the same
key, for this market), inclusion (each event is in its record, each record in the log of the head), bill (made again from
the events, it is the invoice), meters (signed readings are signed by the workers' keys), prices (each charge is the lease's price for the time, to the nano), transfers, charges
(each is a transfer), complete (a job that is over has nothing left in its escrow, so no charge or refund was left out).
"""

from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final

from storage.bills import bill_of
from storage.canonical import digest_of
from storage.checks import BundleVerification, Examination, demand, seal
from storage.invoice_notes import LATER, held_in_escrow
from storage.log_proofs import Known, check_log_proof, events_of, pack
from storage.meter_readings import is_signed
from storage.transparency import ShownRecord
from storage.tree_heads import TreeHead
from storage.units import charge_nanos, counted, format_usd
from storage.verification import ELSEWHERE, check_transfers

INVOICE_FORMAT: Final = "torg-invoice-1"
OVER: Final = frozenset({"done", "failed", "cancelled"})
_NAMES: Final = {"market", "job", "invoice", "head", "records", "hashes"}
_TRANSFER: Final = ("id", "kind", "debit", "credit", "amount_nanos", "job", "lease")
Json = dict[str, Any]


def invoice_proof(invoice: Mapping[str, Any], shown: Sequence[ShownRecord]) -> Json:
    """The parts of a bundle that say and prove an invoice (storage.billing.invoice, as its customer sees it)."""
    said = {name: value for name, value in invoice.items() if name != "estimate"}
    return {"job": invoice["job"], "invoice": said, **pack(shown)}


def make_invoice_bundle(proof: Mapping[str, Any], head: TreeHead, signing_key: bytes | None) -> Json:
    """The bundle of what `invoice_proof` made, proven by this head."""
    return seal(INVOICE_FORMAT, {**proof, "market": head.market, "head": head.to_json()}, signing_key)


def verify_invoice(
    bundle: object, *, public_key: str | None = None, seen: Mapping[str, str] | None = None, witnesses: Collection[str] = ()
) -> BundleVerification:
    """Check everything that an invoice bundle says; never raises for what is in it.

    What whoever checks knows from elsewhere: log_proofs.Known says it of each.
    """
    examined = Examination()
    if check_log_proof(examined, bundle, INVOICE_FORMAT, _NAMES, Known(public_key, seen or {}, witnesses)):
        whole: Any = bundle
        body = whole["body"]
        examined.check("bill", lambda: _bill(body))
        examined.check("meters", lambda: _meters(body))
        examined.check("prices", lambda: _prices(body))
        examined.check("transfers", lambda: check_transfers(body["job"], _transfers(body)))
        examined.check("notes", lambda: _notes(body))
        examined.check("charges", lambda: _charges(body))
        examined.check("complete", lambda: _complete(body))
    return examined.verdict()


def _transfers(body: Mapping[str, Any]) -> list[Json]:
    """Those into and out of the job's escrow."""
    found = [event for _, event in events_of(body) if event["type"] == "transfer" and event["kind"] not in ELSEWHERE]
    return [{name: event[name] for name in _TRANSFER} for event in found]


def _bill(body: Mapping[str, Any]) -> str:
    found, said = _as_of_before(bill_of(events_of(body)), body["invoice"]), body["invoice"]
    demand(found["job"] == body["job"], f"the events are of the job {found['job']}")
    for name in sorted({*found, *said}):
        same = name in found and name in said and digest_of(found[name]) == digest_of(said[name])
        demand(same, f"{name} of the invoice is not what the events add up to")
    return f"{format_usd(found['billed_nanos'])} dollars in {len(found['lines'])} lines, made again from the events"


def _as_of_before(found: Json, said: Mapping[str, Any]) -> Json:
    """The bill without what invoices of before did not say of granted credits, if this one is of them."""
    if "due_granted_nanos" in said:
        return found
    notes = [{name: value for name, value in note.items() if name not in LATER} for note in found["notes"]]
    return {name: value for name, value in found.items() if name != "due_granted_nanos"} | {"notes": notes}


def _meters(body: Mapping[str, Any]) -> str:
    """Each signed reading is signed by the key that the lease's provider named, and at most it was metered."""
    keys = {event["lease"]: event.get("meter_key", "") for _, event in events_of(body) if event["type"] == "lease_started"}
    signed = [event for _, event in events_of(body) if event["type"] == "meter_signed"]
    charged = {event["lease"] for _, event in events_of(body) if event["type"] == "lease_charged"}
    if signed and find_spec("cryptography") is None:
        return f"{counted(len(signed), 'signed reading')}; their signatures were skipped: `cryptography` is not installed"
    for event in signed:
        right = is_signed(keys.get(event["lease"], ""), event["lease"], event["epoch"], event, event["signature"])
        demand(right, f"lease {event['lease']}: the reading of {event['leased_ms']} ms is not signed by its worker's key")
    without = len(charged - {event["lease"] for event in signed})
    rest = f"; {counted(without, 'charged lease')} without one" if without else ""
    return f"{counted(len(signed), 'reading')} signed by the workers that they are of{rest}"


def _prices(body: Mapping[str, Any]) -> str:
    """A charge is the price for the time up to its end, less the price for the time before; never more."""
    leases = {event["lease"]: event for _, event in events_of(body) if event["type"] == "lease_granted"}
    until: dict[str, tuple[int, int]] = {}
    charges = [event for _, event in events_of(body) if event["type"] == "lease_charged"]
    for charge in charges:
        lease = leases[charge["lease"]]
        price, gpus = lease["price_nanos_per_gpu_hour"], lease["gpus"]
        from_ms, paid = until.get(charge["lease"], (0, 0))
        where = f"lease {charge['lease']} up to {charge['to_ms']} ms"
        demand(charge["from_ms"] == from_ms and charge["to_ms"] >= from_ms, f"{where}: time is charged twice or left out")
        due = charge_nanos(price, gpus, charge["to_ms"]) - paid
        demand(0 <= charge["amount_nanos"] <= due, f"{where}: {charge['amount_nanos']} nano-dollars charged, {due} due")
        until[charge["lease"]] = charge["to_ms"], paid + charge["amount_nanos"]
    return f"{counted(len(charges), 'charge')}, each at its lease's price"


def _notes(body: Mapping[str, Any]) -> str:
    """A note is a correction or what a dispute was decided to be, and no lease gives back more than it was charged."""
    disputes = {one["dispute"]: one for one in bill_of(events_of(body))["disputes"]}
    charged: dict[str, int] = {}
    for _, event in events_of(body):
        if event["type"] == "lease_charged":
            charged[event["lease"]] = charged.get(event["lease"], 0) + event["amount_nanos"]
    notes = bill_of(events_of(body))["notes"]
    for note in notes:
        credit = note["kind"] == "credit_note"
        if note["correction"] is None:
            one = disputes.get(note["dispute"], {"state": "missing"})
            due = one.get("decided_nanos" if credit else "amount_nanos")
            right = one["state"] == ("upheld" if credit else "rejected") and due == note["amount_nanos"]
            demand(right, f"the note {note['number']} is not what its dispute was decided to be")
        if credit:
            charged[note["lease"]] = charged.get(note["lease"], 0) - note["amount_nanos"]
    demand(all(left >= 0 for left in charged.values()), "a lease gives back more than it was charged")
    return f"{counted(len(notes), 'note')}, {counted(len(disputes), 'dispute')}"


def _charges(body: Mapping[str, Any]) -> str:
    """What was charged is what left the escrow, lease by lease, and the fee is in it."""
    moved: dict[str, list[int]] = {}
    for row in _transfers(body):
        if row["kind"] in ("charge", "fee"):
            sums = moved.setdefault(row["lease"], [0, 0])
            sums[0] += row["amount_nanos"]
            sums[1] += row["amount_nanos"] if row["kind"] == "fee" else 0
    charged: dict[str, list[int]] = {}
    for _, event in events_of(body):
        if event["type"] == "lease_charged":
            sums = charged.setdefault(event["lease"], [0, 0])
            sums[0] += event["amount_nanos"]
            sums[1] += event["fee_nanos"]
    for lease in sorted({*moved, *charged}):
        was, is_said = moved.get(lease, [0, 0]), charged.get(lease, [0, 0])
        demand(was == is_said, f"lease {lease}: {is_said[0]} nano-dollars charged, {was[0]} moved")
    return f"every charge of {len(charged)} leases is a transfer"


def _complete(body: Mapping[str, Any]) -> str:
    found = bill_of(events_of(body))
    if found["state"] not in OVER:
        return f"the job is {found['state']}: this is its bill so far, and what else was charged cannot be seen here"
    left = found["escrow_nanos"]
    held = held_in_escrow(found["disputes"])
    demand(left == held, f"the job is {found['state']} and {left - held} nano-dollars of its escrow are nowhere")
    kept = f"holds {format_usd(held)} dollars for open disputes" if held else "is empty"
    return f"the job is over and its escrow {kept}: nothing was left out"
