"""Sealing: segments that nobody writes to any more and no start reads become smaller (storage/sealed_segments.py).

It is done beside the market, by whoever holds the folder's flock. The sealed file is written beside, synced, read back against
the segment, renamed, its folder synced; then the segment as it was written goes. Killed or without power at any point there
is one of the two or both, and each is right; the next time finds both and removes the first.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from storage.disk import DISK, Disk, write_synced
from storage.journal_format import (
    RECORD_HEADER,
    SEALED,
    SEGMENT_HEADER,
    WRITTEN,
    JournalCorrupt,
    SegmentHeader,
    segment_name,
    segments,
)
from storage.journal_reader import Walk
from storage.sealed_segments import BLOCK_BYTES, read_head, seal
from storage.segment_files import open_sealed

TEMPORARY: Final = "new-sealed.tmp"
_READ_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sealed:
    """What became of a segment: its first record, its length before, and that of the sealed file."""

    first: int
    written_bytes: int
    sealed_bytes: int


@contextmanager
def sealing(folder: Path, *, wait: bool = False, shared: bool = False) -> Iterator[bool]:
    """The right to seal in a journal, alone; with `shared` that nobody seals meanwhile. False where another has it now."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def sealable(folder: Path, before: int) -> list[int]:
    """The first records of segments that can be sealed: not the last one, and none that holds record `before` or a later one."""
    paths = segments(folder)
    firsts = [int(path.stem) for path in paths]
    return [
        first for path, first, then in zip(paths, firsts, firsts[1:], strict=False)
        if path.suffix == WRITTEN and then <= before and then > first
    ]  # fmt: skip


def seal_segment(folder: Path, first: int, *, disk: Disk = DISK, block_bytes: int = BLOCK_BYTES) -> Sealed:
    """Seal one of `sealable`, under `sealing`. Raises JournalCorrupt where it is damaged (it stays as it is), OSError."""
    path, sealed = folder / segment_name(first), folder / f"{first:020d}{SEALED}"
    data = path.read_bytes()
    if sealed.exists() and _gives(sealed, data):
        disk.sync_folder(folder)  # whoever made it may have died before this
    else:
        _write(folder, _sealed(folder, path, data, block_bytes), sealed, data, disk)
    made = Sealed(first, len(data), sealed.stat().st_size)
    disk.unlink(path)
    return made


def _sealed(folder: Path, path: Path, data: bytes, block_bytes: int) -> bytes:
    header = SegmentHeader.decode(data[: SEGMENT_HEADER.size])
    if header is not None and len(data) > SEGMENT_HEADER.size:
        made = seal(header, _records(memoryview(data)), block_bytes=block_bytes)
        if read_head(path.name, lambda at, size: made[at : at + size]).digest == sha256(data).digest():
            return made
    walk = Walk(folder)
    for _ in walk.within(path):
        pass
    raise JournalCorrupt(walk.bad or f"segment {path.name}: it is not what a writer leaves")


def _records(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Place and payload of each record; that they are whole shows where the segment is made of them again."""
    at = SEGMENT_HEADER.size
    while at + RECORD_HEADER.size <= len(data):
        _, length, place, _, _ = RECORD_HEADER.unpack_from(data, at)
        at += RECORD_HEADER.size + length
        yield place, data[at - length : at]


def _write(folder: Path, made: bytes, sealed: Path, data: bytes, disk: Disk) -> None:
    temporary = folder / TEMPORARY
    write_synced(disk, temporary, made)
    if not _gives(temporary, data):
        raise JournalCorrupt(f"{temporary.name} does not give the records that were written to it: is the disk sound?")
    disk.rename(temporary, sealed)
    disk.sync_folder(folder)


def _gives(sealed: Path, data: bytes) -> bool:
    """Whether reading the sealed file gives exactly the segment's bytes."""
    try:
        with open_sealed(sealed.name, sealed.open("rb")) as file:
            return all(file.read(_READ_BYTES) == data[at : at + _READ_BYTES] for at in range(0, len(data) + 1, _READ_BYTES))
    except JournalCorrupt:
        return False
