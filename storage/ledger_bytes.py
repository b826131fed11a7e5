"""A whole ledger as bytes, as a snapshot of the market holds it. Nothing but a cache: the journal makes it again.

offset  size  field
0       8     magic `TORGLGR2`
8       4     CRC-32 of everything after it
12      4     s, the bytes of the state
16      8     n, the number of transfers
24      8     i, the bytes of the ids
32      8     t, the number of slots
40      s     the state: JSON without columns (names, texts, balances, newest entries, refused, closed_ms)
+s      i     ids in order, UTF-8, one directly after the other
+i      8n    where each id ends
+8n     4t    slots of the ids' table (storage/transfer_ids.py)
+4t           the columns of COLUMNS one after the other, n values each

Integers are little-endian.
"""

import json
import struct
import sys
import zlib
from array import array
from collections.abc import Mapping
from typing import Any, Final

from storage.transfer_ids import TransferIds

COLUMNS: Final[Mapping[str, str]] = {
    "kinds": "B", "at": "q", "amounts": "q", "debits": "I", "credits": "I", "jobs": "I", "leases": "I",
    "debit_after": "q", "credit_after": "q", "debit_before": "I", "credit_before": "I",
}  # fmt: skip
_HEAD: Final = struct.Struct("<8sIIQQQ")
_MAGIC: Final = b"TORGLGR2"
Columns = dict[str, Any]


class BadLedger(ValueError):
    """The bytes are not a whole ledger."""


def write_ledger(columns: Mapping[str, "bytearray | array[int]"], state: Mapping[str, Any], ids: TransferIds) -> bytes:
    """The bytes of the module's head."""
    said = json.dumps(state, separators=(",", ":")).encode()
    text, ends, slots = ids.packed()
    parts = [said, text, _little("Q", ends), _little("I", slots)]
    parts += [_little(kind, columns[name]) for name, kind in COLUMNS.items()]
    head = _HEAD.pack(_MAGIC, 0, len(said), len(ends), len(text), len(slots))
    crc = zlib.crc32(head[12:])
    for part in parts:
        crc = zlib.crc32(part, crc)
    return b"".join((head[:8], struct.pack("<I", crc), head[12:], *parts))


def read_ledger(data: bytes | memoryview) -> tuple[Columns, dict[str, Any], TransferIds]:
    """Columns, state and ids. Raises BadLedger."""
    view = memoryview(data)
    if len(view) < _HEAD.size:
        raise BadLedger("a ledger ends inside its head")
    magic, crc, said, n, identified, slots = _HEAD.unpack_from(view)
    width = 8 + sum(array(kind).itemsize for kind in COLUMNS.values())
    whole = len(view) == _HEAD.size + said + identified + 4 * slots + n * width
    if magic != _MAGIC or not whole or crc != zlib.crc32(view[12:]):
        raise BadLedger("the bytes of a ledger are not whole")
    at = _HEAD.size

    def piece(size: int) -> memoryview:
        nonlocal at
        at += size
        return view[at - size : at]

    state = json.loads(bytes(piece(said)))
    ids = TransferIds(bytes(piece(identified)), _column("Q", piece(8 * n)), _column("I", piece(4 * slots)))
    columns: Columns = {}
    for name, kind in COLUMNS.items():
        part = piece(n * array(kind).itemsize)
        columns[name] = bytearray(part) if kind == "B" else _column(kind, part)
    return columns, state, ids


def _little(kind: str, column: "bytearray | array[int]") -> bytes:
    if sys.byteorder == "big" and kind != "B":
        column = array(kind, column)
        column.byteswap()
    return bytes(column) if kind == "B" else column.tobytes()  # type: ignore[union-attr]


def _column(kind: str, piece: memoryview) -> "array[int]":
    made = array(kind)
    made.frombytes(piece)
    if sys.byteorder == "big":
        made.byteswap()
    return made
