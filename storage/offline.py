"""The books when the market is down: from the file where it can be used, else made in memory from the journal."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import duckdb

from storage.projection import Projection, ProjectionBusy, ProjectionNewer, is_damage

log = logging.getLogger("torg.books")
Answer = TypeVar("Answer")


@contextmanager
def offline_books(journal: Path, database: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for `storage.billing` and `storage.tenant_sql`, caught up with the journal.

    The file is owned only while it is caught up, and then read; where it is owned by somebody else, or the disk
    is full or read-only, or a newer torg made it, the books are made in memory. Raises JournalCorrupt.
    """
    connection = _from_file(journal, database)
    if connection is not None:
        with connection:
            yield connection
        return
    with Projection.in_memory(journal) as books, books.cursor() as cursor:
        yield cursor


def ask_offline(journal: Path, database: Path, question: Callable[[duckdb.DuckDBPyConnection], Answer]) -> Answer:
    """What the question comes to; asked again of books made in memory, where a part of the file that it needs is damaged."""
    with offline_books(journal, database) as connection:
        try:
            return question(connection)
        except duckdb.Error as error:
            if not is_damage(error):
                raise
            log.warning("the books' file is damaged (%s): reading the journal instead", error)
    with Projection.in_memory(journal) as books, books.cursor() as cursor:
        return question(cursor)


def _from_file(journal: Path, database: Path) -> duckdb.DuckDBPyConnection | None:
    try:
        with Projection.open(journal, database) as books:
            books.catch_up()
        return duckdb.connect(str(database), read_only=True, config={"python_enable_replacements": False})
    except (ProjectionBusy, ProjectionNewer, OSError, duckdb.Error) as error:
        log.info("the books' file cannot be used (%s): reading the journal instead", error)
        return None
