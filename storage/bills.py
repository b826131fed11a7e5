"""What a job costs, from its events alone: the same bill as the books give, with nothing but the standard library.

Money is int nano-dollars, time int milliseconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from storage.invoice_notes import GRANTED, disputes_of, granted_of, notes_of, standing, sums_of
from storage.units import charge_nanos, format_instant

Line = dict[str, Any]
Event = Mapping[str, Any]


def bill_of(events: Iterable[tuple[int, Event]]) -> Line:
    """The invoice of the one job that these events (at_ms, event), in the journal's order, are about.

    Of a lease's meter readings the last is enough: they are cumulative. Raises KeyError, ValueError where they are not
    the events of one job.
    """
    known = list(events)
    submitted_ms, job = next(((at_ms, one) for at_ms, one in known if one["type"] == "job_submitted"), (0, None))
    if job is None:
        raise ValueError("the event that submitted the job is missing")
    name = job["job"]
    leases = {one["lease"]: _row(at_ms, one) for at_ms, one in known if one["type"] == "lease_granted"}
    state_ms, state = next(((at_ms, one["state"]) for at_ms, one in reversed(known) if one["type"] == "job_state"), (None, None))
    transfers = [(at_ms, one) for at_ms, one in known if one["type"] == "transfer"]
    for at_ms, one in known:
        if one.get("job", name) != name:
            raise ValueError(f"an event of the job {one['job']} is among those of {name}")
        if one["type"] in _CHANGES:
            _CHANGES[one["type"]](leases[one["lease"]], at_ms, one)
    rows = sorted(leases.values(), key=lambda row: (row["slot"], row["epoch"]))
    lines = [line for row in rows for line in lease_lines(row)]
    totals = totals_of_lines(lines)
    payments = [_payment(at_ms, one) for at_ms, one in transfers if one["kind"] in ("hold", "release")]
    sums = {kind: sum(one["amount_nanos"] for one in payments if one["kind"] == kind) for kind in ("hold", "release")}
    paid = sum(one["amount_nanos"] for _, one in transfers if one["kind"] in ("charge", "fee", "award"))
    granted = sum(one["amount_nanos"] for one in payments if one["granted"] and one["kind"] == "hold")
    notes = notes_of({**one, "at_ms": at_ms} for at_ms, one in transfers)
    opened, closed = ([{**one, "at_ms": at_ms} for at_ms, one in known if one["type"] == kind] for kind in ("dispute_opened", "dispute_closed"))
    disputes, after = disputes_of(opened, closed), sums_of(totals["billed_nanos"], notes)
    return {
        "job": name, "name": job["name"], "customer": job["customer"], "state": state, **standing(name, state, state_ms),
        "submitted_at": format_instant(submitted_ms), "lines": lines, **totals, "payments": payments,
        "notes": notes, "disputes": disputes, **after,
        "billed_granted_nanos": min(granted, totals["billed_nanos"]),
        "due_granted_nanos": min(granted_of(one for _, one in transfers), after["due_nanos"]),
        "held_nanos": sums["hold"], "released_nanos": sums["release"],
        "escrow_nanos": sums["hold"] - sums["release"] - paid,
        **price_rules(rows),
    }  # fmt: skip


def _row(at_ms: int, granted: Event) -> Line:
    names = ("lease", "epoch", "slot", "provider", "gpu", "gpus", "price_nanos_per_gpu_hour")
    rule = granted.get("price_rule")  # journals of before say none
    nothing = dict.fromkeys(
        ("metered_ms", "charged_ms", "trained_ms", "rounds", "tokens", "charged_nanos", "fee_nanos", "refunded_ms",
         "refunded_nanos", "questioned_ms"), 0,
    )  # fmt: skip
    empty = dict.fromkeys(("started_at_ms", "ended_at_ms", "end_reason", "fault", "signed_ms"))
    return {**{name: granted[name] for name in names}, **nothing, **empty, "granted_at_ms": at_ms, "price_rule": rule}


def _started(row: Line, at_ms: int, _: Event) -> None:
    row["started_at_ms"] = at_ms if row["started_at_ms"] is None else row["started_at_ms"]


def _metered(row: Line, _: int, event: Event) -> None:
    row["metered_ms"] = event["leased_ms"]
    row |= {name: event[name] for name in ("trained_ms", "rounds", "tokens")}
    row["questioned_ms"] = max(0, event.get("claimed_ms", 0) - event["leased_ms"])


def _signed(row: Line, _: int, event: Event) -> None:
    row["signed_ms"] = max(row["signed_ms"] or 0, event["leased_ms"])


def _charged(row: Line, _: int, event: Event) -> None:
    row["charged_ms"] = max(row["charged_ms"], event["to_ms"])
    row["charged_nanos"] += event["amount_nanos"]
    row["fee_nanos"] += event["fee_nanos"]
    _refund(row)


def _ended(row: Line, at_ms: int, event: Event) -> None:
    row |= {"metered_ms": event["metered_ms"], "ended_at_ms": at_ms, "end_reason": event["reason"], "fault": event["fault"]}
    _refund(row)


def _refund(row: Line) -> None:
    """A lease may be charged after its end, when its last committed rounds become durable."""
    if row["ended_at_ms"] is not None:
        price, gpus = row["price_nanos_per_gpu_hour"], row["gpus"]
        row["refunded_ms"] = row["metered_ms"] - row["charged_ms"]
        due = charge_nanos(price, gpus, row["metered_ms"])
        row["refunded_nanos"] = due - charge_nanos(price, gpus, row["charged_ms"])


_CHANGES = {
    "lease_started": _started, "lease_metered": _metered, "meter_signed": _signed, "lease_charged": _charged, "lease_ended": _ended,
}  # fmt: skip


def _payment(at_ms: int, transfer: Event) -> Line:
    granted = transfer["debit"].startswith(GRANTED) or transfer["credit"].startswith(GRANTED)
    return {
        "id": transfer["id"], "kind": transfer["kind"], "amount_nanos": transfer["amount_nanos"], "granted": granted,
        "at_ms": at_ms, "at": format_instant(at_ms),
    }  # fmt: skip


def lease_lines(lease: Mapping[str, Any]) -> list[Line]:
    """The lines of one lease: what was used, and what was metered and not charged. `lease`: a row of the view lease_lines."""
    common = {name: lease[name] for name in ("lease", "slot", "provider", "gpu", "gpus")}
    common["unit_price_nanos_per_gpu_hour"] = lease["price_nanos_per_gpu_hour"]
    started = lease["started_at_ms"] if lease["started_at_ms"] is not None else lease["granted_at_ms"]
    common["period_start"] = format_instant(started)
    common["period_end"] = None if lease["ended_at_ms"] is None else format_instant(lease["ended_at_ms"])
    common |= {"end_reason": lease["end_reason"], "fault": lease["fault"]}
    lines: list[Line] = []
    if lease["charged_ms"] or lease["metered_ms"] or lease["charged_nanos"]:
        due = charge_nanos(lease["price_nanos_per_gpu_hour"], lease["gpus"], lease["charged_ms"])
        lines.append({
            "kind": "usage", **common, "metered_ms": lease["metered_ms"], "charged_ms": lease["charged_ms"],
            "trained_ms": lease["trained_ms"], "rounds": lease["rounds"], "tokens": lease["tokens"],
            "amount_nanos": lease["charged_nanos"], "fee_nanos": lease["fee_nanos"], "refunded_nanos": 0,
            "capped_nanos": due - lease["charged_nanos"], "signed_ms": lease["signed_ms"], "questioned_ms": lease["questioned_ms"],
        })  # fmt: skip
    if lease["refunded_ms"]:
        lines.append({
            "kind": "not_charged", **common, "metered_ms": lease["refunded_ms"], "charged_ms": 0, "trained_ms": 0,
            "rounds": 0, "tokens": 0, "amount_nanos": 0, "fee_nanos": 0, "refunded_nanos": lease["refunded_nanos"],
            "capped_nanos": 0,
        })  # fmt: skip
    return lines


def price_rules(leases: Iterable[Mapping[str, Any]]) -> Line:
    """{price_rules}: by which rules of docs/PRICES.md these leases were priced; empty where none says."""
    found = sorted({lease["price_rule"] for lease in leases if lease["price_rule"] is not None})
    return {"price_rules": found} if found else {}


def totals_of_lines(lines: Sequence[Line]) -> Line:
    """{billed_nanos, fee_nanos, earnings_nanos, refunded_nanos} of an invoice's lines."""
    return {
        "billed_nanos": sum(line["amount_nanos"] for line in lines),
        "fee_nanos": sum(line["fee_nanos"] for line in lines),
        "earnings_nanos": sum(line["amount_nanos"] - line["fee_nanos"] for line in lines),
        "refunded_nanos": sum(line["refunded_nanos"] for line in lines),
    }
