"""The market's log: every journal record is a leaf of one Merkle tree, and what a leaf commits to.

An event is committed to by leaf_hash(salt ‖ canonical JSON of the event); its salt is HMAC-SHA-256 under a secret of the
market over (record, ordinal), so that a proof, which shows the hashes of neighbours, does not let anybody guess what they
say. A record is committed to by

    leaf_hash("torg-record-1\\n" ‖ number (8) ‖ at_ms (8) ‖ events (4) ‖ root of its events' tree (32))

with big-endian integers. Record n is leaf n - 1 of the log, so a head of size s covers records 1 to s.

`LogIndex` keeps the records' leaves in a file, to be made again from the journal at any time:

    offset  size  field
    0       8     magic `TORGTRE1`
    8       32    SHA-256 of the secret
    40 + 52·i     record i + 1: leaf (32), number of the first record of its segment (8), offset in it (8), CRC-32 over
                  the record's number (8) and those 48 bytes (4); big-endian
"""

import hashlib
import hmac
import logging
import os
import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from storage.canonical import canonical_bytes
from storage.journal_format import (
    NO_HASH,
    RECORD_HEADER,
    JournalCorrupt,
    JournalRewound,
    Record,
    record_crc,
)
from storage.journal_reader import Walk
from storage.merkle import Tree, leaf_hash
from storage.records import spread_record
from storage.segment_files import RecordFiles

log = logging.getLogger("torg.log")

RECORD_PREFIX: Final = b"torg-record-1\n"
_RECORD: Final = struct.Struct(">QQI")
_MAGIC: Final = b"TORGTRE1"
_ENTRY: Final = struct.Struct(">32sQQI")
_HEAD_BYTES: Final = 40
Event = dict[str, Any]


def salt_of(secret: bytes, number: int, ordinal: int) -> bytes:
    """The salt of an event, 32 bytes."""
    return hmac.digest(secret, struct.pack(">QI", number, ordinal), "sha256")


def event_leaf(salt: bytes, event: Event) -> bytes:
    """What commits to an event, 32 bytes."""
    return leaf_hash(salt + canonical_bytes(event))


def record_leaf(number: int, at_ms: int, events: int, events_root: bytes) -> bytes:
    """What commits to a record, 32 bytes."""
    return leaf_hash(RECORD_PREFIX + _RECORD.pack(number, at_ms, events) + events_root)


def events_tree(secret: bytes, number: int, events: Sequence[Event]) -> Tree:
    """The tree over a record's events."""
    return Tree(event_leaf(salt_of(secret, number, ordinal), event) for ordinal, event in enumerate(events))


@dataclass(frozen=True, slots=True)
class Shown:
    """One event with what proves it within its record: `path` leads from it to the record's root of events."""

    ordinal: int
    salt: bytes
    event: Event
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ShownRecord:
    """Some events of a record, and what proves the record in the log: `path` leads from its leaf to the log's root."""

    number: int
    at_ms: int
    events: int
    events_root: bytes
    shown: tuple[Shown, ...]
    path: tuple[bytes, ...]


class LogIndex:
    """The log over one journal folder: follows it, and answers with roots and proofs. Safe for several threads.

    `path` None keeps nothing on disk. Raises what reading a journal raises; a file that does not fit is made again.
    """

    def __init__(self, journal: Path, path: Path | None, secret: bytes) -> None:
        self._journal = journal
        self._path = path
        self._secret = secret
        self._lock = threading.RLock()
        self._tree = Tree()
        self._places: list[tuple[int, int]] = []
        self._file = -1
        self._walk = Walk(journal)
        self._files = RecordFiles(journal)
        self._open()

    def __len__(self) -> int:
        return len(self._tree)

    def close(self) -> None:
        """Release the files; idempotent."""
        with self._lock:
            self._files.close()
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def catch_up(self) -> int:
        """Take in what the journal has more; the number of new records."""
        with self._lock:
            before = len(self._tree)
            try:
                self._follow()
            except JournalRewound as error:
                log.warning("the log is made again: %s", error)
                self._start_new()
                self._follow()
            return len(self._tree) - before

    def root(self, size: int) -> bytes:
        """The root over records 1 to `size`."""
        with self._lock:
            return self._tree.root(size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """What proves that the log of `new` records begins with that of `old`."""
        with self._lock:
            return self._tree.consistency(old, new)

    def show(self, number: int, ordinals: Sequence[int], size: int) -> ShownRecord:
        """These events of a record, proven in the log of `size` records. Raises JournalCorrupt."""
        with self._lock:
            at_ms, events = self._read(number)
            path = tuple(self._tree.inclusion(number - 1, size))
        tree = events_tree(self._secret, number, events)
        shown = tuple(
            Shown(one, salt_of(self._secret, number, one), events[one], tuple(tree.inclusion(one, len(events))))
            for one in ordinals
        )
        return ShownRecord(number, at_ms, len(events), tree.root(), shown, path)

    def _open(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            size = os.fstat(self._file).st_size
            data = os.pread(self._file, size, 0)
            if data[:_HEAD_BYTES] == self._head():
                self._recall(data)
        if not self._places:
            self._start_new()
            return
        try:
            self._check_last()
        except (JournalCorrupt, OSError) as error:
            log.warning("the log's file does not fit the journal and is made again: %s", error)
            self._start_new()
            return
        self._walk = Walk(self._journal, after=len(self._tree))

    def _head(self) -> bytes:
        return _MAGIC + hashlib.sha256(self._secret).digest()

    def _recall(self, data: bytes) -> None:
        """The leaves up to the first entry that was not written whole."""
        for at in range(_HEAD_BYTES, len(data) - _ENTRY.size + 1, _ENTRY.size):
            leaf, first, offset, crc = _ENTRY.unpack_from(data, at)
            number = len(self._places) + 1
            if crc != _entry_crc(number, data[at : at + 48]):
                break
            self._tree.append(leaf)
            self._places.append((first, offset))
        os.ftruncate(self._file, _HEAD_BYTES + len(self._places) * _ENTRY.size)

    def _check_last(self) -> None:
        number = len(self._places)
        at_ms, events = self._read(number)
        leaf = record_leaf(number, at_ms, len(events), events_tree(self._secret, number, events).root())
        if leaf != self._tree.leaf(number - 1):
            raise JournalCorrupt(f"record {number} is not the one that was read before")

    def _start_new(self) -> None:
        self._tree, self._places, self._walk = Tree(), [], Walk(self._journal)
        if self._file >= 0:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, self._head(), 0)

    def _follow(self) -> None:
        entries: list[bytes] = []
        first_new = len(self._places)
        try:
            for record in self._walk:
                entries.append(self._take(record))
        finally:
            if entries and self._file >= 0:
                os.pwrite(self._file, b"".join(entries), _HEAD_BYTES + first_new * _ENTRY.size)
        self._walk.check()

    def _take(self, record: Record) -> bytes:
        body = spread_record(record.payload)
        root = events_tree(self._secret, record.number, body["events"]).root()
        leaf = record_leaf(record.number, body["at_ms"], len(body["events"]), root)
        assert self._walk.path is not None, "a record was read from a segment"
        place = int(self._walk.path.stem), self._walk.offset - RECORD_HEADER.size - len(record.payload)
        self._tree.append(leaf)
        self._places.append(place)
        packed = leaf + struct.pack(">QQ", *place)
        return packed + struct.pack(">I", _entry_crc(record.number, packed))

    def _read(self, number: int) -> tuple[int, list[Event]]:
        """at_ms and events of a record, whole by its CRC. Raises JournalCorrupt, OSError."""
        first, offset = self._places[number - 1]
        path, head, payload = self._files.read(first, offset)
        _, length, _, crc, hashed = RECORD_HEADER.unpack(head) if len(head) == RECORD_HEADER.size else (0, 0, 0, 0, NO_HASH)
        if not payload or len(payload) != length or crc != record_crc(head, hashed, payload):
            raise JournalCorrupt(f"segment {path.name}, record {number}, offset {offset}: it cannot be read")
        body = spread_record(payload)
        return body["at_ms"], body["events"]


def _entry_crc(number: int, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(number.to_bytes(8, "big")))
