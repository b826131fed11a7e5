"""Rows of a CSV file in UTF-8, one at a time; what is wrong with it is said with its line."""

import csv
import gzip
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cli.errors import CliError, usage

MAX_LINE_LETTERS = 1 << 22
"""More than any row that can be taken: what is longer has a cell that `csv` refuses, or more cells than any table has."""


def csv_rows(path: Path, field: str, forms: str, *, gzipped: bool = False) -> Iterator[list[str]]:
    """Every row that is not empty. forms: what the file may be, for the remedy. Raises CliError, OSError."""
    binary = gzip.open if gzipped else Path.open
    with binary(path, "rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(iter(partial(file.readline, MAX_LINE_LETTERS), ""), strict=True)
        try:
            for cells in reader:
                if cells:
                    yield cells
        except UnicodeDecodeError:
            raise _no_table(path, field, forms, f"it is not UTF-8 text, near line {reader.line_num + 1}") from None
        except csv.Error as error:
            raise _no_table(path, field, forms, f"line {reader.line_num}: {error}") from None


def _no_table(path: Path, field: str, forms: str, why: str) -> CliError:
    return usage(f"{path} is no CSV file: {why}", field=field, remedy=forms, code="not_a_table")
