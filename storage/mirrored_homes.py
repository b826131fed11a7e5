"""A home from a mirror (storage/mirrors.py), and what of a home beside its journal a mirror has.

`home.sealed` is a backup without a journal and blobs (storage/backups.py), always encrypted: keys and settings, not what jobs
printed and not who uploaded what. It is replaced when one of those files has changed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.backups import BackupFacts, begin_generation, read_entries, write_entries
from storage.formats import check_home, newer_record
from storage.home_files import small_file_paths, whole_small_files
from storage.journal_format import JournalCorrupt, JournalNewer, segment_name, sync_folder
from storage.journal_reader import Walk
from storage.living import Living
from storage.mirrors import MirrorRefused, held, market_of
from storage.object_stores import ObjectStore
from storage.records import decode_record

HOME: Final = "home.sealed"
UPLOADS: Final = "uploads.log"
COPY_BYTES: Final = 8 << 20
State = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class MirrorFacts:
    """What a mirror gave back: the journal up to record `records`, whose chain hash is `head` (hex) and which was decided at
    `last_at_ms`. `cut_bytes`: what followed it and was no whole record. `needed`: blobs that living jobs name."""

    market: str
    records: int
    last_at_ms: int
    head: str
    term: int
    cut_bytes: int
    needed: tuple[str, ...]


def state_of_home(home: Path) -> State:
    """Names, times and lengths of the files that `seal_home` takes: it is time again when this has changed."""
    found = []
    for path in _paths(home):
        try:
            seen = path.stat()
        except FileNotFoundError:
            continue
        found.append((path.relative_to(home).as_posix(), seen.st_mtime_ns, seen.st_size))
    return tuple(found)


def seal_home(home: Path, market: str, passphrase: bytes, made_at_ms: int) -> bytes:
    """The object `home.sealed`. Raises BackupError (busy), OSError."""
    small = [one for one in whole_small_files(home, job_logs=False) if one[0] != UPLOADS]
    facts = BackupFacts(
        market=market, made_at_ms=made_at_ms, last_at_ms=0, records=0, head="", term=0, blobs=0, blob_bytes=0, missing=(),
        with_blobs=False, moved=False, home_format=check_home(home),
    )  # fmt: skip
    with tempfile.TemporaryFile() as file:
        write_entries(file, passphrase, facts, [], small, lambda done, total: None)
        file.seek(0)
        return file.read()


def unseal_home(store: ObjectStore, folder: Path, passphrase: bytes | None) -> str | None:
    """Write keys and settings into the folder; whose they are, None where the mirror has none.

    Raises BackupError (backup_passphrase_missing, backup_passphrase_wrong, backup_damaged, backup_newer), ObjectStoreError, OSError.
    """
    if store.size(HOME) is None:
        return None
    with tempfile.TemporaryFile() as file:
        file.write(store.get(HOME))
        file.seek(0)
        return read_entries(file, passphrase, folder, lambda done, total: None).market


def restore_journal(
    store: ObjectStore, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> MirrorFacts:
    """Write the mirror's journal into the empty `folder`, check every record, cut a torn tail, begin a new generation of terms.

    All is on the disk when it returns. Raises MirrorRefused (there is no mirror, or a part is missing), JournalCorrupt,
    JournalNewer, ObjectStoreError, OSError; the folder is then to be thrown away.
    """
    market = market_of(store)
    if market is None:
        raise MirrorRefused(f"{store.where} is no mirror of a market", "name a place that `torg up --mirror` was given")
    _fetch(store, folder, progress)
    walk, living, last_at_ms, theirs = Walk(folder), Living(), 0, ""
    for record in walk:
        body = decode_record(record.payload)
        if (newer := newer_record(record.number, body)) is not None:
            raise JournalNewer(newer)
        last_at_ms = body["at_ms"]
        living.observe(body["events"])
        theirs = theirs or next((one["market_id"] for one in body["events"] if one["type"] == "market_opened"), "")
    walk.check()
    if walk.number == 0:
        raise MirrorRefused(f"the mirror {store.where} has no record yet", "use another mirror or a backup")
    if theirs != market:
        raise JournalCorrupt(f"the journal in {store.where} is of {theirs}, and the mirror says {market}")
    cut_bytes = _cut(walk)
    begin_generation(folder, walk.number, walk.hash.hex(), walk.term)
    sync_folder(folder)
    needed = {digest for digest, _ in living.manifests()}
    return MirrorFacts(market, walk.number, last_at_ms, walk.hash.hex(), walk.term, cut_bytes, tuple(sorted(needed)))


def _fetch(store: ObjectStore, folder: Path, progress: Callable[[int, int], None]) -> None:
    known = held(store)
    total, done = sum(one.end for one in known), 0
    for one in known:
        handle = os.open(folder / segment_name(one.first), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            for name, begin, end in one.pieces():
                for at in range(begin, end, COPY_BYTES):
                    done += file.write(store.get_range(name, at, min(end, at + COPY_BYTES)))
                    progress(done, total)
            file.flush()
            os.fsync(file.fileno())


def _cut(walk: Walk) -> int:
    """Cut what follows the last whole record; how much that was."""
    assert walk.path is not None, "there is a record"
    cut_bytes = walk.path.stat().st_size - walk.offset
    if cut_bytes:
        with walk.path.open("r+b") as file:
            file.truncate(walk.offset)
            os.fsync(file.fileno())
    return cut_bytes


def _paths(home: Path) -> list[Path]:
    return [path for path in small_file_paths(home, job_logs=False) if path.name != UPLOADS and path.is_file()]
