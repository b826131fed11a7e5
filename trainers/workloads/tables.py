"""Tables as people have them: CSV files with a header become float32 features and a target, or a clear word why not.

What is learned about a column (mean, deviation, categories) comes from the training rows alone. Every problem with a
value is said with its file, line and column.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
MAX_CATEGORIES = 256
MAX_CLASSES_BY_NUMBER = 20
MOSTLY = 0.9
HELD_OUT = "held_out"

Place: TypeAlias = tuple[str, int]  # file and line
Task: TypeAlias = Literal["classification", "regression"]


class TableError(ValueError):
    """A table that cannot be trained on; the message names file, line and column."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under a header, and where each row stands."""

    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    places: Sequence[Place]

    def taken(self, numbers: np.ndarray) -> "Table":
        """The rows of these numbers."""
        return Table(self.header, [self.rows[i] for i in numbers], [self.places[i] for i in numbers])


@dataclass(frozen=True, slots=True)
class Column:
    """How one column's texts become numbers: by category where there are any, else (value − mean) / deviation."""

    name: str
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def width(self) -> int:
        """Features that it makes."""
        return len(self.categories) or 1


def read_tables(data: Path, delimiter: str) -> tuple[Table, Table | None]:
    """All `.csv` files at or below `data` as one table; those in `held_out` or called `held_out.csv` as another.

    Raises TableError for files that do not fit together, and for rows of another length than the header.
    """
    found = [data] if data.is_file() else sorted(path for path in data.rglob("*.csv") if path.is_file())
    apart = [path for path in found if HELD_OUT in (path.stem, *path.relative_to(data).parts[:-1])]
    train = [path for path in found if path not in apart]
    if not train:
        raise TableError("the data hold no .csv file to train on")
    table = _joined([_read(path, delimiter) for path in train])
    if not apart:
        return table, None
    return table, _joined([Table(table.header, [], []), *(_read(path, delimiter) for path in apart)])


def split_rows(table: Table, fraction: float, seed: int) -> tuple[Table, Table]:
    """Training and held-out rows, drawn by the seed. Raises TableError when one part would be empty."""
    count = len(table.rows)
    held = max(1, round(count * fraction))
    if count - held < 1:
        raise TableError(f"the data hold {count} rows, too few to train on some and hold out others")
    drawn = np.random.default_rng([seed, 3]).permutation(count)
    return table.taken(np.sort(drawn[held:])), table.taken(np.sort(drawn[:held]))


def learn_columns(table: Table, told: Mapping[str, Any], target: str, task: str) -> tuple[list[Column], Column, Task]:
    """The feature columns, the target column and the task, from training rows and from what the job says of columns."""
    for name in (*told, target):
        if name not in table.header:
            raise TableError(f"the data have no column {name!r}; they have {', '.join(table.header)}")
    kept = [name for name in table.header if name != target and told.get(name) != "ignore"]
    if not kept:
        raise TableError(f"no column is left beside the target {target!r}")
    columns = [_learn(table, name, told.get(name)) for name in kept]
    return columns, *_learn_target(table, target, told.get(target), task)


def encode_features(table: Table, columns: Sequence[Column]) -> np.ndarray:
    """Features, float32 [N, F]: a number that is missing is the mean (0), a category that is not known all zeros."""
    encoded = np.zeros((len(table.rows), sum(column.width for column in columns)), dtype=np.float32)
    first = 0
    for column in columns:
        at = table.header.index(column.name)
        for i, row in enumerate(table.rows):
            text = row[at].strip()
            if column.categories:
                if text in column.categories:
                    encoded[i, first + column.categories.index(text)] = 1.0
            elif not _is_missing(text):
                encoded[i, first] = (_number(text, table.places[i], column.name) - column.mean) / column.deviation
        first += column.width
    return encoded


def encode_target(table: Table, column: Column) -> np.ndarray:
    """Class numbers, int64 [N], or normalised values, float32 [N]."""
    at = table.header.index(column.name)
    texts = [row[at].strip() for row in table.rows]
    for text, place in zip(texts, table.places, strict=True):
        if _is_missing(text) and text not in column.categories:
            raise TableError(f"{_where(place, column.name)}: the target is missing")
        if column.categories and text not in column.categories:
            known = ", ".join(column.categories[:10])
            raise TableError(f"{_where(place, column.name)}: {text!r} is no known class; known: {known}")
    if column.categories:
        return np.array([column.categories.index(text) for text in texts], dtype=np.int64)
    values = [_number(text, place, column.name) for text, place in zip(texts, table.places, strict=True)]
    return ((np.array(values) - column.mean) / column.deviation).astype(np.float32)


def _read(path: Path, delimiter: str) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as content:
            reader = csv.reader(content, delimiter=delimiter, strict=True)
            header = tuple(name.strip() for name in next(reader, []))
            _check_header(path.name, header, delimiter)
            rows, places = [], []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise TableError(
                        f"{path.name}, line {reader.line_num}: {len(row)} values under {len(header)} names"
                    )
                rows.append(row)
                places.append((path.name, reader.line_num))
    except UnicodeDecodeError as error:
        raise TableError(f"{path.name} is no UTF-8 text: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise TableError(f"{path.name}, line {reader.line_num}: {error}") from None
    return Table(header, rows, places)


def _check_header(file: str, header: tuple[str, ...], delimiter: str) -> None:
    if len(header) < 2:
        raise TableError(f"{file}, line 1: no header of two names and more, divided by {delimiter!r}")
    for number, name in enumerate(header, start=1):
        if not name:
            raise TableError(f"{file}, line 1: column {number} has no name")
        if name in header[: number - 1]:
            raise TableError(f"{file}, line 1: two columns are called {name!r}")


def _joined(tables: Sequence[Table]) -> Table:
    first = tables[0]
    for table in tables[1:]:
        if table.header != first.header:
            file = table.places[0][0] if table.places else "an empty file"
            other = ", ".join(sorted(set(table.header) ^ set(first.header))) or "their order"
            raise TableError(f"{file}, line 1: other columns than in the file before: {other}")
    return Table(first.header, [r for t in tables for r in t.rows], [p for t in tables for p in t.places])


def _learn(table: Table, name: str, told: Any) -> Column:
    if isinstance(told, Mapping):
        return Column(name, mean=float(told["mean"]), deviation=float(told["deviation"]))
    if isinstance(told, list):
        return Column(name, tuple(str(category) for category in told))
    at = table.header.index(name)
    present = [(row[at].strip(), place) for row, place in zip(table.rows, table.places, strict=True)]
    present = [(text, place) for text, place in present if not _is_missing(text)]
    if told == "number" or sum(_is_number(text) for text, _ in present) >= MOSTLY * len(present):
        return _scaled(name, [_number(text, place, name) for text, place in present])
    return _categorical(name, {text for text, _ in present}, table.places[0][0])


def _learn_target(table: Table, name: str, told: Any, task: str) -> tuple[Column, Task]:
    column = _learn(table, name, told)
    if column.categories:
        if task == "regression":
            raise TableError(f"column {name!r} holds texts; a regression needs numbers")
        return column, "classification"
    if isinstance(told, Mapping) or task == "regression":
        return column, "regression"
    at = table.header.index(name)
    texts = {row[at].strip() for row in table.rows} - MISSING
    few = len(texts) <= MAX_CLASSES_BY_NUMBER and all(float(text).is_integer() for text in texts if _is_number(text))
    if task == "classification" or few:
        return _categorical(name, texts, table.places[0][0]), "classification"
    return column, "regression"


def _categorical(name: str, texts: set[str], file: str) -> Column:
    if len(texts) > MAX_CATEGORIES:
        remedy = f"columns: {{{name}: ignore}} leaves it out"
        raise TableError(f"{file}, column {name!r}: {len(texts)} different texts, at most {MAX_CATEGORIES}; {remedy}")
    by_value = all(_is_number(text) for text in texts)
    return Column(name, tuple(sorted(texts, key=lambda text: (float(text), text) if by_value else (0.0, text))))


def _scaled(name: str, values: Sequence[float]) -> Column:
    deviation = float(np.std(values)) if values else 0.0
    return Column(name, mean=float(np.mean(values)) if values else 0.0, deviation=deviation or 1.0)


def _is_missing(text: str) -> bool:
    return text.casefold() in MISSING


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _number(text: str, place: Place, column: str) -> float:
    if not _is_number(text):
        raise TableError(f"{_where(place, column)}: {text!r} is no finite number")
    return float(text)


def _where(place: Place, column: str) -> str:
    return f"{place[0]}, line {place[1]}, column {column!r}"
