"""Billing lines as files: CSV by the standard library, Parquet by pyarrow."""

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from cli.errors import refused


def write_lines(lines: Sequence[dict[str, Any]], form: str, output: Path | None) -> None:
    """Write `lines` as json, csv, parquet or table to a file (replaced as a whole), or text to stdout."""
    content = _parquet(lines) if form == "parquet" else _text(lines, form).encode()
    if output is None:
        sys.stdout.write(content.decode())
        return
    _replace(output, content, "-o")


def write_focus(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """FOCUS rows as CSV (null is an empty field) or Parquet (decimals and timestamps as such), by the file's ending."""
    _replace(output, _focus_parquet(rows) if output.suffix == ".parquet" else _focus_csv(rows), "--focus")


def _replace(output: Path, content: bytes, field: str) -> None:
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(output)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise refused("not_writable", f"{output}: {error.strerror}", field=field) from error


def _focus_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    from storage.focus import COLUMNS

    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([format(value, "f") if isinstance(value, Decimal) else value for value in row.values()])
    return made.getvalue().encode()


def _focus_parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    from storage.focus import COLUMNS, DECIMALS, INSTANTS

    arrow, parquet = _arrow()
    kinds = {name: arrow.decimal128(38, 12) for name in DECIMALS}
    kinds |= {name: arrow.timestamp("ms", tz="UTC") for name in INSTANTS}
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in COLUMNS])
    instants = [{**row, **{name: datetime.fromisoformat(row[name]) for name in INSTANTS}} for row in rows]
    made = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(instants, schema=schema), made)
    return made.getvalue()


def _text(lines: Sequence[dict[str, Any]], form: str) -> str:
    if form == "json":
        return json.dumps(list(lines), ensure_ascii=False) + "\n"
    from cli.verbs.billing import FIELDS

    names = list(dict.fromkeys(key for line in lines for key in line)) or list(FIELDS)
    made = io.StringIO()
    writer = csv.writer(made, delimiter="\t" if form == "table" else ",", lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_flat(line.get(name)) for name in names] for line in lines)
    return made.getvalue()


def _flat(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as missing:
        raise refused(
            "extra_missing",
            f"Parquet needs {missing.name}",
            field="--format",
            remedy="pip install 'torg[node]', or --format csv",
        ) from missing
    return arrow, parquet


def _parquet(lines: Sequence[dict[str, Any]]) -> bytes:
    arrow, parquet = _arrow()
    made = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist([{k: _flat(v) for k, v in line.items()} for line in lines]), made)
    return made.getvalue()
