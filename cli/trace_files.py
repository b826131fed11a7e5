"""Traces and offers in CSV files (also gzipped), read a row at a time; what is wrong is said with row and column."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from cli.csv_rows import csv_rows
from cli.errors import usage
from market.engine.columns import BadRow

T = TypeVar("T")


def read_table(path: Path, field: str, parse: Callable[[Sequence[str], Iterable[Sequence[str]], str], T]) -> T:
    """What `parse(heading, rows, name)` makes of a file with a heading; raises CliError."""

    def with_heading(rows: Iterator[list[str]]) -> T:
        heading = next(rows, None)
        if heading is None:
            raise usage(f"{path} is empty", field=field, remedy="the first line names the columns", code="no_heading")
        return parse(heading, rows, path.name)

    return _read(path, field, with_heading)


def read_rows(path: Path, field: str, parse: Callable[[Iterable[Sequence[str]], str], T]) -> T:
    """What `parse(rows, name)` makes of a file without a heading; raises CliError."""
    return _read(path, field, lambda rows: parse(rows, path.name))


def _read(path: Path, field: str, parse: Callable[[Iterator[list[str]]], T]) -> T:
    try:
        return parse(csv_rows(path, field, "CSV in UTF-8, plain or .gz", gzipped=path.suffix == ".gz"))
    except BadRow as bad:
        raise usage(str(bad), field=field, remedy=bad.remedy or None, code="bad_row") from None
    except FileNotFoundError:
        raise usage(f"{path} does not exist", field=field, code="no_such_file") from None
    except (OSError, EOFError, zlib.error) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise usage(f"{path}: {why}", field=field, code="not_readable") from error
