"""A tenant's own SQL: one read-only statement over a small database that holds only the tenant's rows.

The rows are copied into a DuckDB in memory that can reach no file, no network and no Python variable, with its
configuration locked; limits on time, rows, bytes and memory. Tables:

- `jobs` (job, customer, name, submitted_at, state, reason, rounds_committed, budget_nanos, billed_nanos, fee_nanos,
  escrow_nanos, spec, tags); a provider sees the jobs it worked for without their money, spec and tags
- `estimates` (what a job was expected to take and cost, and what it did: job, at, customer, basis, runs, gpu, workers,
  low_ms, middle_ms, high_ms, low_nanos, middle_nanos, high_nanos, widened, claimed, took_ms, cost_nanos, within_time,
  within_cost); a provider sees none
- `leases` (lease, slot, job, customer, offer, provider, gpu, gpus, price_nanos_per_gpu_hour, granted_at, ended_at,
  end_reason, fault, metered_ms, charged_ms, trained_ms, rounds, tokens, charged_nanos, fee_nanos, refunded_nanos)
- `rounds` (one row per round and member: job, round, step, at, duration_ms, lease, customer, provider, slot, loss, steps,
  tokens, leased_ms, trained_ms, bytes, held_out_loss)
- `metrics` (the workload's own figures of held-out data: job, round, step, at, customer, name, value); a provider sees
  none
- `attempts` (tries of a batch job's command that ended by themselves: job, number, at, lease, customer, provider, kind,
  code, signal, duration_ms)
- `billing` (every reading, charge and refund: at, day, job, customer, provider, lease, gpu, gpu_ms, trained_ms, rounds,
  charged_nanos, fee_nanos, refunded_nanos)
- `transfers` (id, at, kind, debit, credit, amount_nanos, job, lease)
"""

import datetime
import decimal
import math
import threading
from dataclasses import dataclass
from typing import Any

import duckdb

from storage.tenants import QueryRefused, Tenant

TENANT_TABLES = ("jobs", "estimates", "leases", "rounds", "metrics", "attempts", "billing", "transfers")
HIDDEN_FROM_PROVIDERS = ("budget_nanos", "billed_nanos", "fee_nanos", "escrow_nanos", "spec", "tags")
# In this order: once external access is off, the other settings that touch files cannot be changed any more.
_SAFE = (
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET threads = 1",
    "SET temp_directory = ''",
    "SET enable_external_access = false",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one statement may use."""

    time_s: float = 5.0
    rows: int = 10_000
    answer_bytes: int = 8 * 1024 * 1024
    memory_mb: int = 256
    statement_chars: int = 20_000


def tenant_sql(
    connection: duckdb.DuckDBPyConnection, tenant: Tenant, statement: str, limits: Limits | None = None
) -> dict[str, Any] | QueryRefused:
    """{columns: [names], rows: [[…]…], truncated: bool} of one SELECT, or why it is refused.

    `connection` is a cursor of the books, only read from. Values come as JSON has them: times as ISO text,
    decimals and very large integers as text. More rows than the limit are cut, and `truncated` says so.
    """
    allowed = limits or Limits()
    if len(statement) > allowed.statement_chars:
        return QueryRefused("sql_too_long", f"the statement has more than {allowed.statement_chars} characters", "sql")
    with duckdb.connect(":memory:") as own:
        for setting in (*_SAFE, f"SET memory_limit = '{allowed.memory_mb}MB'"):
            own.execute(setting)
        refusal = _refuse_statement(own, statement)
        if refusal is not None:
            return refusal
        _copy_rows(connection, own, tenant)
        own.execute("SET lock_configuration = true")
        return _run(own, statement, allowed)


def _refuse_statement(own: duckdb.DuckDBPyConnection, statement: str) -> QueryRefused | None:
    remedy = f"send one SELECT over the tables {', '.join(TENANT_TABLES)}"
    try:
        parsed = own.extract_statements(statement)
    except duckdb.Error as error:
        return QueryRefused("sql_not_understood", _first_line(error), "sql", remedy)
    if len(parsed) != 1:
        return QueryRefused("sql_not_one_statement", f"that is {len(parsed)} statements, not one", "sql", remedy)
    if parsed[0].type != duckdb.StatementType.SELECT:
        name = str(parsed[0].type).rsplit(".", 1)[-1]
        return QueryRefused("sql_not_a_select", f"only SELECT is allowed, and that is {name}", "sql", remedy)
    return None


def _copy_rows(books: duckdb.DuckDBPyConnection, own: duckdb.DuckDBPyConnection, tenant: Tenant) -> None:
    """Copy the tenant's rows, all as of one moment."""
    books.execute("BEGIN")
    try:
        for name, (columns, condition, parameters) in _rows(tenant).items():
            query = f"SELECT {columns} FROM tenant_{name} WHERE {condition}"
            own.register("incoming", books.sql(query, params=parameters).to_arrow_table())
            own.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")
            own.unregister("incoming")
    finally:
        books.execute("ROLLBACK")


def _rows(tenant: Tenant) -> dict[str, tuple[str, str, list[Any]]]:
    """table: (columns, condition, parameters) over the views `tenant_*`."""
    seen, who = tenant.may_see()
    rows: dict[str, tuple[str, str, list[Any]]] = dict.fromkeys(TENANT_TABLES, ("*", seen, who))
    if tenant.role not in ("customer", "provider"):
        return rows
    accounts = [f"wallet:{tenant.member}", f"earnings:{tenant.member}"]
    touches = "debit IN (?, ?) OR credit IN (?, ?)"
    if tenant.role == "customer":
        own = "(SELECT 'escrow:' || job FROM jobs WHERE customer = ?)"
        of_escrow = f"debit IN {own} OR credit IN {own}"
        rows["transfers"] = ("*", f"{touches} OR {of_escrow}", [*accounts, *accounts, *[tenant.member] * 2])
    else:
        customer = "(SELECT 'wallet:' || customer FROM jobs WHERE jobs.job = tenant_transfers.job)"
        shown = f"* REPLACE (CASE WHEN credit LIKE 'credit:%' THEN {customer} ELSE credit END AS credit)"
        rows["transfers"] = (shown, touches, [*accounts, *accounts])
        rows["metrics"] = rows["estimates"] = ("*", "false", [])
        hidden = ", ".join(f"NULL AS {name}" for name in HIDDEN_FROM_PROVIDERS)
        rows["jobs"] = (f"* REPLACE ({hidden})", "job IN (SELECT job FROM leases WHERE provider = ?)", who)
    return rows


def _run(own: duckdb.DuckDBPyConnection, statement: str, limits: Limits) -> dict[str, Any] | QueryRefused:
    timer = threading.Timer(limits.time_s, own.interrupt)
    timer.daemon = True
    timer.start()
    try:
        result = own.execute(statement)
        columns = [column[0] for column in result.description or ()]
        found = result.fetchmany(limits.rows + 1)
    except duckdb.InterruptException:
        return QueryRefused(
            "sql_too_slow", f"the statement ran longer than {limits.time_s:g} s", "sql", "ask for fewer rows"
        )
    except duckdb.OutOfMemoryException:
        return QueryRefused(
            "sql_too_large", f"the statement needs more than {limits.memory_mb} MB", "sql", "ask for fewer rows"
        )
    except duckdb.PermissionException:
        return QueryRefused("sql_reaches_out", "the statement reaches outside your own books", "sql")
    except duckdb.Error as error:
        return QueryRefused("sql_not_understood", _first_line(error), "sql")
    finally:
        timer.cancel()
    rows: list[list[Any]] = []
    size = 0
    for row in found[: limits.rows]:
        plain = [_plain(value) for value in row]
        size += sum(len(value) if isinstance(value, str) else 16 for value in plain)
        if size > limits.answer_bytes:
            return QueryRefused(
                "sql_too_large", f"the answer is above {limits.answer_bytes} bytes", "sql", "ask for fewer rows"
            )
        rows.append(plain)
    return {"columns": columns, "rows": rows, "truncated": len(found) > limits.rows}


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="milliseconds") + ("Z" if value.tzinfo is None else "")
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    return str(value)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
