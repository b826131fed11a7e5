"""Clearings made again from the journal: the same matches and prices to the bit, or what differs. Pure.

A clearing's record names all that it was made of. The state is brought to where its snapshot was taken, the snapshot is made
again and its digest compared, and it is cleared with the same algorithm, effort and price rule. Beside that: how much any
clearing could have reached (market/bound.py), and what the bills of its leases would be under the other price rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

from market.bound import bound_nanos
from market.clearing import ENGINE, WELFARE, Clearing, clear, engine_installed
from market.clearing_records import clearing_view, seats_view, unmatched_view
from market.events import Event
from market.exchange import Exchange
from market.orders import BookSnapshot, Inputs
from market.outcomes import Json, Refusal, Settings
from market.price_rules import PRICE_RULES
from storage.units import charge_nanos

Records = Callable[[], Iterable[tuple[int, list[Event]]]]
"""(at_ms, events) of every record of the journal, from the first one on, as often as it is asked for."""
_COMPARED = ("snapshot", "bids", "offers", "looks", "welfare_nanos", "forgone_nanos", "waits", "kept_for", "classes")


def replay(records: Records, number: int | None = None) -> list[Json] | Refusal:
    """Make clearing `number` again, or all of them in the order of their snapshots; a refusal for one that there is not.

    Each: {number, record, snapshot_ms, algorithm, effort, price_rule, same, differs, matches, welfare_nanos, bound_nanos,
    forgone_nanos, waits, rules}. `differs` names what did not come out the same, with both values; `replayable` is false, and `why`
    says so, for clearings of before and those of an algorithm that is not here. `rules` has for each price rule the matches
    that it would have left, the sum that their seats cost in an hour, and the bills of this clearing's leases so far.
    """
    wanted, leases = _find(records, number)
    if number is not None and not wanted:
        return Refusal("unknown_clearing", f"there is no clearing {number}", "AUCTION", "see `torg replay all`", 404)
    at: dict[int, list[Json]] = {}
    found: list[Json] = []
    for event in wanted:
        if (why := _why_not(event)) is not None:
            found.append(_head(event) | {"replayable": False, "why": why, "same": None})
        else:
            at.setdefault(event["position"], []).append(event)
    exchange = Exchange(Settings())
    for events_before, at_ms, events in _with_position(records):
        for event in at.pop(events_before, ()):
            found.append(_again(exchange, event, leases.get(event["number"], [])))
        if not at:
            break
        exchange.replay(at_ms, events)
    for left in at.values():
        found += [_head(event) | {"replayable": False, "why": "no record ends at its position", "same": False} for event in left]
    return sorted(found, key=lambda one: one["number"])


def _with_position(records: Records) -> Iterator[tuple[int, int, list[Event]]]:
    position = 0
    for at_ms, events in records():
        yield position, at_ms, events
        position += len(events)


def _find(records: Records, number: int | None) -> tuple[list[Json], dict[int, list[Json]]]:
    """The clearings that are asked for, with their numbers and records, and each one's leases as they were charged."""
    wanted: list[Json] = []
    leases: dict[str, Json] = {}
    count = 0
    for record, (at_ms, events) in enumerate(records(), 1):
        for event in events:
            if event["type"] == "clearing":
                count = event.get("number", count + 1)
                if number in (None, count):
                    wanted.append({**event, "number": count, "record": record, "at_ms": at_ms})
            elif event["type"] == "lease_granted":
                leases[event["lease"]] = {**event, "charged_ms": 0, "charged_nanos": 0}
            elif event["type"] == "lease_charged":
                lease = leases[event["lease"]]
                lease["charged_ms"] = event["to_ms"]
                lease["charged_nanos"] += event["amount_nanos"]
    by_clearing: dict[int, list[Json]] = {}
    for lease in leases.values():
        if lease.get("clearing") is not None:
            by_clearing.setdefault(lease["clearing"], []).append(lease)
    return wanted, by_clearing


def _why_not(event: Json) -> str | None:
    if event.get("position") is None:
        return "it is of a torg that did not write down what clearings are made of, or not of the market's own book"
    if event["algorithm"] not in (WELFARE, ENGINE):
        return f"it was made by {event['algorithm']}, which this torg does not have"
    if event["algorithm"] == ENGINE and not engine_installed():
        return "it was made by the compiled engine: pip install 'torg[engine]'"
    return None


def _head(event: Json) -> Json:
    names = ("number", "record", "at_ms", "snapshot_ms", "algorithm", "effort", "price_rule")
    return {name: event.get(name) for name in names}


def _again(exchange: Exchange, event: Json, leases: list[Json]) -> Json:
    jobs = event.get("jobs")
    inputs = Inputs(
        event["snapshot_ms"], event["position"], tuple(event["suspect"]), event["snapshot"], None if jobs is None else tuple(jobs)
    )
    snapshot = exchange.snapshot_again(inputs, event["price_rule"])
    made = clear(snapshot, event["effort"], event["algorithm"])
    differs = _differs(event, made)
    assert snapshot.book is not None
    return _head(event) | {
        "replayable": True,
        "same": not differs,
        "differs": differs,
        "matches": [row for match in made.matches for row in seats_view(match)],
        "stale": event["stale"],
        "classes": [asdict(one) for one in made.classes],
        "bids": made.bids,
        "offers": made.offers,
        "looks": made.looks,
        "welfare_nanos": made.welfare_nanos,
        "bound_nanos": bound_nanos(snapshot.book, snapshot.bids),
        "forgone_nanos": made.forgone_nanos,
        "waits": made.waits,
        "rules": {rule: _under(snapshot, event, rule, leases) for rule in PRICE_RULES},
    }


def _differs(event: Json, made: Clearing) -> dict[str, Any]:
    again = clearing_view(event["number"], made)
    found = {
        name: {"recorded": event[name], "again": again[name]}
        for name in _COMPARED
        if name in event and event[name] != again[name]  # markets of before wrote no waits
    }
    recorded = sorted(event["matched"] + event["stale"], key=_place)
    matches = sorted((row for match in made.matches for row in seats_view(match)), key=_place)
    if recorded != matches:
        found["matches"] = {"recorded": recorded, "again": matches}
    told = {one.job: unmatched_view(one) for one in made.unmatched}
    strange = [one for one in event["unmatched"] if told.get(one["job"]) != one]
    if strange:
        found["unmatched"] = {"recorded": strange, "again": [told.get(one["job"]) for one in strange]}
    return found


def _place(row: Json) -> tuple[str, str]:
    return row["job"], row["offer"]


def _under(snapshot: BookSnapshot, event: Json, rule: str, leases: list[Json]) -> Json:
    """The same seats by another price rule."""
    made = clear(replace(snapshot, price_rule=rule), event["effort"], event["algorithm"], reasons=False)
    rows = [row for match in made.matches for row in seats_view(match)]
    price = {_place(row): row["price_nanos_per_gpu_hour"] for row in rows}
    bills: dict[str, int] = {}
    for lease in leases:
        at = price.get(_place(lease))
        nanos = 0 if at is None else charge_nanos(at, lease["gpus"], lease["charged_ms"])
        bills[lease["job"]] = bills.get(lease["job"], 0) + nanos
    return {
        "matches": len(made.matches),
        "nanos_per_hour": sum(row["price_nanos_per_gpu_hour"] * row["gpus"] for row in rows),
        "welfare_nanos": made.welfare_nanos,
        "bills_nanos": dict(sorted(bills.items())),
    }


def last_number(records: Records) -> int:
    """The number of the newest clearing; 0 where there is none."""
    found, _ = _find(records, None)
    return int(found[-1]["number"]) if found else 0
