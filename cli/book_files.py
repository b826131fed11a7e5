"""Offers and jobs in CSV and Parquet files, read as text; what is wrong with a file is said with its row and column."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cli.csv_rows import csv_rows
from cli.errors import usage
from market.engine.columns import BadRow

if TYPE_CHECKING:
    from market.engine.memory import Memory

T = TypeVar("T")


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


def read_memory(path: Path) -> "Memory | None":
    """What the last clearing left in the file; None where there is none yet. Raises CliError."""
    from market.engine.memory import BadMemory, Memory

    try:
        return Memory.of_text(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise usage(f"{path}: it is no text", field="--memory", remedy="another file", code="not_readable") from None
    except BadMemory as bad:
        raise usage(f"{path}: {bad}", field="--memory", remedy="name what --memory wrote before, or a file that is not there yet", code="bad_memory") from None
    except OSError as error:
        raise usage(f"{path}: {error.strerror or error}", field="--memory", code="not_readable") from error


def check_memory_place(path: Path) -> None:
    """Whether a clearing could leave its memory there, asked before it has taken its time. Raises CliError."""
    if not path.parent.is_dir():
        raise usage(f"{path.parent} is no folder", field="--memory")
    if path.is_dir():
        raise usage(f"{path} is a folder", field="--memory", remedy="a file in it, such as memory.json")
    if not os.access(path.parent, os.W_OK):
        raise usage(f"{path.parent} cannot be written", field="--memory", remedy="a file in another folder", code="not_writable")


def write_memory(path: Path, memory: "Memory") -> None:
    """In place of what was there, whole or not at all. Raises CliError."""
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.write_text(memory.as_text() + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise usage(f"{path}: {error.strerror or error}", field="--memory", code="not_writable") from error


def _csv(path: Path, field: str) -> tuple[list[str], Iterator[list[str]]]:
    rows = csv_rows(path, field, "CSV in UTF-8, or .parquet")
    heading = next(rows, None)
    if heading is None:
        raise usage(f"{path} is empty", field=field, remedy="the first line names the columns", code="no_heading")
    return heading, rows


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
        # As a file it is read with columns of one name, which `read_table` says are no Parquet.
        table = parquet.read_table(path) if path.is_dir() else parquet.ParquetFile(path).read()
        names = [str(name) for name in table.column_names]
        columns = [_column(path.name, name, column.to_pylist()) for name, column in zip(names, table.columns, strict=True)]
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise usage(
            f"{path} is no Parquet file: {str(error).splitlines()[0]}", field=field, code="not_a_table"
        ) from None
    return names, zip(*columns, strict=True)


def _column(table: str, name: str, values: Iterable[object]) -> list[str]:
    found = []
    for row, value in enumerate(values, 1):
        text = _text(value)
        if text is None:
            raise BadRow(table, row, name[:40], f"a value of type {type(value).__name__} is not read", "text, numbers, true and false, or lists of text")
        found.append(text)
    return found


def _text(value: object) -> str | None:
    """As the cell would stand in a CSV file; None for what cannot stand there."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, list):
        parts = [part for part in map(_text, value) if part is not None]
        return "|".join(parts) if len(parts) == len(value) else None
    return str(value) if isinstance(value, (str, bool, int, float, Decimal)) else None
