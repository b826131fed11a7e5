"""Reading the journal without a lock: replay, tailing, verification. The bytes are described in storage/journal.py."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from storage.formats import FormatNewer
from storage.journal_format import (
    MAX_PAYLOAD_BYTES,
    NO_HASH,
    RECORD_HEADER,
    RECORD_MAGIC,
    SEGMENT_HEADER,
    SEGMENT_MAGIC,
    WRITTEN,
    JournalAway,
    JournalCorrupt,
    JournalNewer,
    JournalRewound,
    Place,
    Record,
    SegmentHeader,
    chain,
    record_crc,
    segment_name,
    segments,
)
from storage.sealed_segments import SealedFile
from storage.segment_files import open_segment, sealed_of, segment_bytes

SETTLE_S = 0.02  # an append of another process is longer visible in part than this only if that process is dead
_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Verification:
    """What a walk over every byte found; `records` and `head` describe the whole records before `first_bad`."""

    ok: bool
    records: int
    head: str
    first_bad: str | None


class Walk:
    """Iterates over the whole records, checking every byte, and remembers where it stands.

    After the iteration `bad` says what stopped it (None at a clean end), `torn` whether the rest can be the
    tail of an append that never returned, and `newer` whether a newer torg wrote it. Iterating again goes on from there: that is how a reader tails.
    `after` skips to the records after that number; with `expect` (hex) the skipped record must have that hash.
    `place` begins right behind a record that was read before, and reads nothing before it.
    """

    def __init__(self, folder: Path, after: int = 0, expect: str | None = None, *, place: Place | None = None) -> None:
        self.folder = folder
        self.number = 0
        self.hash = NO_HASH
        self.term = 0
        self.path: Path | None = None
        self.offset = 0
        self.bad: str | None = None
        self.torn = False
        self.newer = False
        self._in_room: int | None = None  # where zeros were met though the next segment had begun
        self._after = after
        self._expect = expect
        self._whole = after == 0
        self._place = place

    def enter(self) -> None:
        """Stand where the iteration begins, if there is anything. Raises JournalRewound where `place` is not there."""
        if self.path is None and self._place is not None:
            self._enter_behind(self._place)

    def __iter__(self) -> Iterator[Record]:
        self._forget()
        self.enter()
        if self.path is None and not self._enter_first():
            return
        while True:
            yield from self._rest_of_segment()
            if self.bad is not None:
                self._judge()
                break
            if not self._enter_next():
                break
        if self.number < self._after and self.bad is None:
            raise JournalRewound(f"the journal ends at record {self.number}, before record {self._after}")

    def check(self) -> None:
        """Raise JournalNewer or JournalCorrupt if what stopped the iteration is no torn tail."""
        if self.bad is not None and not self.torn:
            raise (JournalNewer if self.newer else JournalCorrupt)(self.bad)

    def _forget(self) -> None:
        self.bad, self.torn, self.newer = None, False, False

    def _enter_first(self) -> bool:
        known = segments(self.folder)
        if not known:
            if self._after:
                raise JournalRewound(f"the journal is empty, and record {self._after} was read from it before")
            return False
        # The segment that holds the record `after` itself, because its hash is compared.
        start = known[0] if self._whole else [known[0], *[p for p in known if int(p.stem) <= self._after]][-1]
        if start == known[0]:
            return self._enter(start, 1, NO_HASH)
        return self._enter(start, int(start.stem), None)

    def _enter_behind(self, place: Place) -> None:
        path = self.folder / segment_name(place.first)
        try:
            with open_segment(self.folder, place.first) as file:
                header = SegmentHeader.decode(file.read(SEGMENT_HEADER.size))
                file.seek(place.offset)
                head = file.read(RECORD_HEADER.size)
                length = RECORD_HEADER.unpack(head)[1] if len(head) == RECORD_HEADER.size else 0
                payload = file.read(min(length, MAX_PAYLOAD_BYTES))
        except FileNotFoundError as error:
            raise JournalRewound(f"segment {path.name}, which held record {place.number}, is not there") from error
        if len(head) < RECORD_HEADER.size or header is None or header.first != place.first:
            raise JournalRewound(f"segment {path.name} does not hold record {place.number} any more")
        magic, length, _, crc, hashed = RECORD_HEADER.unpack(head)
        whole = magic == RECORD_MAGIC and len(payload) == length and crc == record_crc(head, hashed, payload)
        if not whole or hashed.hex() != place.hash:
            raise JournalRewound(f"segment {path.name} has not record {place.number} at offset {place.offset}")
        self.path, self.offset = path, place.offset + RECORD_HEADER.size + length
        self.number, self.hash, self.term = place.number, hashed, header.term

    def place(self, record: Record) -> Place:
        """Where the record lies that the iteration has just given."""
        assert self.path is not None, "a record was read from a segment"
        assert record.number == self.number, "it is the last one that was given"
        begins = self.offset - RECORD_HEADER.size - len(record.payload)
        return Place(int(self.path.stem), begins, record.number, record.hash)

    def _enter_next(self) -> bool:
        assert self.path is not None
        later = [path for path in segments(self.folder) if path.stem > self.path.stem]
        if not later:
            return False
        # A roll may have come between our last read and this listing: the rest of the old segment first.
        if segment_bytes(self.folder, int(self.path.stem)) > self.offset:
            if self._in_room == self.offset:
                self.bad = f"segment {self.path.name}, record {self.number + 1}, offset {self.offset}: there are zeros where a record should be"
                return False
            self._in_room = self.offset
            return True
        self._in_room = None
        return self._enter(later[0], self.number + 1, self.hash)

    def within(self, path: Path) -> Iterator[Record]:
        """The records of one segment, whose chain hash before it is taken on its word; `check` tells whether it is whole."""
        self._forget()
        if self._enter(path, int(path.stem), None):
            yield from self._rest_of_segment()

    def _enter(self, path: Path, first: int, before: bytes | None) -> bool:
        try:
            with open_segment(self.folder, int(path.stem), buffer_bytes=SEGMENT_HEADER.size) as file:
                head = file.read(SEGMENT_HEADER.size)
        except JournalCorrupt as error:
            self.bad, self.newer, self.torn = str(error), isinstance(error, JournalNewer), False
            return False
        header, name = SegmentHeader.decode(head), path.name
        if (newer := SegmentHeader.newer(head)) is not None:
            header = None
            self.bad = str(FormatNewer(f"the journal's segment {name}", newer, SEGMENT_MAGIC[7:].decode()))
            self.newer = True
        elif header is None:
            self.bad = f"segment {name}, record {first}, offset 0: the segment header is damaged"
        elif header.first != first or int(path.stem) != first:
            self.bad = f"segment {name}, record {first}, offset 8: it starts at record {header.first}, not {first}"
        elif header.term < self.term:
            self.bad = f"segment {name}, record {first}, offset 16: term {header.term} after term {self.term}"
        elif before is not None and header.before != before:
            self.bad = (
                f"segment {name}, record {first}, offset 24: the chain hash does not follow from record {first - 1}"
            )
        if header is None or self.bad is not None:
            self.torn = False
            return False
        self.path, self.offset = path, SEGMENT_HEADER.size
        self.number, self.hash, self.term = first - 1, header.before, header.term
        return True

    def _rest_of_segment(self) -> Iterator[Record]:
        assert self.path is not None
        with open_segment(self.folder, int(self.path.stem)) as file:
            size = file.seek(0, os.SEEK_END)
            if size < self.offset:
                raise JournalRewound(f"segment {self.path.name} ends at {size}, and {self.offset} was read before")
            file.seek(0)
            self._check_still_ours(file.read(SEGMENT_HEADER.size))
            if (sealed := sealed_of(file)) is not None:
                yield from self._rest_of_sealed(sealed)
                return
            file.seek(self.offset)
            while True:
                head = file.read(RECORD_HEADER.size)
                if not head.strip(b"\0"):
                    if _only_zeros(file):
                        return
                    file.seek(self.offset + len(head))
                record = self._record(head, file.read)
                if record is None:
                    return
                yield from self._passed(record)

    def _rest_of_sealed(self, sealed: SealedFile) -> Iterator[Record]:
        try:
            for number, payload, hashed in sealed.records(self.offset, self.hash):
                self.number, self.hash = number, hashed
                self.offset += RECORD_HEADER.size + len(payload)
                yield from self._passed(Record(number, payload, hashed.hex()))
        except JournalCorrupt as error:
            self.bad = str(error)

    def _check_still_ours(self, data: bytes) -> None:
        header = SegmentHeader.decode(data)
        if header is not None and header.term != self.term:
            # An empty segment is replaced by the next open of the writer.
            if self.offset > SEGMENT_HEADER.size:
                raise JournalRewound(f"a segment that held records up to {self.number} was started anew")
            self.term = header.term

    def _record(self, head: bytes, read: Callable[[int], bytes]) -> Record | None:
        """The record that starts with `head`, or None with `bad` set. Moves on only over a whole record."""
        number = self.number + 1
        assert self.path is not None
        where = f"segment {self.path.name}, record {number}, offset {self.offset}"
        if len(head) < RECORD_HEADER.size:
            return self._stop(f"{where}: the file ends inside a record")
        magic, length, _, crc, hashed = RECORD_HEADER.unpack(head)
        if magic != RECORD_MAGIC or length > MAX_PAYLOAD_BYTES:
            return self._stop(f"{where}: this is not the head of a record")
        payload = read(length)
        if len(payload) < length:
            return self._stop(f"{where}: the file ends inside a record")
        if crc != record_crc(head, hashed, payload):
            return self._stop(f"{where}: a byte of this record was changed (CRC)")
        if hashed != chain(self.hash, number, payload):
            return self._stop(f"{where}: the chain hash does not follow from record {number - 1}")
        self.number, self.hash = number, hashed
        self.offset += RECORD_HEADER.size + length
        return Record(number, payload, hashed.hex())

    def _stop(self, reason: str) -> Record | None:
        self.bad = reason
        return None

    def _passed(self, record: Record) -> Iterator[Record]:
        if record.number == self._after and self._expect is not None and record.hash != self._expect:
            raise JournalRewound(f"record {record.number} is not the one that was read before")
        if record.number > self._after:
            yield record

    def _judge(self) -> None:
        """Torn, or damaged? Damaged if anything later proves that the bad record had been acknowledged."""
        assert self.path is not None
        later = [path for path in segments(self.folder) if path.stem > self.path.stem]
        self.torn = not later and self.path.suffix == WRITTEN and not _acknowledged_later(self.path, self.offset)


def _only_zeros(file: BinaryIO) -> bool:
    """Whether nothing else follows."""
    return all(piece == bytes(len(piece)) for piece in iter(lambda: file.read(_READ_BYTES), b""))


def _acknowledged_later(path: Path, offset: int) -> bool:
    """Whether after the unreadable record at `offset` there is a whole record that began an append."""
    with path.open("rb") as file:
        file.seek(offset)
        rest = file.read()
    at = rest.find(RECORD_MAGIC, 1)
    while at >= 0:
        head = rest[at : at + RECORD_HEADER.size]
        if len(head) == RECORD_HEADER.size:
            _, length, place, crc, hashed = RECORD_HEADER.unpack(head)
            payload = rest[at + RECORD_HEADER.size : at + RECORD_HEADER.size + length]
            whole = len(payload) == length
            # Every append begins with place 0, so that a whole record with place 0 begins a later append.
            if place == 0 and whole and crc == record_crc(head, hashed, payload):
                return True
        at = rest.find(RECORD_MAGIC, at + 1)
    return False


def read_journal(folder: Path, after: int = 0) -> Iterator[Record]:
    """The whole records after number `after`, checked as they are read; needs no lock.

    Stops at the last whole record; raises JournalCorrupt where an acknowledged record is damaged, and
    JournalRewound where the journal is shorter than `after`.
    """
    walk = Walk(folder, after)
    yield from walk
    walk.check()


def verify_journal(folder: Path) -> Verification:
    """Read every byte and say where the first bad one is; never raises for what it finds in the files.

    A tail that is not a whole record counts as bad, too: the writer cuts it when it opens. A journal that is
    being written meanwhile is read again from where the walk stood, until it stands still.
    """
    walk = Walk(folder)
    stood = (-1, -1)
    while True:
        try:
            for _ in walk:
                pass
        except JournalAway as error:
            return Verification(False, walk.number, walk.hash.hex(), str(error))
        size = segment_bytes(folder, int(walk.path.stem)) if walk.path is not None and walk.torn else 0
        if walk.bad is None or not walk.torn or stood == (walk.number, size):
            return Verification(walk.bad is None, walk.number, walk.hash.hex(), walk.bad)
        stood = (walk.number, size)
        time.sleep(SETTLE_S)
