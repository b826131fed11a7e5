"""The record: an append-only, hash-chained journal of opaque payloads in segment files.

A folder holds `lock`, and segments named by the number of their first record, `{number:020d}.journal`
(records count from 1). Integers are unsigned and little-endian.

Segment header, 96 bytes, written to a temporary file, fsynced and renamed, so that it is whole or absent:

    offset  size  field
    0       8     magic `TORGJNL1`
    8       8     number of the first record of this segment
    16      8     term: one more for each open of the journal; a segment belongs to one open
    24      32    chain hash of the record before this segment (32 zero bytes before record 1)
    56      36    reserved, zero
    92      4     CRC-32 of bytes 0..91

Record, 48 bytes and the payload:

    offset  size  field
    0       4     magic `TREC`
    4       4     length of the payload in bytes (at most 64 MiB)
    8       4     place of this record within the append that wrote it, from 0
    12      4     CRC-32 of bytes 0..11, of the chain hash, and of the payload
    16      32    chain hash: SHA-256(chain hash of the record before ‖ record number as 8 bytes ‖ payload)
    48      n     payload

One `append` writes all its records, then syncs once, then returns: what returned is on disk. The place within
the append tells a torn tail from damage: if a record cannot be read, and any later readable record belongs to a
*later* append, the unreadable one had been acknowledged, and the journal refuses to open (JournalCorrupt). If
there is none, the unreadable bytes belong to an append that never returned: `open` keeps a copy of them in
`cut-{number}-{offset}.bin` and cuts them off. `verify_journal` reports both, a tail that nobody has cut included.

While a segment is written to, zeros may follow its last record: room that was taken in advance, so that a sync of a small
append writes no new length of the file. It is given back before the next segment begins, and when the journal is closed or
opened; to a reader a segment ends where nothing but zeros follows.

A full disk cuts the file back to the last durable record and raises JournalFull; the journal stays usable. A
failed sync raises JournalBroken: after that nobody knows what is on disk, and the process must end.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from storage.disk import DISK, Disk, write_all
from storage.journal_format import (
    FULL_ERRORS,
    MAX_PAYLOAD_BYTES,
    SEGMENT_BYTES,
    SEGMENT_HEADER,
    WRITTEN,
    Durable,
    JournalBroken,
    JournalCorrupt,
    JournalError,
    JournalFull,
    JournalLocked,
    JournalNewer,
    JournalRewound,
    Place,
    Record,
    SegmentHeader,
    chain,
    frame,
    segment_name,
    segments,
)
from storage.journal_reader import Verification, Walk, read_journal, verify_journal

__all__ = [
    "Durable", "Journal", "JournalBroken", "JournalCorrupt", "JournalError", "JournalFull", "JournalLocked", "JournalNewer", "JournalRewound",
    "Place", "Record", "Verification", "Walk", "read_journal", "segments", "verify_journal",
]  # fmt: skip

ROOM_BYTES = 64 * 1024
"""What is taken in advance; an append of that much or more takes what it needs."""


class Journal:
    """The only writer of a journal folder. Single-threaded: one owner calls `append`.

    `records` and `head` are the number and the chain hash (hex) of the last durable record; `term` counts the
    opens; `cut_bytes` is what this open cut off a torn tail, with the room behind it.
    """

    def __init__(self, folder: Path, lock: int, header: SegmentHeader, *, disk: Disk, limit: int) -> None:
        """Use `open`: `lock` is a held flock, `header` the segment to start now."""
        self.folder = folder
        self.records = header.first - 1
        self._end = (self.records, header.first, 0)
        self.term = header.term
        self.cut_bytes = 0
        self._hash = header.before
        self._lock = lock
        self._disk = disk
        self._limit = limit
        self._broken: str | None = None
        self._file = -1
        self._size = 0
        self._room = 0  # the file's length, where that is more
        self._start_segment()

    @classmethod
    def open(
        cls, folder: Path, *, disk: Disk = DISK, segment_bytes: int = SEGMENT_BYTES,
        since: Callable[[], Place | None] = lambda: None,
    ) -> "Journal":
        """Lock `folder` (made if missing), cut a torn tail, start a new term.

        `since`: asked once the lock is held, a record that a snapshot stands for; nothing before it is read.

        Raises JournalLocked, JournalCorrupt (an acknowledged record is damaged), JournalFull, OSError.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = _lock(folder)
        try:
            disk.sync_folder(folder.parent)  # also where it exists: who made it may have died before this
            header, cut_bytes = _recover(folder, disk, since())
            journal = cls(folder, lock, header, disk=disk, limit=segment_bytes)
            journal.cut_bytes = cut_bytes
            return journal
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError) and error.errno in FULL_ERRORS:
                raise JournalFull(f"the disk is full: the journal in {folder} cannot start a segment") from error
            raise

    @property
    def head(self) -> str:
        """Chain hash of the last durable record, hex; 64 zeros before the first."""
        return self._hash.hex()

    @property
    def durable(self) -> Durable:
        """Where the last durable record ends; any thread may ask."""
        return Durable(*self._end)

    def append(self, payloads: Sequence[bytes]) -> None:
        """Write all payloads, sync once, return. On JournalFull none of them is in the journal."""
        if self._broken is not None:
            raise JournalBroken(self._broken)
        if not payloads:
            return
        frames: list[bytes] = []
        hashed, number = self._hash, self.records
        for place, payload in enumerate(payloads):
            assert len(payload) <= MAX_PAYLOAD_BYTES, f"a payload of {len(payload)} bytes is over the limit"
            number += 1
            hashed = chain(hashed, number, payload)
            frames.append(frame(place, hashed, payload))
        data = b"".join(frames)
        try:
            if self._size > SEGMENT_HEADER.size and self._size + len(data) > self._limit:
                self._roll()
            self._write(data)
        except JournalError:
            raise
        except BaseException:
            self._broken = "an append was interrupted: what is on disk is unknown"
            raise
        self._size += len(data)
        self._hash, self.records = hashed, number
        self._end = (number, self._end[1], self._size)

    def close(self) -> None:
        """Release the file and the lock; idempotent."""
        try:
            if self._broken is None:
                with contextlib.suppress(OSError):  # whoever opens it next does the same
                    self._give_room_back()
        finally:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1
            self._broken = self._broken or "the journal is closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        if self._size + len(data) > self._room:
            self._take_room(len(data))
        try:
            write_all(self._disk, self._file, data)
        except OSError as error:
            self._cut_back(error)
            raise JournalFull(f"the disk is full: nothing of this append was kept ({error})") from error
        try:
            self._disk.sync_data(self._file)
        except OSError as error:
            self._broken = f"sync of the journal failed ({error}): what is on disk is unknown"
            raise JournalBroken(self._broken) from error

    def _take_room(self, more: int) -> None:
        """Before a small append for which there is none: up to `ROOM_BYTES` behind it. Without it appends are only slower."""
        end = self._size + more
        if more >= ROOM_BYTES or end >= self._limit:
            return
        self._room = min(end + ROOM_BYTES, self._limit)
        try:
            self._disk.reserve(self._file, self._size, self._room)
        except OSError:  # a full disk, or one that cannot: its write tells whether this append has room
            with contextlib.suppress(OSError):
                self._give_room_back()

    def _give_room_back(self) -> None:
        """Durable after the next sync. Raises OSError."""
        if self._room > self._size:
            self._disk.truncate(self._file, self._size)
            self._room = 0

    def _cut_back(self, cause: OSError) -> None:
        """After a failed write: the durable length again, itself durable, or the journal is broken."""
        try:
            self._disk.truncate(self._file, self._size)
            self._room = 0
            os.lseek(self._file, self._size, os.SEEK_SET)
            self._disk.sync_data(self._file)
        except OSError as error:
            self._broken = f"the journal could not be cut back after {cause}: {error}"
            raise JournalBroken(self._broken) from error
        if cause.errno not in FULL_ERRORS:
            self._broken = f"writing the journal failed: {cause}"
            raise JournalBroken(self._broken) from cause

    def _roll(self) -> None:
        try:
            if self._room > self._size:
                self._give_room_back()
                self._disk.sync_data(self._file)
            self._start_segment()
        except OSError as error:
            if error.errno in FULL_ERRORS:
                raise JournalFull(f"the disk is full: no room for a new segment ({error})") from error
            self._broken = f"a new segment could not be started: {error}"
            raise JournalBroken(self._broken) from error

    def _start_segment(self) -> None:
        header = SegmentHeader(self.records + 1, self.term, self._hash)
        path = self.folder / segment_name(header.first)
        temporary = self.folder / "new-segment.tmp"
        handle = self._disk.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            with_header = self._disk.write(handle, memoryview(header.encode()))
            if with_header != SEGMENT_HEADER.size:
                raise OSError(errno.ENOSPC, "a segment header was written in part")
            self._disk.sync(handle)
            self._disk.rename(temporary, path)
            self._disk.sync_folder(self.folder)
        except BaseException:
            os.close(handle)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size, self._room = handle, SEGMENT_HEADER.size, 0
        self._end = (self.records, header.first, 0)


def _lock(folder: Path) -> int:
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(handle)
        raise JournalLocked(f"the journal in {folder} is open in another process (pid {holder})") from error
    # Only a hint for the message above, so that a full disk must not stop the open.
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode("ascii"), 0)
    return handle


def _recover(folder: Path, disk: Disk, since: Place | None) -> tuple[SegmentHeader, int]:
    """Walk the journal, cut a torn tail; the header of the segment to start now, and how much was cut."""
    walk = Walk(folder, place=since)
    for _ in walk:
        pass
    walk.check()
    cut_bytes = 0
    if walk.path is not None and walk.path.suffix == WRITTEN:
        handle = disk.open(walk.path, os.O_RDWR)
        try:
            if walk.bad is not None:
                cut_bytes = _cut(handle, folder, walk, disk)
            elif os.fstat(handle).st_size > walk.offset:
                disk.truncate(handle, walk.offset)  # room that the killed writer had taken in advance
            # A killed writer may have left whole records that were never synced: they count from now on.
            disk.sync_data(handle)
        finally:
            os.close(handle)
    return SegmentHeader(walk.number + 1, walk.term + 1, walk.hash), cut_bytes


def _cut(handle: int, folder: Path, walk: "Walk", disk: Disk) -> int:
    size = os.fstat(handle).st_size
    kept = folder / f"cut-{walk.number + 1}-{walk.offset}.bin"
    with contextlib.suppress(OSError):  # the copy is a courtesy: on a full disk the cut itself must still work
        kept.write_bytes(os.pread(handle, min(size - walk.offset, SEGMENT_BYTES), walk.offset))
    disk.truncate(handle, walk.offset)
    return size - walk.offset
