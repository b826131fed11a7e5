"""Sealed segments in another place: a folder of another machine, or a bucket.

A place is claimed as a mirror is (`torg-mirror`, storage/mirrors.py), and may be one. The sealed file of a segment becomes the
object `journal/{first:020d}.sealed`; its head and index stay in the journal's folder as `{first:020d}.archived`, so that only
blocks are asked for over there. The object is durable and was read back before the stub is, and the stub before the sealed file
goes: killed at any point there is one form or both, and each is right.
"""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final

from storage.disk import DISK, Disk, write_synced
from storage.journal_format import ARCHIVED, SEALED, JournalAway, JournalCorrupt, segments
from storage.journal_reader import read_journal
from storage.mirror_places import MirrorPlace, MirrorsError, open_place, read_mirrors
from storage.mirrors import MARK, MirrorGone, MirrorRefused, claim, market_of
from storage.object_stores import ObjectMissing, ObjectStore, ObjectStoreError
from storage.records import market_opened
from storage.sealed_segments import ReadAt, SealedHead, read_head
from storage.segment_files import whole_segment

TEMPORARY: Final = "new-archived.tmp"
AHEAD_BYTES: Final = 4 << 20
AWAY: Final = (MirrorsError, MirrorGone, MirrorRefused, ObjectStoreError, OSError)
"""What keeps a place from answering."""


def object_name(first: int) -> str:
    """The object that is an archived segment."""
    return f"journal/{first:020d}{SEALED}"


def archive_of(home: Path) -> MirrorPlace | None:
    """Where this home archives to. Raises MirrorsError, OSError."""
    return read_mirrors(home).archive


def open_archive(home: Path, place: MirrorPlace) -> ObjectStore:
    """The store, claimed for this home's market; an empty one is the wrong one where something was archived.

    Raises MirrorRefused, MirrorGone, ObjectStoreError, JournalAway.
    """
    store, journal = open_place(place), home / "journal"
    market = next((market_opened(record.payload) for record in read_journal(journal)), "")
    claim(store, market, begun=any(journal.glob(f"*{ARCHIVED}")))
    return store


def archivable(folder: Path, before: int) -> list[int]:
    """The first records of sealed segments that hold neither record `before` nor a later one."""
    paths = segments(folder)
    return [int(path.stem) for path, then in pairwise(paths) if path.suffix == SEALED and int(then.stem) <= before]


def archive_segment(folder: Path, first: int, store: ObjectStore, *, disk: Disk = DISK) -> int:
    """Move a sealed segment there, under `sealing`; how many bytes that were. Raises JournalCorrupt, MirrorRefused, ObjectStoreError, OSError.

    An object that is there already counts where it gives the same segment.
    """
    sealed, name = folder / f"{first:020d}{SEALED}", object_name(first)
    data = sealed.read_bytes()
    _check(sealed.name, data)
    store.put_new(name, data)
    there = store.get(name)
    if there != data:
        _check_gives(there, data, sealed.name, store)
    head = read_head(sealed.name, _reading(there))
    _write_stub(folder, first, head, disk)
    disk.unlink(sealed)
    return len(data)


def archived_reader(folder: Path, name: str, stub: bytes) -> ReadAt:
    """Reads the sealed file of an archived segment: what the stub has from there, blocks from the place that the home names.

    What it reads in order it fetches ahead. Raises JournalAway where the place does not answer, JournalCorrupt where the object
    is shorter than it was.
    """
    whole_bytes, key = read_head(name, _reading(stub)).file_bytes, object_name(int(name[:20]))
    store: ObjectStore | None = None
    window, at = b"", 0
    behind = -1

    def read(begin: int, size: int) -> bytes:
        nonlocal store, window, at, behind
        if begin + size <= len(stub):
            return stub[begin : begin + size]
        if not at <= begin <= begin + size <= at + len(window):
            try:
                store = store or _store_of(folder.parent)
                most = max(size, AHEAD_BYTES) if begin == behind else size
                window, at = store.get_range(key, begin, begin + most), begin
            except ObjectMissing as error:
                raise JournalAway(f"segment {name} is not in the archive where it was put: {error}: is it mounted?") from error
            except AWAY as error:
                if store is not None:  # a bucket may answer so for a range that an object does not have
                    _check_length(store, key, whole_bytes, name)
                raise JournalAway(f"segment {name} is archived, and the place does not answer: {error}") from error
            if len(window) < size:
                _check_length(store, key, whole_bytes, name)
                raise JournalAway(f"segment {name} is archived, and {store.where} answers with less than was asked for")
        behind = begin + size
        return window[begin - at : begin - at + size]

    return read


def sealed_head(stub: Path) -> SealedHead:
    """What a stub says of the sealed file. Raises JournalCorrupt, OSError."""
    return read_head(stub.name, _reading(stub.read_bytes()))


def open_archived_file(stub: Path) -> BinaryIO:
    """The sealed file of an archived segment, as it is in its place. Raises JournalCorrupt, JournalAway, OSError."""
    head = stub.read_bytes()
    rest = archived_reader(stub.parent, stub.name, head)(len(head), sealed_head(stub).file_bytes - len(head))
    return BytesIO(head + rest)


def check_has(store: ObjectStore, folder: Path) -> None:
    """Raises MirrorRefused where an archived segment of this journal is not there, or the place is not said to be anybody's."""
    for path in sorted(folder.glob(f"*{ARCHIVED}")):
        head, stub = sealed_head(path), path.read_bytes()
        name = object_name(head.first)
        if store.size(name) != head.file_bytes or store.get_range(name, 0, len(stub)) != stub:
            message = f"{store.where} does not hold {name}, which this journal has archived"
            raise MirrorRefused(message, "name the place where it is, or copy the objects there first")
    if market_of(store) is None:  # nothing could be archived there any more
        raise MirrorRefused(f"{store.where} holds what this journal has archived and does not say whose it is", f"copy {MARK} there, too")


def _check_length(store: ObjectStore, key: str, whole_bytes: int, name: str) -> None:
    """Raises JournalCorrupt where the object of a segment is shorter than it was; says nothing of one that cannot be asked for."""
    try:
        there = store.size(key)
    except AWAY:
        return
    if there is not None and there < whole_bytes:
        told = f"its object {key} in {store.where} was cut short: {there} bytes of {whole_bytes} are left"
        raise JournalCorrupt(f"segment {name}: {told}: put a whole copy there, from a mirror or a backup")


def _store_of(home: Path) -> ObjectStore:
    place = archive_of(home)
    if place is None:
        raise MirrorGone(f"{home / 'mirrors.json'} names no archive")
    return open_place(place)


def _reading(data: bytes) -> ReadAt:
    return lambda at, size: data[at : at + size]


def _check(name: str, data: bytes) -> SealedHead:
    """The head of a sealed file whose every byte holds. Raises JournalCorrupt."""
    head = read_head(name, _reading(data))
    if len(data) != head.file_bytes:
        raise JournalCorrupt(f"segment {name}: the sealed file is {len(data)} bytes long, not {head.file_bytes}")
    whole_segment(name, _reading(data))
    return head


def _check_gives(there: bytes, data: bytes, name: str, store: ObjectStore) -> None:
    """The place has other bytes: those of another compressor, perhaps, else another market's."""
    try:
        same = whole_segment(name, _reading(there)) == whole_segment(name, _reading(data))
        same = same and len(there) == read_head(name, _reading(there)).file_bytes
    except JournalCorrupt:
        same = False
    if not same:
        message = f"{store.where}: {object_name(int(name[:20]))} is another segment than this journal's"
        raise MirrorRefused(message, "name another place; nothing in this one was changed")


def _write_stub(folder: Path, first: int, head: SealedHead, disk: Disk) -> None:
    temporary = folder / TEMPORARY
    write_synced(disk, temporary, head.encode())
    disk.rename(temporary, folder / f"{first:020d}{ARCHIVED}")
    disk.sync_folder(folder)
