"""An invoice as one page of HTML that a browser prints on A4: no script, no network, every name escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

from market.faults import BY_REASON
from storage.units import format_duration, format_usd

OVER: Final = frozenset({"done", "failed", "cancelled"})
Json = Mapping[str, Any]

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1a1d21; --soft: #667; --line: #d9dce1; --page: #fff; --tint: #f5f6f8 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa3ad; --line: #3a3f47; --page: #16181c; --tint: #1f2329 } }
@media print { :root { --ink: #000; --soft: #444; --line: #bbb; --page: #fff; --tint: #fff } }
@page { size: A4; margin: 18mm }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 60rem; padding: 2.5rem 1.5rem; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif }
h1 { margin: 0; font-size: 1.7rem; letter-spacing: -0.01em }
h2 { margin: 2.2rem 0 0.5rem; font-size: 0.8rem; text-transform: uppercase; letter-spacing: 0.06em; color: var(--soft) }
header { display: flex; justify-content: space-between; gap: 2rem; align-items: baseline; flex-wrap: wrap }
.state { padding: 0.1rem 0.6rem; border: 1px solid var(--line); border-radius: 1rem; font-size: 0.8rem; color: var(--soft) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1.2rem; margin: 1.2rem 0 0 }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 500; font-size: 0.8rem; color: var(--soft); border-bottom: 1px solid var(--line) }
th, td { padding: 0.4rem 0.7rem 0.4rem 0; vertical-align: top } td { border-bottom: 1px solid var(--line) }
th:last-child, td:last-child { padding-right: 0 }
.number { text-align: right; white-space: nowrap } .soft { color: var(--soft) } tr { break-inside: avoid }
.sums { margin-left: auto; width: min(26rem, 100%) } .sums .whole td { font-weight: 650; font-size: 1.1rem; background: var(--tint) }
footer { margin-top: 2.5rem; color: var(--soft); font-size: 0.85rem }
@media (max-width: 40rem) { .wide { display: none } }
"""


def invoice_page(invoice: Json, market: str = "") -> str:
    """The page of an invoice (`GET /v1/invoices/{job}`, as its customer or a provider sees it).

    A provider's has no payments and no escrow. market: its name or address, shown as it is; empty: none.
    """
    final = invoice["state"] in OVER
    title = f"Invoice {invoice['job']}"
    facts = [
        ("Job", f"{invoice['name'] or ''} ({invoice['job']}), {invoice['state'] or 'unknown'}"),
        ("Number", invoice.get("number")), ("Issued", _instant(invoice["issued_at"]) if invoice.get("issued_at") else None),
        ("Customer", invoice["customer"]), ("Submitted", _instant(invoice["submitted_at"])), ("Market", market),
    ]  # fmt: skip
    parts = [
        "<!doctype html>", '<html lang="en">', f'<meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">', f"<style>{_STYLE}</style>",
        f"<header><h1>{escape(title)}</h1><span class=state>{'final' if final else 'draft: the job goes on'}</span></header>",
        "<dl>", *(f"<dt>{name}<dd>{escape(str(value))}" for name, value in facts if value), "</dl>",
        "<h2>What was used</h2>", *_table(_LINES, map(_line, invoice["lines"])),
    ]  # fmt: skip
    if invoice.get("payments"):
        parts += ["<h2>Payments</h2>", *_table(_PAYMENTS, map(_payment, invoice["payments"]))]
    if invoice.get("notes"):
        parts += ["<h2>Credit and debit notes</h2>", *_table(_NOTES, map(_note, invoice["notes"]))]
    if invoice.get("disputes"):
        parts += ["<h2>Disputes</h2>", *_table(_DISPUTES, map(_dispute, invoice["disputes"]))]
    parts += ["<h2>Sums</h2>", "<table class=sums>"]
    parts += [
        f'<tr{" class=whole" if name == "Billed" else ""}><td>{name}<td class=number>{_usd(nanos)}'
        for name, nanos in _sums(invoice)
    ]
    parts += ["</table>", f"<footer>{_FOOT}</footer>", "</html>"]
    return "\n".join(parts) + "\n"


_FOOT: Final = (
    "Amounts are in US dollars, exact to the nano-dollar. A lease pays its price for the time up to the last round, or the "
    "last moment, that it delivered; what was metered beyond that is not charged. <code>torg invoice JOB -o FILE</code> has "
    "this bill with the proof of every line, and <code>torg verify FILE</code> checks it offline."
)
_LINES: Final = (
    ("Provider", ""), ("Hardware", ""), ("What", ""), ("From", "wide"), ("Time", "number"), ("$ a GPU-hour", "number wide"),
    ("Amount", "number"),
)  # fmt: skip
_PAYMENTS: Final = (("When", ""), ("What", ""), ("Amount", "number"))
_NOTES: Final = (("Number", ""), ("When", ""), ("Lease", "wide"), ("Amount", "number"))
_DISPUTES: Final = (("Dispute", ""), ("Lease", "wide"), ("Why", ""), ("State", ""), ("In question", "number"))
_MOVES: Final = {"hold": "held for the job", "release": "given back"}


def _table(columns: Iterable[tuple[str, str]], rows: Iterable[Iterable[str]]) -> list[str]:
    columns = list(columns)
    lines = ["<table><thead><tr>", *(f'<th class="{kind}">{name}' for name, kind in columns), "</thead><tbody>"]
    for row in rows:
        lines.append("<tr>" + "".join(f'<td class="{kind}">{cell}' for cell, (_, kind) in zip(row, columns, strict=True)))
    return [*lines, "</tbody></table>"]


def _line(line: Json) -> list[str]:
    used = line["kind"] == "usage"
    what = (f"{line['rounds']:,} rounds" if line["rounds"] else "ran") if used else "metered, not charged"
    if (ended := line["end_reason"]) is not None:
        cause = BY_REASON.get(ended)
        what += f"<br><span class=soft>{escape(ended if cause is None else cause.event)}</span>"
    shown_ms = line["charged_ms"] if used else line["metered_ms"]
    return [
        escape(line["provider"]), escape(f"{line['gpus']} × {line['gpu']}"), what, _instant(line["period_start"]),
        format_duration(shown_ms), _usd(line["unit_price_nanos_per_gpu_hour"]), _usd(line["amount_nanos"]),
    ]  # fmt: skip


def _payment(payment: Json) -> list[str]:
    what = _MOVES[payment["kind"]] + (", granted credit" if payment["granted"] else "")
    return [_instant(payment["at"]), what, _usd(payment["amount_nanos"])]


def _note(note: Json) -> list[str]:
    sign = "−" if note["kind"] == "credit_note" else ""
    number = escape(note["number"])
    if note.get("granted_nanos"):
        over = f", {_usd(note['expired_nanos'])} of them expired" if note["expired_nanos"] else ""
        number += f"<br><span class=soft>{_usd(note['granted_nanos'])} to granted credits{over}</span>"
    return [number, _instant(note["at"]), escape(note["lease"]), f"{sign}{_usd(note['amount_nanos'])}"]


def _dispute(one: Json) -> list[str]:
    decided = f"<br><span class=soft>{escape(one['decision'])}</span>" if one["decision"] else ""
    return [
        escape(one["dispute"]), escape(one["lease"]), escape(one["reason"]), escape(one["state"]) + decided,
        _usd(one["amount_nanos"]),
    ]  # fmt: skip


def _sums(invoice: Json) -> list[tuple[str, int]]:
    sums = [
        ("To the providers", invoice["earnings_nanos"]), ("To the market", invoice["fee_nanos"]),
        ("Billed", invoice["billed_nanos"]),
    ]  # fmt: skip
    if invoice.get("billed_granted_nanos"):
        sums.append(("of it from granted credits", invoice["billed_granted_nanos"]))
    if invoice["refunded_nanos"]:
        sums.append(("Metered, not charged", invoice["refunded_nanos"]))
    if invoice.get("notes"):
        sums += [("Credited", invoice["credited_nanos"]), ("Debited", invoice["debited_nanos"]), ("Due", invoice["due_nanos"])]
        if invoice.get("due_granted_nanos"):
            sums.append(("of it from granted credits", invoice["due_granted_nanos"]))
    if invoice.get("escrow_nanos"):
        sums.append(("Still held", invoice["escrow_nanos"]))
    return sums


def _instant(text: str) -> str:
    """`2026-11-22T10:00:00.000Z` as `2026-11-22 10:00 UTC`."""
    return escape(f"{text[:10]} {text[11:16]} UTC")


def _usd(nanos: int) -> str:
    return f"${format_usd(nanos)}"
