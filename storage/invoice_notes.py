"""What comes after an invoice's lines: its number and status, disputes, and the notes by which they changed what is due.

Lines never change once the job is over. What a dispute or an operator's correction moves is a note with a number of its own: a
credit note (`CN-`) for what went back to the customer, a debit note (`DN-`) for what the provider got of what was kept. Of a
credit note `granted_nanos` went back to granted credits, which are not paid out; `expired_nanos` of these to grants whose time
was over, so that they ended at once. Money is int nano-dollars.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from storage.units import format_instant

OVER: Final = frozenset({"done", "failed", "cancelled"})
MOVES: Final = ("refund", "award", "correction")
GRANTED: Final = "credit:"
LATER: Final = ("granted_nanos", "expired_nanos")
"""What notes of before do not say: all that was given back was bought money then."""
Line = dict[str, Any]


def standing(job: str, state: str | None, state_ms: int | None) -> Line:
    """{number, status, issued_at}: a draft until the job is over, final from then on."""
    final = state in OVER
    return {
        "number": f"INV-{job}", "status": "final" if final else "draft",
        "issued_at": format_instant(state_ms) if final and state_ms is not None else None,
    }  # fmt: skip


def notes_of(transfers: Iterable[Mapping[str, Any]]) -> list[Line]:
    """The notes that these transfers (id, kind, credit, lease, amount_nanos, at_ms; in the journal's order) make; others are left out."""
    found: dict[str, Line] = {}
    newest: dict[str, Line] = {}
    for one in transfers:
        if one["kind"] == "expire" and one["lease"] in newest:
            newest[one["lease"]]["expired_nanos"] += one["amount_nanos"]
        if one["kind"] not in MOVES:
            continue
        corrected, credit = one["kind"] == "correction", one["kind"] != "award"
        name = one["id"].split(":")[1] if ":" in one["id"] else one["id"]
        number = f"{'CN' if credit else 'DN'}-{name}"
        empty = {
            "number": number, "kind": "credit_note" if credit else "debit_note", "dispute": None if corrected else name,
            "correction": name if corrected else None, "lease": one["lease"], "amount_nanos": 0, "at": format_instant(one["at_ms"]),
            "granted_nanos": 0, "expired_nanos": 0,
        }  # fmt: skip
        note = newest[one["lease"]] = found.setdefault(number, empty)
        note["amount_nanos"] += one["amount_nanos"]
        note["granted_nanos"] += one["amount_nanos"] if one["credit"].startswith(GRANTED) else 0
    return list(found.values())


def without_grants(notes: Iterable[Line]) -> list[Line]:
    """The notes as a provider sees them: from what its customer paid is the customer's own affair."""
    return [{name: value for name, value in note.items() if name not in LATER} for note in notes]


def granted_of(transfers: Iterable[Mapping[str, Any]]) -> int:
    """What of a job's holds (debit, credit, kind, amount_nanos) came from granted credits and has not gone back to them."""
    held = 0
    for one in transfers:
        if one["kind"] == "hold" and one["debit"].startswith(GRANTED):
            held += one["amount_nanos"]
        elif one["kind"] in ("release", "refund", "correction") and one["credit"].startswith(GRANTED):
            held -= one["amount_nanos"]
    return held


def disputes_of(opened: Iterable[Mapping[str, Any]], closed: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Disputes as an invoice shows them, from their events with `at_ms`."""
    over = {one["dispute"]: one for one in closed}
    names = ("dispute", "lease", "by", "about", "reason", "amount_nanos", "held_nanos")
    found = []
    for one in opened:
        end = over.get(one["dispute"])
        found.append(
            {name: one[name] for name in names}
            | {"opened_at": format_instant(one["at_ms"]), "state": "open" if end is None else end["state"]}
            | {
                "decided_nanos": 0 if end is None else end["amount_nanos"], "decided_by": None if end is None else end["by"],
                "decision": None if end is None else end["reason"],
                "closed_at": None if end is None else format_instant(end["at_ms"]),
            }
        )  # fmt: skip
    return found


def sums_of(billed_nanos: int, notes: Sequence[Mapping[str, Any]]) -> Line:
    """{credited_nanos, debited_nanos, due_nanos}: what the notes change, and what the job costs in the end."""
    credited = sum(one["amount_nanos"] for one in notes if one["kind"] == "credit_note")
    debited = sum(one["amount_nanos"] for one in notes if one["kind"] == "debit_note")
    return {"credited_nanos": credited, "debited_nanos": debited, "due_nanos": billed_nanos + debited - credited}


def held_in_escrow(disputes: Iterable[Mapping[str, Any]]) -> int:
    """What the escrow keeps for open disputes about meters."""
    return sum(int(one["held_nanos"]) for one in disputes if one["state"] == "open" and one["about"] == "meter")
