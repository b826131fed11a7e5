"""The tables of the books: which events become which rows. Append-only; every row names its journal record.

Every table starts with `record` (number of the journal record), `ordinal` (place of the event in it) and `at_ms`.
Lists and objects are kept as canonical JSON text. An event type that has no table goes to `other_events` whole.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from storage.canonical import canonical_bytes
from storage.formats import newer_record
from storage.journal_format import JournalNewer
from storage.records import decode_record, spread

Row = tuple[Any, ...]
Event = Mapping[str, Any]
HEAD = (("record", "BIGINT"), ("ordinal", "INTEGER"), ("at_ms", "BIGINT"))
JSON_SUFFIX = "_json"


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its columns after HEAD as (name, DuckDB type), and which event type fills it, if exactly one.

    A column takes the event's field of the same name; one ending in `_json` takes the field without the suffix.
    """

    name: str
    columns: tuple[tuple[str, str], ...]

    @property
    def all_columns(self) -> tuple[tuple[str, str], ...]:
        """HEAD and the columns."""
        return HEAD + self.columns

    @property
    def ddl(self) -> str:
        """CREATE TABLE without constraints: no keys, no indexes, nothing to corrupt."""
        columns = ", ".join(f'"{name}" {kind}' for name, kind in self.all_columns)  # some are SQL's own words
        return f"CREATE TABLE {self.name} ({columns})"

    def row(self, head: Row, event: Event) -> Row:
        """The row of one event; a field that is missing is NULL."""
        return head + tuple(_value(event, name) for name, _ in self.columns)


def _value(event: Event, column: str) -> Any:
    if column.endswith(JSON_SUFFIX):
        value = event.get(column.removesuffix(JSON_SUFFIX))
        return None if value is None else canonical_bytes(value).decode("utf-8")
    return event.get(column)


def _table(name: str, columns: str) -> Table:
    """Columns as `name TYPE, name TYPE`; a name without a type is text."""
    pairs = (column.split() for column in columns.split(","))
    return Table(name, tuple((pair[0], pair[1] if len(pair) > 1 else "VARCHAR") for pair in pairs))


_LEASE_READING = "leased_ms BIGINT, trained_ms BIGINT, rounds BIGINT, tokens BIGINT, bytes BIGINT"
TABLES = {
    table.name: table
    for table in (
        _table("members", "member, role, revoked BOOLEAN"),
        _table("transfers", "id, kind, debit, credit, amount_nanos BIGINT, job, lease"),
        _table("refused_transfers", "id, kind, debit, credit, amount_nanos BIGINT, job, lease, status"),
        _table("corrections", "id, transfer, amount_nanos BIGINT, reason, made_by"),
        _table("periods", "number BIGINT, from_ms BIGINT, through_ms BIGINT, transfers BIGINT, closed_by"),
        _table("period_balances", "number BIGINT, account, balance_nanos BIGINT"),
        _table(
            "offers",
            "offer, provider, name, gpu, gpus BIGINT, vram_gib DOUBLE, region, price_nanos_per_gpu_hour BIGINT,"
            "floor_price_nanos_per_gpu_hour BIGINT, isolation, measured_json, shares_json, node, versions_json",
        ),
        _table("offer_changes", "offer, state, price_nanos_per_gpu_hour BIGINT, reason"),
        _table("jobs", "job, customer, name, spec_json, budget_nanos BIGINT, spec_digest, tags_json"),
        _table(
            "estimates",
            "job, basis, runs BIGINT, gpu, workers BIGINT, low_ms BIGINT, middle_ms BIGINT, high_ms BIGINT,"
            "low_nanos BIGINT, middle_nanos BIGINT, high_nanos BIGINT, half DOUBLE, widened DOUBLE, claimed DOUBLE",
        ),
        _table("job_states", "job, state, reason, detail"),
        _table("job_budgets", "job, added_nanos BIGINT, budget_nanos BIGINT"),
        _table("job_results", "job, manifest"),
        _table(
            "leases",
            "lease, epoch BIGINT, slot BIGINT, job, customer, offer, provider, gpu, gpus BIGINT,"
            "price_nanos_per_gpu_hour BIGINT, replaces, region, ask_nanos_per_gpu_hour BIGINT, clearing BIGINT, price_rule",
        ),
        _table(
            "clearings",
            "number BIGINT, snapshot_ms BIGINT, bids BIGINT, offers BIGINT, algorithm, effort BIGINT, looks BIGINT, price_rule,"
            "welfare_nanos BIGINT, forgone_nanos BIGINT",
        ),
        _table(
            "clearing_waits",
            "number BIGINT, of, name, served BIGINT, served_p50_ms BIGINT, served_p99_ms BIGINT, waiting BIGINT,"
            "waiting_p50_ms BIGINT, waiting_p99_ms BIGINT",
        ),
        _table(
            "class_trades",
            "number BIGINT, gpu, region, price_nanos_per_gpu_hour BIGINT, gpus BIGINT, low_nanos BIGINT, high_nanos BIGINT",
        ),
        _table("lease_starts", "lease, epoch BIGINT, worker, pid BIGINT, node"),
        _table("lease_meters", f"lease, epoch BIGINT, job, {_LEASE_READING}, claimed_ms BIGINT"),
        _table("meter_signatures", f"lease, epoch BIGINT, job, {_LEASE_READING}, run_ms BIGINT, signature"),
        _table(
            "lease_charges",
            "lease, epoch BIGINT, job, from_ms BIGINT, to_ms BIGINT, amount_nanos BIGINT, fee_nanos BIGINT, round BIGINT",
        ),
        _table(
            "lease_ends",
            "lease, epoch BIGINT, job, reason, fault, metered_ms BIGINT, charged_ms BIGINT, detail",
        ),
        _table(
            "dispute_openings",
            "dispute, job, lease, by, about, reason, amount_nanos BIGINT, fee_nanos BIGINT, held_nanos BIGINT, until_ms BIGINT",
        ),
        _table("dispute_closings", "dispute, job, state, amount_nanos BIGINT, reason, by"),
        _table("tunings", "job, tuning BIGINT, id, strategy_json, after_round BIGINT"),
        _table(
            "rounds",
            "job, round BIGINT, step BIGINT, digest, reason, duration_ms BIGINT, strategy, tuning BIGINT,"
            "attempts BIGINT, late_json, warned_json",
        ),
        _table(
            "round_members",
            "job, round BIGINT, step BIGINT, lease, epoch BIGINT, slot BIGINT, provider, loss DOUBLE, steps BIGINT,"
            "tokens BIGINT, leased_ms BIGINT, trained_ms BIGINT, bytes BIGINT, contribution, sent_bytes BIGINT,"
            "received_bytes BIGINT, stall_ms BIGINT",
        ),
        _table("round_signatures", "job, round BIGINT, signed_json"),
        _table("round_losses", "job, round BIGINT, lease, epoch BIGINT, reason"),
        _table("evaluations", "job, round BIGINT, loss DOUBLE"),
        _table("evaluation_metrics", "job, round BIGINT, name, value DOUBLE"),
        _table(
            "checkpoints",
            "job, round BIGINT, step BIGINT, manifest, bytes BIGINT, stall_ms BIGINT, removed_json, kind,"
            "base_round BIGINT",
        ),
        _table(
            "attempts",
            "job, number BIGINT, lease, epoch BIGINT, kind, code BIGINT, signal BIGINT, duration_ms BIGINT, detail, manifest",
        ),
        _table("statements", "job, segment BIGINT, digest, statement_json"),
        _table("unmatched", "job, reason, detail"),
        _table("other_events", "type, body"),
    )
}

# event types that are one row of one table
_PLAIN = {
    "transfer": "transfers", "transfer_refused": "refused_transfers", "offer_placed": "offers", "offer_changed": "offer_changes", "job_submitted": "jobs", "job_estimated": "estimates",
    "job_state": "job_states", "job_budget": "job_budgets", "job_retuned": "tunings", "job_result": "job_results", "lease_granted": "leases",
    "lease_started": "lease_starts", "lease_metered": "lease_meters", "meter_signed": "meter_signatures",
    "dispute_opened": "dispute_openings", "dispute_closed": "dispute_closings", "lease_charged": "lease_charges",
    "lease_ended": "lease_ends", "checkpoint_durable": "checkpoints",
    "attempt_ended": "attempts", "round_signed": "round_signatures", "provenance": "statements",
}  # fmt: skip


def _member(event: Event) -> Iterator[tuple[str, Event]]:
    yield "members", {**event, "revoked": event["type"] == "member_revoked"}


def _round(event: Event) -> Iterator[tuple[str, Event]]:
    yield "rounds", event
    for member in event.get("members") or ():
        yield "round_members", {**member, "job": event["job"], "round": event["round"], "step": event["step"]}
    for lost in event.get("lost") or ():
        yield "round_losses", {**lost, "job": event["job"], "round": event["round"]}


def _evaluated(event: Event) -> Iterator[tuple[str, Event]]:
    yield "evaluations", event
    for name, value in sorted((event.get("metrics") or {}).items()):
        yield "evaluation_metrics", {"job": event["job"], "round": event["round"], "name": name, "value": value}


def _clearing(event: Event) -> Iterator[tuple[str, Event]]:
    if event.get("number") is not None:  # journals of before tell no more than who got something
        yield "clearings", event
    for row in _waits(event.get("waits") or {}):
        yield "clearing_waits", {**row, "number": event["number"]}
    for traded in event.get("classes") or ():
        yield "class_trades", {**traded, "number": event["number"]}
    for unmatched in event.get("unmatched") or ():
        yield "unmatched", unmatched


def _waits(waits: Event) -> Iterator[Event]:
    """A row of everybody, of each size of gangs and of each team."""
    groups = {"all": {"": waits["all"]}, "gang": waits["by_gang"], "team": waits["by_team"]} if waits else {}
    for of, by_name in groups.items():
        for name, one in by_name.items():
            told: dict[str, Any] = {"of": of, "name": name}
            for which in ("served", "waiting"):
                told |= {which: one[which]["count"]} | {f"{which}_{key}": one[which][key] for key in ("p50_ms", "p99_ms")}
            yield told


def _corrected(event: Event) -> Iterator[tuple[str, Event]]:
    yield "corrections", {**event, "made_by": event["by"]}


def _period(event: Event) -> Iterator[tuple[str, Event]]:
    yield "periods", {**event, "closed_by": event["by"]}
    for account, nanos in sorted(event["balances"].items()):
        yield "period_balances", {"number": event["number"], "account": account, "balance_nanos": nanos}


_MANY: dict[str, Callable[[Event], Iterator[tuple[str, Event]]]] = {
    "member_added": _member,
    "member_revoked": _member,
    "member_role": _member,
    "round_committed": _round,
    "round_evaluated": _evaluated,
    "clearing": _clearing,
    "transfer_corrected": _corrected,
    "period_closed": _period,
}


def content_of(record: int, payload: bytes) -> dict[str, Any]:
    """What a journal record says, a batch of transfers as one event; raises NotCanonical for a payload that is not ours,
    JournalNewer for a newer torg's."""
    content = decode_record(payload)
    if (newer := newer_record(record, content)) is not None:
        raise JournalNewer(newer)
    return content


def rows_of(record: int, payload: bytes) -> Iterator[tuple[str, Row]]:
    """The rows (table, values) of one journal record, whatever it is; raises what `content_of` raises."""
    content = content_of(record, payload)
    return rows_of_events(record, content["at_ms"], spread(content["events"]))


def rows_of_events(record: int, at_ms: int, events: Iterable[Event]) -> Iterator[tuple[str, Row]]:
    """The rows of events, each of its own."""
    for ordinal, event in enumerate(events):
        head = (record, ordinal, at_ms)
        for name, fields in _targets(event):
            yield name, TABLES[name].row(head, fields)


def _targets(event: Event) -> Iterable[tuple[str, Event]]:
    kind = event["type"]
    if kind in _PLAIN:
        return ((_PLAIN[kind], event),)
    if kind in _MANY:
        return _MANY[kind](event)
    body = canonical_bytes({name: value for name, value in event.items() if name != "type"}).decode("utf-8")
    return (("other_events", {"type": kind, "body": body}),)
