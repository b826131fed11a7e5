"""Bills from the books: billing lines in any grouping, and the invoice of a job. Money is int nano-dollars.

`charged_nanos` and `billed_nanos` include the fee (billed = providers' earnings + fee). `refunded_nanos` is what
was metered and never charged, of leases that have ended; `granted_nanos` what of `charged_nanos` was paid with granted
credits. What disputes and corrections gave back of charges is `credited_nanos`, `credited_granted_nanos` of it to granted
credits; what they gave to a provider beside its charges is `debited_nanos`. `gpu_ms` is metered time times GPUs, charged or not.
"""

from collections.abc import Sequence
from typing import Any

import duckdb

from storage.bills import lease_lines, price_rules, totals_of_lines
from storage.invoice_notes import disputes_of, granted_of, notes_of, standing, sums_of, without_grants
from storage.projection import fetch
from storage.tenants import QueryRefused, Tenant
from storage.units import MS_PER_DAY, MS_PER_HOUR, format_instant

Line = dict[str, Any]
DEFAULT_BY = ("job", "provider", "gpu")
KEYS = {
    "job": "job",
    "provider": "provider",
    "gpu": "gpu",
    "day": f"at_ms // {MS_PER_DAY} * {MS_PER_DAY}",
    "hour": f"at_ms // {MS_PER_HOUR} * {MS_PER_HOUR}",
    "tag": "tags_json",
}


def billing(
    connection: duckdb.DuckDBPyConnection,
    tenant: Tenant,
    *,
    by: Sequence[str] = DEFAULT_BY,
    since_ms: int | None = None,
    until_ms: int | None = None,
    job: str | None = None,
) -> list[Line] | QueryRefused:
    """Billing lines, one per group of `by`: any of job, provider, gpu, day, hour, tag, or tag:NAME for one tag.

    A line has the fields of DESIGN.md; a key that is not in `by` is None, `day` and `tag` are added. A reading
    or charge counts at the time of its record: `since_ms` inclusive, `until_ms` exclusive. The unit price is
    exact where the group has one price, else the mean weighted by GPU time, rounded down. Lines are ordered by key.
    """
    refusal = _refuse_by(by)
    if refusal is not None:
        return refusal
    keys: dict[str, str] = {}
    parameters: list[Any] = []
    for name in dict.fromkeys(by):
        if name.startswith("tag:"):
            keys["tag"] = "json_extract_string(tags_json, ?)"
            parameters.append(f'$."{name.removeprefix("tag:")}"')
        else:
            keys[name] = KEYS[name]
    condition, seen = tenant.may_see()
    parameters += seen
    for clause, value in (("at_ms >= ?", since_ms), ("at_ms < ?", until_ms), ("job = ?", job)):
        if value is not None:
            condition += f" AND {clause}"
            parameters.append(value)
    selected = "".join(f"{expression} AS key_{name}, " for name, expression in keys.items())
    # how it was paid is the customer's own affair
    granted, returned = ("0", "0") if tenant.role == "provider" else ("granted_nanos", "credited_granted_nanos")
    query = f"""
        WITH keyed AS (
          SELECT {selected} from_ms, at_ms, gpu_ms, trained_ms, rounds, charged_nanos, refunded_nanos,
            price_nanos_per_gpu_hour AS price, {granted} AS granted_nanos, credited_nanos, debited_nanos,
            {returned} AS credited_granted_nanos
          FROM billing_facts WHERE {condition})
        SELECT {"".join(f"key_{name}, " for name in keys)} min(from_ms) AS from_ms, max(at_ms) AS to_ms,
          sum(gpu_ms)::BIGINT AS gpu_ms, sum(trained_ms)::BIGINT AS trained_ms, sum(rounds)::BIGINT AS rounds,
          CASE WHEN min(price) = max(price) OR sum(gpu_ms) = 0 THEN max(price)
            ELSE (sum(price::HUGEINT * gpu_ms) // sum(gpu_ms)) END::BIGINT AS price,
          sum(charged_nanos)::BIGINT AS charged_nanos, sum(refunded_nanos)::BIGINT AS refunded_nanos,
          sum(granted_nanos)::BIGINT AS granted_nanos, sum(credited_nanos)::BIGINT AS credited_nanos,
          sum(credited_granted_nanos)::BIGINT AS credited_granted_nanos, sum(debited_nanos)::BIGINT AS debited_nanos
        FROM keyed {"GROUP BY " + ", ".join(f"key_{name}" for name in keys) if keys else ""}
        HAVING sum(gpu_ms) <> 0 OR sum(charged_nanos) <> 0 OR sum(refunded_nanos) <> 0
          OR sum(credited_nanos) <> 0 OR sum(debited_nanos) <> 0
        {"ORDER BY " + ", ".join(f"key_{name}" for name in keys) if keys else ""}"""
    return [_line(row) for row in fetch(connection, query, parameters)]


def _refuse_by(by: Sequence[str]) -> QueryRefused | None:
    tags = 0
    for name in dict.fromkeys(by):
        tags += name == "tag" or name.startswith("tag:")
        known = name in KEYS or (name.startswith("tag:") and len(name) > 4 and '"' not in name)
        if not known or tags > 1:
            return QueryRefused(
                "by_unknown",
                f"bills cannot be grouped by {name!r}" if not known else "bills can be grouped by one tag at a time",
                "by",
                f"use any of {', '.join(KEYS)}, or tag:NAME",
            )
    return None


def _line(row: dict[str, Any]) -> Line:
    day, hour = row.get("key_day"), row.get("key_hour")
    return {
        "job": row.get("key_job"),
        "provider": row.get("key_provider"),
        "gpu": row.get("key_gpu"),
        "day": None if day is None else format_instant(day)[:10],
        **({} if hour is None else {"hour": format_instant(hour)[:13] + ":00Z"}),
        "tag": row.get("key_tag"),
        "period_start": format_instant(row["from_ms"]),
        "period_end": format_instant(row["to_ms"]),
        "gpu_ms": row["gpu_ms"],
        "trained_ms": row["trained_ms"],
        "rounds": row["rounds"],
        "unit_price_nanos_per_gpu_hour": row["price"],
        "charged_nanos": row["charged_nanos"],
        "refunded_nanos": row["refunded_nanos"],
        **{name: row[name] for name in ("granted_nanos", "credited_nanos", "credited_granted_nanos", "debited_nanos")},
    }


def invoice(connection: duckdb.DuckDBPyConnection, tenant: Tenant, job: str) -> Line | QueryRefused:
    """The invoice of a job: a `usage` line per lease, a `not_charged` line where metered time was not charged
    (amount 0), totals, and the payments into and out of its escrow. A provider sees only its own leases' lines.
    """
    found = list(fetch(connection, "SELECT * FROM job_lines WHERE job = ?", [job]))
    condition, parameters = tenant.may_see()
    query = f"SELECT * FROM lease_lines WHERE job = ? AND {condition} ORDER BY slot, epoch"
    leases = list(fetch(connection, query, [job, *parameters]))
    owns = bool(found) and (tenant.role == "operator" or found[0]["customer"] == tenant.member)
    if not found or not (owns or leases):
        return QueryRefused("job_unknown", f"there is no job {job} among yours", "job", "see your jobs: torg jobs")
    lines = [line for lease in leases for line in lease_lines(lease)]
    totals, head = totals_of_lines(lines), found[0]
    answer: Line = {"job": job, "name": head["name"], "customer": head["customer"], "state": head["state"]}
    answer |= standing(job, head["state"], head["state_at_ms"])
    answer |= {"submitted_at": format_instant(head["submitted_at_ms"]), "lines": lines, **totals}
    answer |= price_rules(leases)
    moved = list(fetch(connection, "SELECT * FROM transfers WHERE job = ? ORDER BY record, ordinal", [job]))
    answer |= _afterwards(connection, job, moved, totals["billed_nanos"], None if owns else {lease["lease"] for lease in leases})
    if not owns:
        return answer
    payments = fetch(
        connection,
        "SELECT id, at_ms, kind, amount_nanos, debit LIKE 'credit:%' OR credit LIKE 'credit:%' AS granted "
        "FROM transfers WHERE job = ? AND kind IN ('hold', 'release') "
        "ORDER BY record, ordinal",
        [job],
    )
    answer["payments"] = [{**payment, "at": format_instant(payment["at_ms"])} for payment in payments]
    granted = sum(one["amount_nanos"] for one in answer["payments"] if one["granted"] and one["kind"] == "hold")
    answer["billed_granted_nanos"] = min(granted, totals["billed_nanos"])
    answer["due_granted_nanos"] = min(granted_of(moved), answer["due_nanos"])
    answer["estimate"] = _estimate(connection, job)
    return answer | {name: head[name] for name in ("held_nanos", "released_nanos", "escrow_nanos")}


def _afterwards(
    connection: duckdb.DuckDBPyConnection, job: str, moved: list[Line], billed_nanos: int, leases: set[str] | None
) -> Line:
    """Disputes and notes, of these leases or of all."""
    opened, closed = (
        list(fetch(connection, f"SELECT * FROM {table} WHERE job = ? ORDER BY record, ordinal", [job]))
        for table in ("dispute_openings", "dispute_closings")
    )
    if leases is None:
        notes = notes_of(moved)
    else:
        moved, opened = ([one for one in found if one["lease"] in leases] for found in (moved, opened))
        notes = without_grants(notes_of(moved))
    return {"notes": notes, "disputes": disputes_of(opened, closed), **sums_of(billed_nanos, notes)}


def _estimate(connection: duckdb.DuckDBPyConnection, job: str) -> Line | None:
    """What was expected of the job, with `outcome` once it is done; None where nothing was."""
    found = list(fetch(connection, "SELECT * EXCLUDE (job, at_ms, customer) FROM estimate_lines WHERE job = ?", [job]))
    if not found:
        return None
    names = ("took_ms", "cost_nanos", "within_time", "within_cost")
    outcome = {name: found[0].pop(name) for name in names}
    return {**found[0], "outcome": None if outcome["took_ms"] is None else outcome}
