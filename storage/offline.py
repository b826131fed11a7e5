"""The books when the market is down: from the file where it can be used, else made in memory from the journal."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from storage.projection import Projection, ProjectionBusy, ProjectionNewer

log = logging.getLogger("torg.books")


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


def _from_file(journal: Path, database: Path) -> duckdb.DuckDBPyConnection | None:
    try:
        with Projection.open(journal, database) as books:
            books.catch_up()
        return duckdb.connect(str(database), read_only=True, config={"python_enable_replacements": False})
    except (ProjectionBusy, ProjectionNewer, OSError, duckdb.Error) as error:
        log.info("the books' file cannot be used (%s): reading the journal instead", error)
        return None
