"""The journal's bytes read by docs/FORMATS.md with `struct`, `zlib`, `hashlib` and `json` alone: no code of ours."""

import hashlib
import json
import struct
import zlib
from base64 import b64decode
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
    paths = sorted(folder.glob("*.journal"))
    for path in paths:
        data = path.read_bytes()
        if data[:8] != b"TORGJNL1" or zlib.crc32(data[:92]) != int.from_bytes(data[92:96], "little"):
            raise Unreadable(f"the head of segment {path.name} is damaged")
        first, _, said = struct.unpack("<QQ32s", data[8:56])
        if first != len(found) + 1 or said != before:
            raise Unreadable(f"segment {path.name} does not follow on the one before")
        if path == paths[-1]:
            data = data.rstrip(b"\0")  # room that was taken in advance; no payload of the market ends so
        at = HEADER_BYTES
        while at < len(data):
            number = len(found) + 1
            magic, length, _, crc, hashed = struct.unpack("<4sIII32s", data[at : at + RECORD_BYTES].ljust(RECORD_BYTES, b"\0"))
            payload = data[at + RECORD_BYTES : at + RECORD_BYTES + length]
            chained = hashlib.sha256(before + number.to_bytes(8, "little") + payload).digest()
            whole = magic == b"TREC" and len(payload) == length
            if not whole or crc != zlib.crc32(data[at : at + 12] + hashed + payload) or chained != hashed:
                raise Unreadable(f"record {number} in segment {path.name} is not whole")
            body = _packed(payload) if payload[:4] == b"TPB1" else json.loads(payload)
            for event in body["events"]:
                if event["type"] == "transfers":
                    body = _packed(b64decode(event["batch"]))
            found.append(Record(number, body["at_ms"], body["events"], chained))
            before = chained
            at += RECORD_BYTES + length
    return found


def packed_by_the_page(data: bytes) -> tuple[int, list[Event]]:
    """at_ms and the events of a record of packed transfers."""
    kinds = ["deposit", "grant", "expire", "hold", "charge", "fee", "release", "payout", "correction"]
    refusals = ["would_overdraw", "would_overflow", "too_much_money", "hold_released", "period_closed"]
    n, at_ms, named, identified, flags, reserved = struct.unpack("<IQIIII", data[4:32])
    if data[:4] != b"TPB1" or flags not in (0, 1) or reserved:
        raise Unreadable("the head of packed transfers is not what the page says")
    at = 32

    def column(form: str) -> tuple[int, ...]:
        nonlocal at
        at += n * struct.calcsize(f"<{form}")
        return struct.unpack(f"<{n}{form}", data[at - n * struct.calcsize(f"<{form}") : at])

    kind, status, debit, credit, amount = (column(form) for form in "BBIIq")
    job, lease = (column("I"), column("I")) if flags else ((0,) * n, (0,) * n)
    names = data[at : at + named].decode().split("\n")
    ids = data[at + named :].decode().split("\n")
    if len(data) != at + named + identified:
        raise Unreadable("packed transfers are longer than their head says")
    events = []
    for row in range(n):
        event = {
            "type": "transfer", "id": ids[row], "kind": kinds[kind[row]], "debit": names[debit[row]], "credit": names[credit[row]],
            "amount_nanos": amount[row], "job": names[job[row] - 1] if job[row] else None,
            "lease": names[lease[row] - 1] if lease[row] else None,
        }  # fmt: skip
        events.append(event | ({"type": "transfer_refused", "status": refusals[status[row] - 1]} if status[row] else {}))
    return at_ms, events


def _packed(data: bytes) -> dict[str, Any]:
    at_ms, events = packed_by_the_page(data)
    return {"at_ms": at_ms, "events": events}
