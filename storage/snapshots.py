"""Snapshots: what follows from a journal up to one record, so that a start reads only what came after it.

A folder holds `{number:020d}.snapshot`, one file each, named by the last record that it stands for. Integers are unsigned
and little-endian.

    offset  size  field
    0       8     magic `TORGSNP1`
    8       8     number of that record
    16      32    chain hash of that record
    48      8     number of the first record of the segment that holds it
    56      8     offset of the record in that segment
    64      8     at_ms of the record
    72      32    shape: SHA-256 of what the writer would read (its types, its rules); another shape is passed over
    104     8     length of the body in bytes
    112     32    SHA-256 of the body
    144     12    reserved, zero
    156     4     CRC-32 of bytes 0..155
    160     n     body: sections, each a name (4 bytes of length, UTF-8) and a content (8 bytes of length, bytes)

It is written beside, synced, renamed, and its folder synced. A snapshot is never trusted by itself: it counts where its
digests hold and the journal has, at that place, a whole record with that number and chain hash. Everything in it follows
from the journal, so that any of them may be removed at any time.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.disk import DISK, Disk, write_synced
from storage.formats import FormatNewer
from storage.journal_format import JournalCorrupt, JournalRewound, Place, segments
from storage.journal_reader import Walk
from storage.segment_files import room_bytes, segment_bytes

MAGIC: Final = b"TORGSNP1"
KEPT: Final = 2
_HEAD: Final = struct.Struct("<8sQ32sQQQ32sQ32s12sI")
_TEMPORARY: Final = "new-snapshot.tmp"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a start goes on from: `sections` stand for the journal up to the record at `place`."""

    place: Place
    at_ms: int
    sections: Mapping[str, bytes | memoryview]


class SnapshotUnfit(Exception):
    """A file is passed over; the text names it and says why."""


def write_snapshot(
    folder: Path, place: Place, at_ms: int, shape: bytes, sections: Mapping[str, bytes], *, disk: Disk = DISK
) -> Path:
    """Make a snapshot durable and remove all but the newest `KEPT`. Raises OSError; the older ones are then still there, and
    nothing that is half written."""
    parts = [piece for name, content in sections.items() for piece in (*_named(name, len(content)), content)]
    digest, length = hashlib.sha256(), 0
    for part in parts:
        digest.update(part)
        length += len(part)
    head = _HEAD.pack(
        MAGIC, place.number, bytes.fromhex(place.hash), place.first, place.offset, at_ms, shape, length, digest.digest(),
        bytes(12), 0,
    )[:-4]  # fmt: skip
    temporary, path = folder / _TEMPORARY, folder / f"{place.number:020d}.snapshot"
    write_synced(disk, temporary, head, struct.pack("<I", zlib.crc32(head)), *parts)
    disk.rename(temporary, path)
    disk.sync_folder(folder)
    for old in snapshots(folder)[:-KEPT]:
        disk.unlink(old)
    return path


def snapshots(folder: Path) -> list[Path]:
    """The snapshots of a folder, oldest first."""
    return sorted(path for path in folder.glob("*.snapshot") if path.stem.isdigit() and len(path.stem) == 20)


def bytes_behind(folder: Path, journal: Path) -> tuple[int, int]:
    """How many bytes of the journal lie behind the newest snapshot, as its head says, and how many bytes that has.

    Raises FileNotFoundError where a file was removed meanwhile.
    """
    first = offset = size = 0
    if newest := snapshots(folder)[-1:]:
        with newest[0].open("rb") as file:
            head = file.read(_HEAD.size)
        if len(head) == _HEAD.size:
            _, _, _, first, offset, *_ = _HEAD.unpack(head)
            size = newest[0].stat().st_size
    paths = segments(journal)
    behind = sum(segment_bytes(journal, one) for path in paths if (one := int(path.stem)) >= first)
    return behind - sum(map(room_bytes, paths[-1:])) - offset, size


def newest_snapshot(folder: Path, journal: Path, shape: bytes) -> tuple[Snapshot | None, list[str]]:
    """The newest one that holds and that the journal confirms, and why newer ones were passed over."""
    passed_over: list[str] = []
    for path in reversed(snapshots(folder)):
        try:
            found = read_snapshot(path, shape)
            _confirm(path, journal, found.place)
        except SnapshotUnfit as unfit:
            passed_over.append(str(unfit))
            continue
        return found, passed_over
    return None, passed_over


def read_snapshot(path: Path, shape: bytes) -> Snapshot:
    """A snapshot whose every byte holds. Raises SnapshotUnfit."""
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise SnapshotUnfit(f"{path.name} cannot be read: {error.strerror}") from error
    if bytes(data[:7]) == MAGIC[:7] and bytes(data[7:8]).isdigit() and data[7] > MAGIC[7]:
        raise SnapshotUnfit(str(FormatNewer(path.name, int(bytes(data[7:8])), int(MAGIC[7:]))))
    if len(data) < _HEAD.size or bytes(data[:8]) != MAGIC or zlib.crc32(data[: _HEAD.size - 4]) != _crc_of(data):
        raise SnapshotUnfit(f"{path.name} is damaged: its head does not hold")
    _, number, hashed, first, offset, at_ms, theirs, length, digest, _, _ = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if len(body) != length or hashlib.sha256(body).digest() != digest:
        raise SnapshotUnfit(f"{path.name} is damaged: its body does not have the digest that its head says")
    if theirs != shape:
        raise SnapshotUnfit(f"{path.name} is of another version of torg, which keeps other things")
    if path.stem != f"{number:020d}":
        raise SnapshotUnfit(f"{path.name} stands for record {number}")
    return Snapshot(Place(first, offset, number, hashed.hex()), at_ms, dict(_sections(body)))


def _confirm(path: Path, journal: Path, place: Place) -> None:
    """Raises SnapshotUnfit where the journal does not have this record at this place."""
    try:
        Walk(journal, place=place).enter()
    except (JournalRewound, JournalCorrupt, OSError) as error:
        raise SnapshotUnfit(f"{path.name} contradicts the journal: {error}") from error


def _named(name: str, length: int) -> tuple[bytes, bytes, bytes]:
    encoded = name.encode()
    return struct.pack("<I", len(encoded)), encoded, struct.pack("<Q", length)


def _sections(body: memoryview) -> Iterator[tuple[str, memoryview]]:
    at = 0
    while at < len(body):
        (length,) = struct.unpack_from("<I", body, at)
        name = bytes(body[at + 4 : at + 4 + length]).decode()
        at += 4 + length
        (length,) = struct.unpack_from("<Q", body, at)
        yield name, body[at + 8 : at + 8 + length]
        at += 8 + length


def _crc_of(data: memoryview) -> int:
    return int.from_bytes(data[_HEAD.size - 4 : _HEAD.size], "little")
