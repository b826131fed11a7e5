"""Reading a segment, whichever form it has: every reader of the journal opens its files here.

A segment is written, then sealed (storage/sealing.py), then perhaps archived (storage/segment_archive.py), while others read. One that has just been listed may have another form
when it is opened; a file that is open stays whole.
"""

from __future__ import annotations

import os
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

from storage.journal_format import (
    ARCHIVED,
    FORMS,
    MAX_PAYLOAD_BYTES,
    RECORD_HEADER,
    WRITTEN,
    JournalCorrupt,
    segment_name,
)
from storage.sealed_segments import ReadAt, SealedFile

BUFFER_BYTES = 1024 * 1024
ROOM_READ_BYTES = 64 * 1024


def segment_path(folder: Path, first: int) -> Path:
    """The file that has this segment now. Raises FileNotFoundError with the name that it was written under."""
    for suffix in FORMS:
        path = folder / f"{first:020d}{suffix}"
        if path.exists():
            return path
    raise FileNotFoundError(2, os.strerror(2), str(folder / segment_name(first)))


def open_segment(folder: Path, first: int, *, buffer_bytes: int = BUFFER_BYTES) -> BinaryIO:
    """A segment as it was written, to be read and closed; of an archived one reading may raise JournalAway.

    Raises FileNotFoundError, JournalNewer, JournalCorrupt, OSError.
    """
    for suffix in FORMS:
        path = folder / f"{first:020d}{suffix}"
        try:
            file = path.open("rb", buffering=buffer_bytes)
        except FileNotFoundError:
            continue
        if suffix == ARCHIVED:
            return _open_archived(path, file, buffer_bytes)
        return file if suffix == WRITTEN else open_sealed(path.name, file, buffer_bytes)
    raise FileNotFoundError(2, os.strerror(2), str(folder / segment_name(first)))


def open_sealed(name: str, file: BinaryIO, buffer_bytes: int = BUFFER_BYTES) -> BinaryIO:
    """The segment that an open sealed file holds; closes both. Raises JournalNewer, JournalCorrupt, OSError."""
    try:
        handle = file.fileno()
        raw = SealedFile(name, lambda at, size: os.pread(handle, size, at), file.close)
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, BufferedReader(cast(Any, raw), buffer_bytes))


def _open_archived(path: Path, stub: BinaryIO, buffer_bytes: int) -> BinaryIO:
    from storage.segment_archive import archived_reader  # it reads segments, too

    with stub:
        raw = SealedFile(path.name, archived_reader(path.parent, path.name, stub.read()))
    return cast(BinaryIO, BufferedReader(cast(Any, raw), buffer_bytes))


def sealed_of(file: BinaryIO) -> SealedFile | None:
    """What `open_segment` gave of a segment that is sealed or archived."""
    raw = getattr(file, "raw", None)
    return raw if isinstance(raw, SealedFile) else None


def whole_segment(name: str, read_at: ReadAt) -> bytes:
    """The segment that a sealed file stands for, every byte of both checked. Raises JournalNewer, JournalCorrupt."""
    raw = SealedFile(name, read_at)
    data = raw.readall()
    assert data is not None, "it is no socket"
    if sha256(data).digest() != raw.head.digest:
        raise JournalCorrupt(f"segment {name}: its records are not those that its head says")
    return data


def segment_bytes(folder: Path, first: int) -> int:
    """Length of a segment as it was written. Raises as `open_segment`."""
    with open_segment(folder, first, buffer_bytes=RECORD_HEADER.size) as file:
        return file.seek(0, os.SEEK_END)


def room_bytes(path: Path) -> int:
    """For who only weighs: how many zeros end the file of the last segment, room that its writer has taken in advance. Raises OSError."""
    if path.suffix != WRITTEN:
        return 0
    with path.open("rb") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - ROOM_READ_BYTES)
            file.seek(begin)
            if written := len(file.read(end - begin).rstrip(b"\0")):
                return size - begin - written
            end = begin
    return size


def about_bytes(path: Path) -> int:
    """For who only weighs: the same of a listed segment, of a damaged one what its file has. Raises OSError."""
    try:
        return segment_bytes(path.parent, int(path.stem))
    except JournalCorrupt:
        return segment_path(path.parent, int(path.stem)).stat().st_size


def read_segment(folder: Path, first: int, begin: int, end: int) -> bytes:
    """Bytes of a segment as it was written, fewer where it ends. Raises as `open_segment`."""
    with open_segment(folder, first) as file:
        file.seek(begin)
        return file.read(end - begin)


class RecordFiles:
    """Reads records here and there in a journal; keeps the sealed segment open that was read last. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._first = 0
        self._file: BinaryIO | None = None

    def read(self, first: int, offset: int) -> tuple[Path, bytes, bytes]:
        """The file, head and payload of a record, unchecked and perhaps in part. Raises as `open_segment`."""
        path = segment_path(self._folder, first)
        if self._file is None or self._first != first:
            self.close()
            self._file, self._first = open_segment(self._folder, first, buffer_bytes=RECORD_HEADER.size), first
        file = self._file
        file.seek(offset)
        head = file.read(RECORD_HEADER.size)
        length = RECORD_HEADER.unpack(head)[1] if len(head) == RECORD_HEADER.size else 0
        payload = file.read(min(length, MAX_PAYLOAD_BYTES))
        if path.suffix == WRITTEN:  # another open of the journal may put another file in its place
            self.close()
        return path, head, payload

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
