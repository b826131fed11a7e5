"""Questions about the past of many transfers: torg's books beside SQLite and PostgreSQL with the same rows, in one run.

    python -m benchmarks.queries [--transfers 5000000] [--seed 1] [--folder DIR] [--json]

A year of transfers is written as a journal (benchmarks/query_rows.py), and torg's own projection makes the books of it. The
others get the rows of the books, with indexes on (debit, time), (credit, time) and job, and ANALYZE. Three questions, each
answered alike by all (or this ends): a customer's month, every balance as of a date, what each job was charged. Figures are
medians of wall-clock milliseconds with warm caches; `torg_…_cpu_ms` is processor time, for machines that are shared.
"""

from __future__ import annotations

import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import duckdb

from benchmarks.ledger_baselines import Connection, postgresql_programs, postgresql_server
from benchmarks.query_rows import BEGAN_MS, CUSTOMERS, MONTH_MS, write_year
from benchmarks.report import Target, finish, parser, say
from storage.projection import Projection, is_balanced

Rows = list[tuple[Any, ...]]
Ask = Callable[[str, tuple[Any, ...]], Rows]

MONTHS: Final = 15
RUNS: Final = 3
COLUMNS: Final = "at_ms, id, kind, debit, credit, amount_nanos, job"
_DDL: Final = "CREATE TABLE transfers (at_ms BIGINT, id TEXT, kind TEXT, debit TEXT, credit TEXT, amount_nanos BIGINT, job TEXT)"
_INDEXES: Final = (
    "CREATE INDEX by_debit ON transfers (debit, at_ms)", "CREATE INDEX by_credit ON transfers (credit, at_ms)",
    "CREATE INDEX by_job ON transfers (job)", "ANALYZE",
)  # fmt: skip
_SIDES: Final = (
    "(SELECT id, at_ms, kind, debit AS account, -amount_nanos AS amount_nanos, job FROM transfers"
    " UNION ALL SELECT id, at_ms, kind, credit, amount_nanos, job FROM transfers) sides"
)
QUESTIONS: Final = {
    "month": "SELECT at_ms, id, kind, amount_nanos, job FROM {entries} WHERE account = $1 AND at_ms >= $2 AND at_ms < $3 ORDER BY at_ms, id",
    "balances": "SELECT account, CAST(sum(amount_nanos) AS BIGINT) FROM {entries} WHERE at_ms < $1 GROUP BY account",
    "billing": "SELECT job, CAST(sum(amount_nanos) AS BIGINT) FROM transfers WHERE kind IN ('charge', 'fee') GROUP BY job",
}


def main() -> int:
    """See the module."""
    arguments = parser(__doc__)
    arguments.add_argument("--transfers", type=int, default=5_000_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--folder", type=Path, help="on the disk that is measured (default: where temporary files go)")
    chosen = arguments.parse_args()
    figures: dict[str, float] = {"transfers": chosen.transfers}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name, ExitStack() as stack:
        folder = Path(name)
        figures["journal_bytes_per_transfer"] = write_year(folder / "journal", chosen.transfers, chosen.seed) / chosen.transfers
        say(chosen.json, f"the journal is written: {figures['journal_bytes_per_transfer']:.0f} bytes a transfer")
        began, cpu = time.perf_counter(), time.process_time()
        books = stack.enter_context(Projection.open(folder / "journal", folder / "books.duckdb"))
        books.catch_up()
        figures["projection_s"], figures["projection_cpu_s"] = time.perf_counter() - began, time.process_time() - cpu
        say(chosen.json, f"the books are made in {figures['projection_s']:.1f} s")
        with books.cursor() as cursor:
            assert is_balanced(cursor), "a balance is below zero"
            systems: dict[str, Ask] = {"torg": lambda query, values: cursor.execute(query, list(values)).fetchall()}
            systems["sqlite"] = _sqlite(folder / "sqlite.db", cursor)
            if postgresql_programs() is not None:
                systems["postgresql"] = _postgresql(folder / "postgresql", cursor, stack)
            for question in QUESTIONS:
                figures |= _measure(question, systems)
                said = ", ".join(f"{one} {figures[f'{one}_{question}_ms']:,.1f} ms" for one in systems)
                say(chosen.json, f"{question}: {said}")
    return finish(figures, _targets(figures), chosen.json)


def _targets(figures: dict[str, float]) -> dict[str, Target]:
    found = {"torg_month_ms": Target(figures["torg_month_ms"], 5.0)}
    if "postgresql_balances_ms" in figures:
        found["balances_ratio_to_postgresql"] = Target(figures["balances_ratio_to_postgresql"], 1 / 3)
    return found


def _measure(question: str, systems: dict[str, Ask]) -> dict[str, float]:
    """Medians of all systems in turn; every answer is compared with torg's."""
    takes: dict[str, list[float]] = {name: [] for name in systems}
    cpu: list[float] = []
    asked = _values(question)
    told = 0
    for turn, values in enumerate([asked[0], *asked]):
        answers: dict[str, Rows] = {}
        for name, ask in systems.items():
            entries = "entries" if name == "torg" else _SIDES
            query = QUESTIONS[question].format(entries=entries)
            began, began_cpu = time.perf_counter(), time.process_time()
            answers[name] = ask(query, values)
            if turn:  # the first one warms the caches
                takes[name].append((time.perf_counter() - began) * 1000)
                if name == "torg":
                    cpu.append((time.process_time() - began_cpu) * 1000)
        told += len(answers["torg"])
        for name, rows in answers.items():
            assert sorted(rows, key=str) == sorted(answers["torg"], key=str), f"{name} answers {question} otherwise"
    assert told, f"nothing to be told of {question}"
    found = {f"{name}_{question}_ms": statistics.median(one) for name, one in takes.items()}
    ratios = {f"{question}_ratio_to_{name}": found[f"torg_{question}_ms"] / found[f"{name}_{question}_ms"] for name in systems if name != "torg"}
    return found | ratios | {f"torg_{question}_cpu_ms": statistics.median(cpu)}


def _values(question: str) -> Sequence[tuple[Any, ...]]:
    if question == "month":
        firsts = [BEGAN_MS + number % 12 * MONTH_MS for number in range(MONTHS)]
        return [(f"wallet:c{n * 7 % CUSTOMERS}", first, first + MONTH_MS) for n, first in enumerate(firsts)]
    return [(BEGAN_MS + 11 * MONTH_MS,)] * RUNS if question == "balances" else [()] * RUNS


def _sqlite(path: Path, cursor: duckdb.DuckDBPyConnection) -> Ask:
    database = sqlite3.connect(path)
    database.execute("PRAGMA cache_size=-1048576")
    database.execute(_DDL)
    result = cursor.execute(f"SELECT {COLUMNS} FROM transfers ORDER BY record, ordinal")
    while rows := result.fetchmany(100_000):
        database.executemany("INSERT INTO transfers VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    for statement in _INDEXES:
        database.execute(statement)
    database.commit()
    return lambda query, values: database.execute(query, {str(n): one for n, one in enumerate(values, 1)}).fetchall()


def _postgresql(folder: Path, cursor: duckdb.DuckDBPyConnection, stack: ExitStack) -> Ask:
    sockets = stack.enter_context(postgresql_server(folder))
    connection = Connection(sockets)
    stack.callback(connection.close)
    connection.run(_DDL)
    rows = folder / "transfers.csv"
    cursor.execute(f"COPY (SELECT {COLUMNS} FROM transfers ORDER BY record, ordinal) TO '{rows}' (HEADER false)").fetchall()
    programs = postgresql_programs()
    assert programs is not None
    words = [str(programs / "psql"), "-q", "-h", str(sockets), "-U", "postgres", "-c", "COPY transfers FROM STDIN (FORMAT csv)"]
    with rows.open("rb") as file:
        subprocess.run(words, check=True, stdin=file)
    rows.unlink()
    for statement in _INDEXES:
        connection.run(statement)
    connection.run("VACUUM transfers")
    return connection.ask


if __name__ == "__main__":
    sys.exit(main())
