"""What the parent heard, and what the journal's bytes say: two accounts that share no code with what is tortured.

The reader here is made from docs/FORMATS.md with `struct`, `zlib` and `hashlib` alone, and the books are added up from
nothing: a fault of the exchange's own reader or ledger cannot hide itself.
"""

import hashlib
import json
import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from market.torture.writer import CUSTOMER, content
from storage.records import spread_record
from storage.transfer_batches import MAGIC

Line = dict[str, Any]
_HEADER, _RECORD = 96, 48


@dataclass(slots=True)
class Account:
    """Wishes by id and kind: asked, and of these acknowledged. Heard over the pipe, nothing is looked up."""

    asked: dict[tuple[str, str], Line] = field(default_factory=dict)
    acknowledged: set[tuple[str, str]] = field(default_factory=set)

    def hear(self, line: Line) -> None:
        """One line of a writer."""
        if "asked" in line:
            wish = line["asked"]
            self.asked.setdefault((wish["what"], wish["id"]), wish)
        elif "answered" in line:
            what, id = line["answered"]
            self.acknowledged.add((what, id))

    def unsure(self) -> list[Line]:
        """What was asked and never acknowledged, oldest first."""
        return [wish for key, wish in self.asked.items() if key not in self.acknowledged]


@dataclass(slots=True)
class Audit:
    """What is wrong, sentence by sentence, by the promise that it breaks."""

    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    wallet: int = 0
    escrow: int = 0
    records: int = 0

    @property
    def broken(self) -> list[str]:
        return [*self.lost, *self.double, *self.wrong]


def audit(home: Path, account: Account) -> Audit:
    """Compare everything that was acknowledged with the journal and the blobs as they lie on the disk now."""
    found = Audit()
    booked = _book(home / "journal", found)
    for what, id in sorted(account.acknowledged):
        wish = account.asked[what, id]
        name = {"deposit": id, "hold": f"hold:{id}", "release": f"release:{id}"}.get(what)
        if name is not None:
            transfer = booked.get(name)
            if transfer is None:
                found.lost.append(f"the {what} {id} was acknowledged and is not in the journal")
            elif what != "release" and transfer["amount_nanos"] != wish["nanos"]:
                found.wrong.append(f"the {what} {id} has another amount than was asked")
        else:
            _check_blob(home / "blobs", what, wish, found)
    for name, transfer in booked.items():
        kind, _, job = name.partition(":")
        asked = (kind, job) if job else (transfer["kind"], name)
        if asked not in account.asked:
            found.wrong.append(f"the transfer {name} was never asked for")
    return found


def _check_blob(folder: Path, what: str, wish: Line, found: Audit) -> None:
    data = content(wish["id"], wish["length"])
    digest = hashlib.sha256(data).hexdigest()
    path = folder / digest[:2] / digest
    if what == "delete":
        return  # that a removal is undone by a power cut is allowed: nobody is promised less than the bytes
    try:
        kept = path.read_bytes()
    except FileNotFoundError:
        found.lost.append(f"the blob {wish['id']} ({digest[:12]}…) was acknowledged and is not there")
        return
    if kept != data:
        found.wrong.append(f"the blob {wish['id']} ({digest[:12]}…) has other bytes than its name says")


def _book(folder: Path, found: Audit) -> dict[str, Line]:
    """Every transfer of the journal by its id, balances summed up; what is wrong goes into `found`."""
    balances: Counter[str] = Counter()
    booked: dict[str, Line] = {}
    for payload in _payloads(folder, found):
        for event in _events(payload):
            if event["type"] != "transfer":
                continue
            if event["id"] in booked:
                found.double.append(f"the transfer {event['id']} was booked twice")
            booked[event["id"]] = event
            balances[event["debit"]] -= event["amount_nanos"]
            balances[event["credit"]] += event["amount_nanos"]
            if event["debit"] != "world" and balances[event["debit"]] < 0:
                found.wrong.append(f"{event['debit']} is below zero after {event['id']}")
    if sum(balances.values()):
        found.wrong.append("the balances together are not zero")
    found.wallet = balances[f"wallet:{CUSTOMER}"]
    found.escrow = sum(nanos for name, nanos in balances.items() if name.startswith("escrow:"))
    return booked


def _events(payload: bytes) -> list[Line]:
    """Of a record. Packed transfers, which no writer here makes, are the one thing that the market's own code reads."""
    packed = payload.startswith(MAGIC) or b'"type":"transfers"' in payload
    events: list[Line] = spread_record(payload)["events"] if packed else json.loads(payload)["events"]
    return events


def _unsealed(path: Path, data: bytes, found: Audit) -> bytes:
    """The segment that a sealed file stands for."""
    magic, first, last, size, term, hashed, _, digest, count, _, crc = struct.unpack("<8sQQQQ32s32s32sI16sI", data[:160])
    if magic != b"TORGSEG1" or zlib.crc32(data[:156] + data[160 : 160 + 64 * count]) != crc:
        found.wrong.append(f"the head of the sealed segment {path.name} is damaged")
        return b""
    head = b"TORGJNL1" + struct.pack("<QQ32s36x", first, term, hashed)
    made, number, at = [head, struct.pack("<I", zlib.crc32(head))], first, 160 + 64 * count
    for place in range(count):
        (length,) = struct.unpack_from("<I", data, 160 + 64 * place + 56)
        plain = zlib.decompress(data[at : at + length])
        at += length
        (records,) = struct.unpack_from("<I", plain)
        begin = 4 + 8 * records
        for long, seat in struct.iter_unpack("<II", plain[4:begin]):
            payload = plain[begin : begin + long]
            hashed = hashlib.sha256(hashed + number.to_bytes(8, "little") + payload).digest()
            short = struct.pack("<4sII", b"TREC", long, seat)
            made += [short, struct.pack("<I", zlib.crc32(short + hashed + payload)), hashed, payload]
            begin, number = begin + long, number + 1
    whole = b"".join(made)
    if len(whole) != size or number != last + 1 or hashlib.sha256(whole).digest() != digest:
        found.wrong.append(f"the sealed segment {path.name} does not give what its head says")
    return whole


def _payloads(folder: Path, found: Audit) -> list[bytes]:
    before = bytes(32)
    payloads: list[bytes] = []
    paths = {path.stem: path for form in ("sealed", "journal") for path in folder.glob(f"*.{form}")}
    for _, path in sorted(paths.items()):
        data = path.read_bytes()
        if path.suffix == ".sealed":
            data = _unsealed(path, data, found)
        if data[:8] != b"TORGJNL1" or zlib.crc32(data[:92]) != struct.unpack("<I", data[92:96])[0]:
            found.wrong.append(f"the head of segment {path.name} is damaged")
            break
        first, _, said = struct.unpack("<QQ32s", data[8:56])
        if first != len(payloads) + 1 or said != before:
            found.wrong.append(f"segment {path.name} does not follow on the one before")
            break
        at = _HEADER
        while at < len(data):
            magic, length, _, crc, hashed = struct.unpack("<4sIII32s", data[at : at + _RECORD].ljust(_RECORD, b"\0"))
            payload = data[at + _RECORD : at + _RECORD + length]
            number = len(payloads) + 1
            chained = hashlib.sha256(before + number.to_bytes(8, "little") + payload).digest()
            whole = magic == b"TREC" and len(payload) == length
            if not whole or crc != zlib.crc32(data[at : at + 12] + hashed + payload) or chained != hashed:
                found.wrong.append(f"record {number} of segment {path.name} is not whole after a recovery")
                return payloads
            before = hashed
            payloads.append(payload)
            at += _RECORD + length
    found.records = len(payloads)
    return payloads
