"""Scalars as TensorBoard event files, written after their published format.

A file is a chain of TFRecords: u64 length, masked CRC-32C of those 8 bytes, the bytes, masked CRC-32C of the bytes, all
little-endian. Each holds an `Event` protobuf message: 1 wall_time (double, seconds), 2 step (int64), 3 file_version
(text, in the first event), 5 summary; a summary has values (1) with a tag (1) and a simple_value (2, float).
Sources: tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto, RFC 3720 (CRC-32C).
"""

import struct
from collections.abc import Iterable, Mapping

VERSION = b"brain.Event:2"
_MASK = 0xA282EAD8
_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def event_file(rows: Iterable[tuple[int, int, Mapping[str, float]]]) -> bytes:
    """A whole event file of rows (milliseconds since 1970, step, scalars by tag)."""
    rows = list(rows)
    began_ms = rows[0][0] if rows else 0
    parts = [_record(_double(1, began_ms / 1000) + _bytes(3, VERSION))]
    for at_ms, step, scalars in rows:
        summary = b"".join(_bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in scalars.items())
        parts.append(_record(_double(1, at_ms / 1000) + _tag(2, 0) + _varint(step) + _bytes(5, summary)))
    return b"".join(parts)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + _MASK) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    assert value >= 0, value
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _tag(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _bytes(field: int, data: bytes) -> bytes:
    return _tag(field, 2) + _varint(len(data)) + data


def _double(field: int, value: float) -> bytes:
    return _tag(field, 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _tag(field, 5) + struct.pack("<f", value)
