"""Records of the journal as Arrow tables, as the books take them in. A batch of transfers becomes columns of its own, without an
event for each transfer between."""

from array import array
from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from storage.journal_format import Record
from storage.records import BATCH
from storage.tables import TABLES, Row, content_of, rows_of_events
from storage.transfer_batches import TransferBatch
from storage.transfers import KIND_NAMES, STATUS_CODES, STATUS_OF_CODE, Status

_KINDS: Final = pa.array(KIND_NAMES)
_STATUSES: Final = pa.array([str(status) for status in STATUS_OF_CODE])
_BOOKED: Final = STATUS_CODES[Status.CREATED]
_ARROW = {
    "BIGINT": pa.int64(), "INTEGER": pa.int32(), "DOUBLE": pa.float64(), "VARCHAR": pa.string(), "BOOLEAN": pa.bool_()
}  # fmt: skip
_SCHEMAS = {
    name: pa.schema([(column, _ARROW[kind]) for column, kind in table.all_columns]) for name, table in TABLES.items()
}


class RecordTables:
    """Rows by table, of whole records; `rows` is how many there are in all."""

    def __init__(self) -> None:
        self.rows = 0
        self._rows: dict[str, list[Row]] = {}
        self._packed: dict[str, list[pa.Table]] = {}

    def take(self, record: Record) -> None:
        """One more record. Raises what `storage.tables.content_of` raises."""
        content = content_of(record.number, record.payload)
        events = content["events"]
        if len(events) == 1 and events[0]["type"] == BATCH:
            for name, table in tables_of(record.number, content["at_ms"], events[0]["batch"]).items():
                self._packed.setdefault(name, []).append(table)
                self.rows += len(table)
            return
        for name, row in rows_of_events(record.number, content["at_ms"], events):
            self._rows.setdefault(name, []).append(row)
            self.rows += 1

    def tables(self) -> dict[str, pa.Table]:
        """All of them."""
        found = {name: [_table(name, rows)] for name, rows in self._rows.items()}
        for name, packed in self._packed.items():
            found.setdefault(name, []).extend(packed)
        return {name: pa.concat_tables(parts) for name, parts in found.items()}


def _table(name: str, rows: list[Row]) -> pa.Table:
    schema = _SCHEMAS[name]
    columns = [pa.array(values, type=field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.Table.from_arrays(columns, schema=schema)


def tables_of(record: int, at_ms: int, batch: TransferBatch) -> dict[str, pa.Table]:
    """What `storage.tables.rows_of` makes of the same record: rows of `transfers` and of `refused_transfers`."""
    n = len(batch)
    names = pa.array(batch.names, pa.string())
    no_names = pa.nulls(n, pa.string())
    statuses = _numbers(pa.uint8(), batch.statuses)
    columns = {
        "record": pa.repeat(pa.scalar(record, pa.int64()), n), "ordinal": _numbers(pa.int32(), array("i", range(n))),
        "at_ms": pa.repeat(pa.scalar(at_ms, pa.int64()), n), "id": pa.array(batch.ids, pa.string()),
        "kind": _KINDS.take(_numbers(pa.uint8(), batch.kinds)), "debit": names.take(_numbers(pa.uint32(), batch.debits)),
        "credit": names.take(_numbers(pa.uint32(), batch.credits)), "amount_nanos": _numbers(pa.int64(), batch.amounts),
        "job": _marked(names, batch.jobs) if batch.jobs else no_names,
        "lease": _marked(names, batch.leases) if batch.leases else no_names,
    }  # fmt: skip
    booked = pa.table(columns)
    if not any(batch.statuses):
        return {"transfers": booked}
    refused = pc.not_equal(statuses, _BOOKED)
    failed = pa.table({**columns, "status": _STATUSES.take(statuses)}).filter(refused)
    kept = booked.filter(pc.invert(refused))
    return {"transfers": kept, "refused_transfers": failed} if len(kept) else {"refused_transfers": failed}


def _marked(names: pa.Array, marks: Sequence[int]) -> pa.Array:
    """Names by their place from 1; none for 0."""
    return pa.concat_arrays([pa.nulls(1, pa.string()), names]).take(_numbers(pa.uint32(), marks))


def _numbers(kind: pa.DataType, values: Sequence[int]) -> pa.Array:
    """Bytes and packed arrays as they lie in memory."""
    if isinstance(values, (bytes, array)):
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
    return pa.array(values, kind)
