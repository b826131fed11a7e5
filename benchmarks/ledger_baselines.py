"""The same double entry with the same checks in SQLite and PostgreSQL, each as fast as its own tools make it.

A transfer is an id, a kind, two accounts and an amount; an account other than `world` may not go below zero; an id that is
known moves nothing. A batch is one transaction, durable when the call returns. PostgreSQL is started here, in a folder of its
own and by an account without rights when this runs as root, and ended by its pid; it is spoken to by libpq over a Unix socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

Row = tuple[str, str, str, str, int]
"""id, kind, debited account, credited account, nano-dollars"""


class Sqlite:
    """WAL, synchronous=FULL: every commit is synced."""

    def __init__(self, path: Path, accounts: Sequence[str]) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-262144;"
            "CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE transfers (id TEXT PRIMARY KEY, kind TEXT NOT NULL, debit TEXT NOT NULL, credit TEXT NOT NULL,"
            " amount INTEGER NOT NULL, status TEXT NOT NULL) WITHOUT ROWID;"
        )
        self._db.executemany("INSERT INTO accounts VALUES (?, 0)", [(one,) for one in accounts])

    def prepare(self, rows: Sequence[Row]) -> Sequence[Row]:
        """As they are."""
        return rows

    def book(self, rows: Sequence[Row]) -> int:
        """One transaction; how many were booked."""
        execute = self._db.execute
        booked = 0
        execute("BEGIN IMMEDIATE")
        for id, kind, debit, credit, amount in rows:
            if execute("SELECT 1 FROM transfers WHERE id = ?", (id,)).fetchone() is not None:
                continue
            moved = execute(
                "UPDATE accounts SET balance = balance - ?1 WHERE name = ?2 AND (name = 'world' OR balance >= ?1)", (amount, debit)
            ).rowcount
            if moved:
                execute("UPDATE accounts SET balance = balance + ? WHERE name = ?", (amount, credit))
            status = "created" if moved else "would_overdraw"
            execute("INSERT INTO transfers VALUES (?, ?, ?, ?, ?, ?)", (id, kind, debit, credit, amount, status))
            booked += moved
        execute("COMMIT")
        return booked

    def close(self) -> None:
        self._db.close()


_SCHEMA: Final = """
CREATE TABLE accounts (name TEXT PRIMARY KEY, balance BIGINT NOT NULL) WITH (fillfactor = 50);
CREATE TABLE transfers (id TEXT PRIMARY KEY, kind TEXT NOT NULL, debit TEXT NOT NULL, credit TEXT NOT NULL,
  amount BIGINT NOT NULL, status TEXT NOT NULL);
CREATE FUNCTION book(ids TEXT[], kinds TEXT[], debits TEXT[], credits TEXT[], amounts BIGINT[]) RETURNS INTEGER AS $$
DECLARE booked INTEGER := 0; moved INTEGER;
BEGIN
  FOR i IN 1 .. cardinality(ids) LOOP
    IF EXISTS (SELECT 1 FROM transfers WHERE id = ids[i]) THEN CONTINUE; END IF;
    UPDATE accounts SET balance = balance - amounts[i]
      WHERE name = debits[i] AND (name = 'world' OR balance >= amounts[i]);
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved > 0 THEN UPDATE accounts SET balance = balance + amounts[i] WHERE name = credits[i]; END IF;
    INSERT INTO transfers VALUES (ids[i], kinds[i], debits[i], credits[i], amounts[i],
      CASE WHEN moved > 0 THEN 'created' ELSE 'would_overdraw' END);
    booked := booked + moved;
  END LOOP;
  RETURN booked;
END $$ LANGUAGE plpgsql;
"""
_BOOK: Final = b"SELECT book($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])"
_TUPLES_OK: Final = 2
_INT8: Final = 20


class Connection:
    """One connection to a server of `postgresql_server`, over libpq."""

    def __init__(self, socket_folder: Path) -> None:
        self.pq = _libpq()
        self._connection = self.pq.PQconnectdb(f"host={socket_folder} dbname=postgres user=postgres".encode())
        if self.pq.PQstatus(self._connection):
            raise RuntimeError(self._error())

    def run(self, statements: str) -> None:
        """Statements without an answer."""
        self.pq.PQclear(self.pq.PQexec(self._connection, statements.encode()))
        if error := self._error():
            raise RuntimeError(error)

    def call(self, query: bytes, values: ctypes.Array[ctypes.c_char_p]) -> int:
        """A query with values as text: its result, for libpq's own functions; whoever takes it clears it."""
        result: int = self.pq.PQexecParams(self._connection, query, len(values), None, values, None, None, 0)
        if self.pq.PQresultStatus(result) != _TUPLES_OK:
            raise RuntimeError(self._error())
        return result

    def ask(self, query: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        """All rows; whole numbers as int."""
        texts = (ctypes.c_char_p * len(values))(*(str(one).encode() for one in values))
        pq, result = self.pq, self.call(query.encode(), texts)
        columns = range(pq.PQnfields(result))
        are_numbers = [pq.PQftype(result, column) == _INT8 for column in columns]

        def cell(row: int, column: int) -> object:
            text = pq.PQgetvalue(result, row, column)
            if not text and pq.PQgetisnull(result, row, column):
                return None
            return int(text) if are_numbers[column] else text.decode()

        rows = [tuple(cell(row, column) for column in columns) for row in range(pq.PQntuples(result))]
        pq.PQclear(result)
        return rows

    def close(self) -> None:
        self.pq.PQfinish(self._connection)

    def _error(self) -> str:
        return str(self.pq.PQerrorMessage(self._connection).decode())


class Postgresql:
    """One connection; a batch is one call of a function in the server, so one round trip and one commit."""

    def __init__(self, socket_folder: Path, accounts: Sequence[str]) -> None:
        self._connection = Connection(socket_folder)
        self._connection.run(_SCHEMA)
        names = ",".join(f"('{one}', 0)" for one in accounts)
        self._connection.run(f"INSERT INTO accounts VALUES {names}")

    def prepare(self, rows: Sequence[Row]) -> ctypes.Array[ctypes.c_char_p]:
        """The columns as PostgreSQL's arrays."""
        columns = ["{" + ",".join(map(str, column)) + "}" for column in zip(*rows, strict=True)]
        return (ctypes.c_char_p * 5)(*(column.encode() for column in columns))

    def book(self, values: ctypes.Array[ctypes.c_char_p]) -> int:
        """One transaction; how many were booked."""
        pq, result = self._connection.pq, self._connection.call(_BOOK, values)
        booked = int(pq.PQgetvalue(result, 0, 0))
        pq.PQclear(result)
        return booked

    def close(self) -> None:
        self._connection.close()


def _libpq() -> ctypes.CDLL:
    found = ctypes.CDLL(ctypes.util.find_library("pq") or "libpq.so.5")
    for name in ("PQconnectdb", "PQexec", "PQexecParams"):
        getattr(found, name).restype = ctypes.c_void_p
    for name in ("PQerrorMessage", "PQgetvalue"):
        getattr(found, name).restype = ctypes.c_char_p
    for name in ("PQstatus", "PQfinish", "PQclear", "PQresultStatus", "PQerrorMessage", "PQnfields", "PQntuples"):
        getattr(found, name).argtypes = [ctypes.c_void_p]
    found.PQexec.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    found.PQgetvalue.argtypes = found.PQgetisnull.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    found.PQftype.argtypes = [ctypes.c_void_p, ctypes.c_int]
    found.PQexecParams.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int
    ]  # fmt: skip
    return found


def postgresql_programs() -> Path | None:
    """The folder of `postgres` and `initdb` of the newest installed version."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if versions:
        return versions[-1].parent
    found = shutil.which("postgres")
    return None if found is None else Path(found).resolve().parent


@contextlib.contextmanager
def postgresql_server(folder: Path) -> Iterator[Path]:
    """A server with its usual durability (fsync, synchronous_commit, full_page_writes), and the folder of its socket."""
    programs = postgresql_programs()
    assert programs is not None, "PostgreSQL is not installed: make bench-postgresql"
    data, sockets = folder / "data", folder / "sockets"
    data.mkdir(parents=True)
    sockets.mkdir()
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        owner = pwd.getpwnam(user)
        for path in (folder, data, sockets):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        for path in folder.resolve().parents:
            if path.stat().st_uid == 0 and path.stat().st_mode & 0o001 == 0:
                path.chmod(path.stat().st_mode | 0o011)
                break
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"],
        check=True, capture_output=True, user=user, cwd=folder,
    )  # fmt: skip
    options = {"listen_addresses": "", "unix_socket_directories": str(sockets), "shared_buffers": "512MB", "max_wal_size": "4GB"}
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([programs / "postgres", "-D", data, *words], stdout=log, stderr=log, user=user, cwd=folder)
    try:
        while not (sockets / ".s.PGSQL.5432").exists():
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        while subprocess.run([programs / "pg_isready", "-q", "-h", sockets], check=False).returncode:
            time.sleep(0.05)
        yield sockets
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
