"""Billing lines as files: CSV by the standard library, Parquet by pyarrow."""

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.errors import refused


def write_lines(lines: Sequence[dict[str, Any]], form: str, output: Path | None) -> None:
    """Write `lines` as json, csv, parquet or table to a file (replaced as a whole), or text to stdout."""
    content = _parquet(lines) if form == "parquet" else _text(lines, form).encode()
    if output is None:
        sys.stdout.write(content.decode())
        return
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(output)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise refused("not_writable", f"{output}: {error.strerror}", field="-o") from error


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


def _parquet(lines: Sequence[dict[str, Any]]) -> bytes:
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
    made = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist([{k: _flat(v) for k, v in line.items()} for line in lines]), made)
    return made.getvalue()
