"""Offers and jobs in CSV and Parquet files, read as text; what is wrong with a file is said with its row and column."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from cli.errors import CliError, usage
from market.engine.columns import BadRow

T = TypeVar("T")
MAX_CELL_LETTERS = 20_000


def read(path: Path, field: str, parse: Callable[[Sequence[str], Iterable[Sequence[str]], str], T]) -> T:
    """What `parse(heading, rows, name)` makes of the file; raises CliError."""
    parquet = path.suffix.lower() in (".parquet", ".pq")
    try:
        heading, rows = _parquet(path, field) if parquet else _csv(path, field)
        return parse(heading, rows, path.name)
    except BadRow as bad:
        raise usage(str(bad), remedy=bad.remedy or None, code="bad_row") from None
    except FileNotFoundError:
        raise usage(f"{path} does not exist", field=field, code="no_such_file") from None
    except OSError as error:
        raise usage(f"{path}: {error.strerror or error}", field=field, code="not_readable") from error


def _csv(path: Path, field: str) -> tuple[list[str], Iterator[list[str]]]:
    rows = _lines(path, field)
    heading = next(rows, None)
    if heading is None:
        raise usage(f"{path} is empty", field=field, remedy="the first line names the columns", code="no_heading")
    return heading, rows


def _lines(path: Path, field: str) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if cells:
                    yield cells
        except UnicodeDecodeError:
            raise _no_table(path, field, f"it is not UTF-8 text, near line {reader.line_num + 1}") from None
        except csv.Error as error:
            raise _no_table(path, field, f"line {reader.line_num}: {error}") from None


def _no_table(path: Path, field: str, why: str) -> CliError:
    return usage(f"{path} is no CSV file: {why}", field=field, remedy="CSV in UTF-8, or .parquet", code="not_a_table")


def _parquet(path: Path, field: str) -> tuple[list[str], Iterator[tuple[str, ...]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise usage(
            f"{path}: reading Parquet needs pyarrow", field=field, code="not_installed",
            remedy="pip install pyarrow, or write the table as CSV",
        ) from None  # fmt: skip
    try:
        table = parquet.read_table(path)
        names = [str(name) for name in table.column_names]
        columns = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise usage(
            f"{path} is no Parquet file: {str(error).splitlines()[0]}", field=field, code="not_a_table"
        ) from None
    return names, zip(*columns, strict=True)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return "|".join(str(one) for one in value)
    return str(value)
