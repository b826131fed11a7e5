"""The books: DuckDB tables made from the journal. They can be deleted at any moment and are made again, equal.

One process owns the file (`Projection.open`, guarded by a lock file beside it). Rows are applied in batches, each
in one transaction with its watermark (number and chain hash of the last applied record), so that a killed owner
goes on exactly where it stood. A file that is missing, broken, of another version, or ahead of the journal is
made again.
"""

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa

from storage.formats import FormatNewer
from storage.journal import JournalRewound, Walk
from storage.record_tables import RecordTables
from storage.tables import TABLES

log = logging.getLogger("torg.books")

VERSION = 12  # of the tables; views are made anew at every open
BATCH_ROWS = 2 * 122_880  # of DuckDB's row groups, which go to the file itself where one insert fills them, not through its log
SORT_ROWS = 200_000
VIEWS = Path(__file__).parent / "views"
# Few threads: the books are small, and trainers on the same machine need the cores.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {"python_enable_replacements": False, "threads": 2}
# both sides of every transfer, signed as the account saw it
_ENTRIES = """
SELECT debit AS account, record, ordinal, at_ms, id, kind, -amount_nanos AS amount_nanos, job, lease FROM transfers WHERE record > {after}
UNION ALL
SELECT credit AS account, record, ordinal, at_ms, id, kind, amount_nanos, job, lease FROM transfers WHERE record > {after}
"""
# every view that `projection_equal` compares, and every table
VIEW_NAMES = (
    "entries", "balances", "history", "lease_readings", "refunds", "charges_by_kind", "note_moves", "billing_facts", "lease_lines", "job_lines",
    "round_lines", "round_totals", "worker_totals", "training_lines", "metric_lines", "attempt_lines",
    "estimate_lines", "asks", "trades",
)  # fmt: skip


class ProjectionNewer(Exception):
    """A newer torg made these books; the text names both versions and what to do."""


class ProjectionBusy(Exception):
    """Another process owns the books or reads them just now; nothing is wrong with the file."""


def is_damage(error: duckdb.Error) -> bool:
    """Whether DuckDB says by this that the file itself cannot be read: then it is made again, whatever was asked."""
    return isinstance(error, _DAMAGE) or str(error).startswith("Corrupt database file")


_DAMAGE = (duckdb.IOException, duckdb.InternalException, duckdb.FatalException, duckdb.SerializationException)


class Projection:
    """The books over one journal folder. `database` None keeps them in memory.

    `cursor` gives a connection for one thread; `catch_up` and `rebuild` may be called from any thread that holds
    no cursor. `records` and `head` say how far the books are.
    """

    def __init__(self, journal: Path, database: Path | None) -> None:
        """Use `open` or `in_memory`."""
        self.journal = journal
        self.database = database
        self.records = 0
        self.head = ""
        self.rebuilds = 0
        self._lock = threading.RLock()
        self._unread = threading.Condition(self._lock)
        self._readers = 0
        self._closing = False
        self._owner = -1
        self._walk = Walk(journal)
        self._connection: duckdb.DuckDBPyConnection
        self._file_id: tuple[int, int] | None = None

    @classmethod
    def open(cls, journal: Path, database: Path) -> "Projection":
        """Own the file, make it again if it cannot be used, and stand at its watermark; then `catch_up`.

        Raises ProjectionBusy when another process has it, ProjectionNewer when a newer torg made it.
        """
        database.parent.mkdir(parents=True, exist_ok=True)
        books = cls(journal, database)
        books._owner = _own(database)
        try:
            if books._opens_badly():
                books.rebuild(apply=False)
        except BaseException:
            os.close(books._owner)
            raise
        return books

    @classmethod
    def in_memory(cls, journal: Path, until: int | None = None) -> "Projection":
        """Books of their own in memory, made from the journal up to record `until` (default: to its end)."""
        books = cls(journal, None)
        books._start_new()
        books._apply(until)
        return books

    def close(self) -> None:
        """Close the database and give up the ownership; idempotent."""
        with self._lock:
            self._close_connection()
            if self._owner >= 0:
                os.close(self._owner)
                self._owner = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for one thread. Making the books again waits until every cursor is given back."""
        with self._unread:
            self._unread.wait_for(lambda: not self._closing)
            cursor = self._connection.cursor()
            self._readers += 1
        try:
            yield cursor
        finally:
            with self._unread:
                cursor.close()
                self._readers -= 1
                self._unread.notify_all()

    def catch_up(self) -> int:
        """Apply what the journal has and the books have not; returns how many records. Rebuilds where they part.

        Raises JournalCorrupt when the journal is damaged.
        """
        with self._lock:
            if self.database is not None and _file_id(self.database) != self._file_id:
                log.warning("the books' file was removed or replaced: making it again")
                return self.rebuild()
            try:
                return self._apply()
            except JournalRewound as error:
                log.warning("the books are ahead of the journal (%s): making them again", error)
            except duckdb.Error as error:
                if self.database is None:
                    raise
                log.warning("the books cannot be written (%s): making them again", error)
            return self.rebuild()

    def rebuild(self, *, apply: bool = True) -> int:
        """Make the books again from nothing; returns how many records were applied."""
        with self._lock:
            self.rebuilds += 1
            self._close_connection()
            if self.database is not None:
                for path in (self.database, _wal(self.database)):
                    path.unlink(missing_ok=True)
            self._start_new()
            return self._apply() if apply else 0

    def _close_connection(self) -> None:
        # While one cursor is open, DuckDB hands out the old database again for the same path.
        self._closing = True
        self._unread.wait_for(lambda: self._readers == 0)
        with contextlib.suppress(AttributeError, duckdb.Error):
            self._connection.close()
        self._closing = False
        self._unread.notify_all()

    def _start_new(self) -> None:
        self._connect()
        self._connection.execute("CREATE TABLE format (version INTEGER)")
        self._connection.execute("INSERT INTO format VALUES (?)", [VERSION])
        self._connection.execute("CREATE TABLE watermarks (records BIGINT, head VARCHAR)")
        for table in TABLES.values():
            self._connection.execute(table.ddl)
        self._connection.execute(f"CREATE TABLE sorted_entries AS {_ENTRIES.format(after=0)}")
        self._connection.execute("CREATE TABLE sorting (through BIGINT)")
        self._connection.execute("INSERT INTO sorting VALUES (0)")
        self._make_views()
        self.records, self.head, self._walk = 0, "", Walk(self.journal)

    def _connect(self) -> None:
        if self.database is None:
            self._connection = duckdb.connect(":memory:", config=_CONFIG)
            return
        marker = _marker(self.database)
        marker.touch()  # a file so broken that opening it kills the process is not opened a second time
        try:
            self._connection = duckdb.connect(str(self.database), config=_CONFIG)
        except duckdb.Error as error:
            marker.unlink()
            if isinstance(error, duckdb.IOException) and "could not set lock" in str(error).lower():
                raise ProjectionBusy(f"another process has {self.database} open") from error
            raise
        marker.unlink()
        self._file_id = _file_id(self.database)

    def _opens_badly(self) -> bool:
        """Open the file and stand at its watermark; True if there is nothing that can be used."""
        assert self.database is not None
        if not self.database.exists() or _marker(self.database).exists():
            return True
        try:
            self._connect()
            versions = self._connection.execute("SELECT version FROM format").fetchall()
            if len(versions) == 1 and isinstance(versions[0][0], int) and versions[0][0] > VERSION:
                self._connection.close()
                told = FormatNewer(f"the books {self.database}", versions[0][0], VERSION)
                raise ProjectionNewer(f"{told}; or remove the file: it is made again from the journal")
            if versions != [(VERSION,)]:
                log.warning("the books are of another version %s: making them again", versions)
                return True
            mark = self._connection.execute(
                "SELECT records, head FROM watermarks ORDER BY records DESC LIMIT 1"
            ).fetchall()
            self._make_views()
        except duckdb.Error as error:
            log.warning("the books cannot be opened (%s): making them again", error)
            return True
        self.records, self.head = mark[0] if mark else (0, "")
        self._walk = Walk(self.journal, after=self.records, expect=self.head or None)
        return False

    def _make_views(self) -> None:
        self._show_recent(self._connection.execute("SELECT through FROM sorting").fetchall()[0][0])
        for path in sorted(VIEWS.glob("*.sql")):
            self._connection.execute(path.read_text(encoding="utf-8"))
        self._connection.execute("CHECKPOINT")

    def _show_recent(self, after: int) -> None:
        """`recent_entries`: those that came after the sorting, which stood at that record."""
        self._connection.execute(f"CREATE OR REPLACE VIEW recent_entries AS {_ENTRIES.format(after=after)}")

    def _apply(self, until: int | None = None) -> int:
        before = self.records
        if until is not None and until <= before:
            return 0
        batch = RecordTables()
        for record in self._walk:
            batch.take(record)
            if batch.rows >= BATCH_ROWS:
                self._commit(batch, record.number, record.hash)
                batch = RecordTables()
            if record.number == until:
                break
        if self._walk.number > self.records:
            self._commit(batch, self._walk.number, self._walk.hash.hex())
        self._walk.check()
        self._sort_entries()
        return self.records - before

    def _commit(self, batch: RecordTables, records: int, head: str) -> None:
        connection = self._connection
        connection.execute("BEGIN")
        try:
            for name, rows in batch.tables().items():
                _insert(connection, name, rows)
            connection.execute("INSERT INTO watermarks VALUES (?, ?)", [records, head])
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                connection.execute("ROLLBACK")
            # The walk has gone on past what the books hold: it starts again at the watermark.
            self._walk = Walk(self.journal, after=self.records, expect=self.head or None)
            raise
        self.records, self.head = records, head

    def _sort_entries(self) -> None:
        """Once many are new, order all entries by account and time: an account's are then read without the others'."""
        counts = "SELECT (SELECT count(*) FROM recent_entries), (SELECT count(*) FROM sorted_entries)"
        recent, ordered = self._connection.execute(counts).fetchall()[0]
        if recent < max(SORT_ROWS, ordered // 2):
            return
        self._connection.execute("BEGIN")
        try:
            self._connection.execute("CREATE TABLE new_entries AS SELECT * FROM entries ORDER BY account, record, ordinal")
            self._connection.execute("DROP TABLE sorted_entries")
            self._connection.execute("ALTER TABLE new_entries RENAME TO sorted_entries")
            self._connection.execute("UPDATE sorting SET through = ?", [self.records])
            self._show_recent(self.records)
            self._connection.execute("COMMIT")
        except duckdb.Error as error:  # of memory or disk too little: questions take longer, and the next time may do
            log.warning("the entries stay as they came: %s", error)
            self._connection.execute("ROLLBACK")
            return
        with contextlib.suppress(duckdb.TransactionException):  # somebody reads: the next one will do
            self._connection.execute("CHECKPOINT")


def _insert(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    connection.register("incoming", rows)
    try:
        connection.execute(f"INSERT INTO {name} SELECT * FROM incoming")
    finally:
        connection.unregister("incoming")


def rebuild(journal: Path, database: Path) -> int:
    """Make the books of a journal again from nothing; returns the number of records. Raises ProjectionBusy."""
    with Projection.open(journal, database) as books:
        return books.rebuild()


def is_balanced(cursor: duckdb.DuckDBPyConnection) -> bool:
    """Whether all balances together are zero, and none is below that may not be."""
    found = cursor.execute(
        "SELECT coalesce(sum(balance_nanos), 0) = 0 AND count(*) FILTER (balance_nanos < 0 "
        "AND account NOT IN ('world', 'grants')) = 0 FROM balances"
    ).fetchall()
    return bool(found[0][0])


def projection_equal(books: Projection) -> tuple[bool, str]:
    """Whether books made from nothing, up to the same record, are equal in every table and view; and a sentence, which names
    the file where a byte of it was changed.

    Needs the memory for a second set of books.
    """
    try:
        return _compared(books)
    except duckdb.Error as error:
        if not is_damage(error):
            raise
        return False, f"the file {books.database} is damaged: {error}"


def _compared(books: Projection) -> tuple[bool, str]:
    with books._lock:
        books.catch_up()
        fresh = Projection.in_memory(books.journal, books.records)
        try:
            if (fresh.records, fresh.head) != (books.records, books.head):
                return False, f"the books stand at record {books.records}, and the journal has {fresh.records}"
            for name in (*TABLES, *VIEW_NAMES):
                if _content(books._connection, name) != _content(fresh._connection, name):
                    return False, f"{name} differs from what the journal says"
            return True, f"{len(TABLES)} tables and {len(VIEW_NAMES)} views equal at record {books.records}"
        finally:
            fresh.close()


def _content(connection: duckdb.DuckDBPyConnection, name: str) -> tuple[Any, ...]:
    """Count and an order-free sum of row hashes."""
    query = f"SELECT count(*), sum(hash(t)::HUGEINT), bit_xor(hash(t)) FROM {name} t"
    return tuple(connection.execute(query).fetchall()[0])


def _own(database: Path) -> int:
    handle = os.open(database.with_name(database.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ProjectionBusy(f"another process owns {database}") from error
    return handle


def _marker(database: Path) -> Path:
    return database.with_name(database.name + ".opening")


def _wal(database: Path) -> Path:
    return database.with_name(database.name + ".wal")


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def fetch(connection: duckdb.DuckDBPyConnection, query: str, parameters: list[Any] | dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a query as dicts; read to the end before the next one."""
    result = connection.execute(query, parameters)
    names = [column[0] for column in result.description or ()]
    return iter([dict(zip(names, row, strict=True)) for row in result.fetchall()])
