"""A whole ledger as bytes, as a snapshot of the market holds it. Nothing but a cache: the journal makes it again.

offset  size  field
0       8     magic `TORGLGR1`
8       4     CRC-32 of everything after it
12      4     s, the bytes of the state
16      8     n, the number of transfers
24      8     i, the bytes of the ids
32      s     the state: JSON without columns (names, texts, balances, newest entries, refused, closed_ms)
+s      i     ids in order, UTF-8, each but the last followed by a line feed
+i            the columns of COLUMNS one after the other, n values each, little-endian
"""

import json
import struct
import sys
import zlib
from array import array
from collections.abc import Mapping
from typing import Any, Final

COLUMNS: Final[Mapping[str, str]] = {
    "kinds": "B", "at": "q", "amounts": "q", "debits": "I", "credits": "I", "jobs": "I", "leases": "I",
    "debit_after": "q", "credit_after": "q", "debit_before": "I", "credit_before": "I",
}  # fmt: skip
_HEAD: Final = struct.Struct("<8sIIQQ")
_MAGIC: Final = b"TORGLGR1"
Columns = dict[str, Any]


class BadLedger(ValueError):
    """The bytes are not a whole ledger."""


def write_ledger(columns: Mapping[str, "bytearray | array[int]"], state: Mapping[str, Any]) -> bytes:
    """The bytes of the module's head. `state` holds `ids`, which are written beside it."""
    plain = json.dumps({name: value for name, value in state.items() if name != "ids"}, separators=(",", ":"))
    said, ids = plain.encode(), "\n".join(state["ids"]).encode()
    parts = [said, ids]
    for name, kind in COLUMNS.items():
        column = columns[name]
        if sys.byteorder == "big" and kind != "B":
            column = array(kind, column)
            column.byteswap()
        parts.append(bytes(column) if kind == "B" else column.tobytes())  # type: ignore[union-attr]
    head = _HEAD.pack(_MAGIC, 0, len(said), len(state["ids"]), len(ids))
    crc = zlib.crc32(head[12:])
    for part in parts:
        crc = zlib.crc32(part, crc)
    return b"".join((head[:8], struct.pack("<I", crc), head[12:], *parts))


def read_ledger(data: bytes | memoryview) -> tuple[Columns, dict[str, Any]]:
    """Columns and state. Raises BadLedger."""
    view = memoryview(data)
    if len(view) < _HEAD.size:
        raise BadLedger("a ledger ends inside its head")
    magic, crc, said, n, identified = _HEAD.unpack_from(view)
    width = sum(array(kind).itemsize for kind in COLUMNS.values())
    if magic != _MAGIC or len(view) != _HEAD.size + said + identified + n * width or crc != zlib.crc32(view[12:]):
        raise BadLedger("the bytes of a ledger are not whole")
    at = _HEAD.size
    state = json.loads(bytes(view[at : at + said]))
    at += said
    state["ids"] = str(view[at : at + identified], "utf-8").split("\n") if n else []
    at += identified
    columns: Columns = {}
    for name, kind in COLUMNS.items():
        size = n * array(kind).itemsize
        piece = view[at : at + size]
        at += size
        if kind == "B":
            columns[name] = bytearray(piece)
            continue
        columns[name] = made = array(kind)
        made.frombytes(piece)
        if sys.byteorder == "big":
            made.byteswap()
    return columns, state
