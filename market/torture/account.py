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
    closed: set[int] = field(default_factory=set)
    """Instants up to which the books were said to be closed."""

    def hear(self, line: Line) -> None:
        """One line of a writer."""
        if "asked" in line:
            wish = line["asked"]
            self.asked.setdefault((wish["what"], wish["id"]), wish)
        elif "answered" in line:
            what, id = line["answered"]
            self.acknowledged.add((what, id))
            if what == "close":
                self.closed.add(line["through_ms"])

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
    booked, closed = _book(home / "journal", found)
    for what, id in sorted(account.acknowledged):
        wish = account.asked[what, id]
        if what in ("put", "upload", "delete"):
            _check_blob(home / "blobs", what, wish, found)
        for name, nanos in _transfers_of(what, wish):
            transfer = booked.get(name)
            if transfer is None:
                found.lost.append(f"the {what} {id} was acknowledged and is not in the journal")
            elif nanos is not None and transfer["amount_nanos"] != nanos:
                found.wrong.append(f"the {what} {id} has another amount than was asked")
    found.lost += [f"the books were closed up to {through_ms} ms, and the journal does not say so" for through_ms in account.closed - closed]
    wished = {name for (what, _), wish in account.asked.items() for name, _ in _transfers_of(what, wish)}
    found.wrong += [f"the transfer {name} was never asked for" for name in booked if name not in wished]
    return found


def _transfers_of(what: str, wish: Line) -> list[tuple[str, int | None]]:
    """Ids of the transfers that a wish comes to, and the amount of each as far as the wish says it."""
    id = wish["id"]
    if what == "batch":
        return [(f"{id}-{place}", nanos) for place, nanos in enumerate(wish["nanos"])]
    if what in ("deposit", "correct"):
        return [(id, wish["nanos"])]
    return {"hold": [(f"hold:{id}", wish.get("nanos"))], "release": [(f"release:{id}", None)]}.get(what, [])


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


def _book(folder: Path, found: Audit) -> tuple[dict[str, Line], set[int]]:
    """Every transfer of the journal by its id, balances summed up, and when periods end; what is wrong goes into `found`."""
    balances: Counter[str] = Counter()
    booked: dict[str, Line] = {}
    moves: list[tuple[int, Line]] = []
    closed: set[int] = set()
    for payload in _payloads(folder, found):
        at_ms, events = _body(payload)
        for event in events:
            if event["type"] == "period_closed":
                closed.add(event["through_ms"])
                _check_period(event, moves, found)
            if event["type"] != "transfer":
                continue
            moves.append((at_ms, event))
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
    return booked, closed


def _check_period(event: Line, moves: list[tuple[int, Line]], found: Audit) -> None:
    """What a closed period says that everybody had is what the transfers up to then come to."""
    balances: Counter[str] = Counter()
    for at_ms, move in moves:
        if at_ms <= event["through_ms"]:
            balances[move["debit"]] -= move["amount_nanos"]
            balances[move["credit"]] += move["amount_nanos"]
    if {name: nanos for name, nanos in balances.items() if nanos} != {name: nanos for name, nanos in event["balances"].items() if nanos}:
        found.wrong.append(f"period {event['number']} was closed with other balances than its transfers come to")


def _body(payload: bytes) -> tuple[int, list[Line]]:
    """at_ms and events of a record. Packed transfers are the one thing that the market's own code reads."""
    packed = payload.startswith(MAGIC) or b'"type":"transfers"' in payload
    body: Line = spread_record(payload) if packed else json.loads(payload)
    return body["at_ms"], body["events"]


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
        if path.stem == max(paths):
            data = data.rstrip(b"\0")  # room that was taken in advance; no payload of the market ends so
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
