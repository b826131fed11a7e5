"""The bytes of the journal (described in storage/journal.py): headers, records, the chain, the errors."""

import errno
import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from storage.values import value

SEGMENT_MAGIC = b"TORGJNL1"
RECORD_MAGIC = b"TREC"
SEGMENT_HEADER = struct.Struct("<8sQQ32s36sI")
RECORD_HEADER = struct.Struct("<4sIII32s")
_RECORD_BEGIN = struct.Struct("<4sII")
NO_HASH = bytes(32)
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
SEGMENT_BYTES = 64 * 1024 * 1024
FORMS = (".journal", ".sealed", ".archived")
"""What files of a segment end with, in the order in which it takes these forms: a file goes when the next one is durable."""
WRITTEN, SEALED, ARCHIVED = FORMS
FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class JournalError(Exception):
    """The journal cannot do what was asked."""


class JournalLocked(JournalError):
    """Another process has this journal open."""


class JournalFull(JournalError):
    """The disk is full; nothing of this append was kept, and everything before it is safe."""


class JournalBroken(JournalError):
    """A sync or a repair failed, so what is on disk is unknown: end the process and open again."""


class JournalCorrupt(JournalError):
    """An acknowledged record cannot be read; the text names segment, record and offset."""


class JournalNewer(JournalCorrupt):
    """A newer torg wrote this journal; nothing of it is damaged, and nothing here may touch it. The text names both formats."""


class JournalAway(JournalError, OSError):
    """A segment is archived in a place that does not answer; the text names both. Nothing is lost or damaged as far as is known."""


class JournalRewound(JournalError):
    """What a reader had read is not in the journal any more (an append that never returned was cut off)."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its number (from 1), its payload, and the chain hash up to and including it (hex)."""

    number: int
    payload: bytes
    hash: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies: the first record of its segment, its offset in it, its number, and its chain hash (hex)."""

    first: int
    offset: int
    number: int
    hash: str


@value
class Durable:
    """How far a journal is durable: every segment before `first`, and the first `bytes` bytes of that one (0: no record is in it)."""

    records: int
    first: int
    bytes: int


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The head of a segment file: its first record's number, its term, the chain hash before it."""

    first: int
    term: int
    before: bytes

    def encode(self) -> bytes:
        """The 96 bytes of the header."""
        body = SEGMENT_HEADER.pack(SEGMENT_MAGIC, self.first, self.term, self.before, bytes(36), 0)[:-4]
        return body + struct.pack("<I", zlib.crc32(body))

    @staticmethod
    def newer(data: bytes) -> int | None:
        """The version in the magic of a header that is newer than this one, else None."""
        version = data[7:8]
        is_newer = data[:7] == SEGMENT_MAGIC[:7] and version.isdigit() and version > SEGMENT_MAGIC[7:]
        return int(version) if is_newer else None

    @classmethod
    def decode(cls, data: bytes) -> "SegmentHeader | None":
        """The header in `data`, or None where a byte of it is wrong."""
        if len(data) != SEGMENT_HEADER.size:
            return None
        magic, first, term, before, reserved, crc = SEGMENT_HEADER.unpack(data)
        if magic != SEGMENT_MAGIC or any(reserved) or crc != zlib.crc32(data[:-4]):
            return None
        return cls(first, term, before)


def chain(before: bytes, number: int, payload: bytes | memoryview) -> bytes:
    """The chain hash of record `number`, 32 bytes."""
    return hashlib.sha256(b"".join((before, number.to_bytes(8, "little"), payload))).digest()


def record_crc(head: bytes, hashed: bytes, payload: bytes | memoryview) -> int:
    """CRC-32 over what a record header says (its first 12 bytes), its chain hash and its payload."""
    return zlib.crc32(payload, zlib.crc32(hashed, zlib.crc32(head[:12])))


def frame(place: int, hashed: bytes, payload: bytes | memoryview) -> bytes:
    """A whole record: header and payload."""
    head = _RECORD_BEGIN.pack(RECORD_MAGIC, len(payload), place)
    crc = zlib.crc32(payload, zlib.crc32(head + hashed))
    return b"".join((head, crc.to_bytes(4, "little"), hashed, payload))


def segment_name(first: int) -> str:
    """The file name of the segment whose first record is `first`."""
    return f"{first:020d}.journal"


def segments(folder: Path) -> list[Path]:
    """The segments of a journal, oldest first, each by one file that has it: as it was written, else sealed, else archived."""
    found: dict[str, str] = {}
    for suffix in FORMS:  # a look for each, in this order: what changes its form meanwhile is seen in one of them
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        for name in names:
            if name.endswith(suffix) and len(name) == 20 + len(suffix) and name[:20].isdigit():
                found.setdefault(name[:20], name)
    return [folder / found[stem] for stem in sorted(found)]


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
