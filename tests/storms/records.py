"""The journal's bytes read by docs/FORMATS.md with `struct`, `zlib`, `hashlib` and `json` alone: no code of ours."""

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADER_BYTES, RECORD_BYTES = 96, 48
Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it lies on the disk. `chained` is the chain hash up to and including it."""

    number: int
    at_ms: int
    events: list[Event]
    chained: bytes


class Unreadable(Exception):
    """The journal's bytes are not what the format says; the text says where."""


def read_records(folder: Path) -> list[Record]:
    """Every record of a journal that was recovered, each byte checked. Raises Unreadable."""
    before, found = bytes(32), list[Record]()
    for path in sorted(folder.glob("*.journal")):
        data = path.read_bytes()
        if data[:8] != b"TORGJNL1" or zlib.crc32(data[:92]) != int.from_bytes(data[92:96], "little"):
            raise Unreadable(f"the head of segment {path.name} is damaged")
        first, _, said = struct.unpack("<QQ32s", data[8:56])
        if first != len(found) + 1 or said != before:
            raise Unreadable(f"segment {path.name} does not follow on the one before")
        at = HEADER_BYTES
        while at < len(data):
            number = len(found) + 1
            magic, length, _, crc, hashed = struct.unpack("<4sIII32s", data[at : at + RECORD_BYTES].ljust(RECORD_BYTES, b"\0"))
            payload = data[at + RECORD_BYTES : at + RECORD_BYTES + length]
            chained = hashlib.sha256(before + number.to_bytes(8, "little") + payload).digest()
            whole = magic == b"TREC" and len(payload) == length
            if not whole or crc != zlib.crc32(data[at : at + 12] + hashed + payload) or chained != hashed:
                raise Unreadable(f"record {number} in segment {path.name} is not whole")
            body = json.loads(payload)
            found.append(Record(number, body["at_ms"], body["events"], chained))
            before = chained
            at += RECORD_BYTES + length
    return found
