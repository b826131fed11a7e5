"""A market's state in one file, taken while the market runs: a prefix of its journal, blobs, keys and settings.

The file is a sealed stream (`storage.sealed`) of a POSIX tar, whose last entry `backup.json` names every other with its
length and digest. The order in which things are taken makes them fit each other: first the journal is read up to its last
whole record, then what that prefix needs is pinned by hard links (a blob is there before an event names it, and goes only
after an event has said so: where one is gone meanwhile, the journal is read on), then the small files, which only grow.

A restored journal begins at a term of a later generation, so that its segments and those which the old market may still
write cannot be taken for one journal: a reader refuses a term below the one before.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from storage.blobs import DIGEST, BlobStore
from storage.bucket_blobs import PLACE_FILE
from storage.canonical import NotCanonical, canonical_bytes, parse_json
from storage.formats import HOME_FORMAT, FormatDamaged, FormatNewer, check_home, newer_manifest, newer_record
from storage.home_files import BackupError, whole_small_files
from storage.journal_format import (
    ARCHIVED,
    SEALED,
    JournalCorrupt,
    JournalNewer,
    JournalRewound,
    SegmentHeader,
    segments,
    sync_folder,
)
from storage.journal_reader import Walk, verify_journal
from storage.living import MANIFEST_ERRORS, Living
from storage.records import decode_record
from storage.sealed import SealedReader, SealedWriter, SealError
from storage.sealing import sealing
from storage.segment_archive import open_archived_file, sealed_head

FORMAT: Final = "torg-backup-1"
MANIFEST: Final = "backup.json"
TERMS_A_GENERATION: Final = 1 << 20
_COPY_BYTES: Final = 1 << 20
OnBytes = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What a backup holds: the journal up to record `records`, whose chain hash is `head`, written in term `term`."""

    market: str
    made_at_ms: int
    last_at_ms: int
    records: int
    head: str
    term: int
    blobs: int
    blob_bytes: int
    missing: tuple[str, ...]
    with_blobs: bool
    moved: bool
    home_format: int = 1

    def to_json(self) -> dict[str, Any]:
        """The fields of `backup.json`, without its list of files."""
        told = {name: getattr(self, name) for name in BackupFacts.__slots__}
        return {"format": FORMAT, **told, "missing": list(self.missing)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BackupFacts:
        """Raises KeyError, TypeError where it is something else."""
        told = {"home_format": 1} | {name: value[name] for name in cls.__slots__ if name in value or name != "home_format"}
        return cls(**told | {"missing": tuple(told["missing"])})


@dataclass(slots=True)
class _Cut:
    """The journal up to a whole record, and what it needs of the shelf."""

    walk: Walk
    living: Living = field(default_factory=Living)
    market: str = ""
    last_at_ms: int = 0

    def read_on(self) -> bool:
        """Take what has come; whether that was anything. Raises JournalCorrupt, JournalRewound."""
        before = self.walk.number
        for record in self.walk:
            body = decode_record(record.payload)
            if (newer := newer_record(record.number, body)) is not None:
                raise JournalNewer(newer)
            self.last_at_ms = body["at_ms"]
            self.living.observe(body["events"])
            self.market = self.market or next(
                (e["market_id"] for e in body["events"] if e["type"] == "market_opened"), ""
            )
        self.walk.check()
        return self.walk.number > before

    def files(self) -> Iterator[tuple[str, Path, int]]:
        """Segments by their names, and how many bytes of each belong to the cut. Of an archived one the sealed file is taken."""
        assert self.walk.path is not None
        for path in segments(self.walk.folder):
            if path.stem < self.walk.path.stem:
                archived = path.suffix == ARCHIVED
                size = sealed_head(path).file_bytes if archived else path.stat().st_size
                yield f"journal/{path.stem}{SEALED if archived else path.suffix}", path, size
            elif path.stem == self.walk.path.stem:
                yield f"journal/{path.name}", path, self.walk.offset


def write_backup(
    home: Path, file: BinaryIO, *, made_at_ms: int, passphrase: bytes | None = None, with_blobs: bool = True,
    moved: bool = False, progress: OnBytes = lambda done, total: None,
) -> BackupFacts:  # fmt: skip
    """Write the backup of the market in `home` to `file`; the market may run meanwhile. Blobs of a bucket stay there.

    Raises BackupError (no_market, damaged, busy, home_newer), OSError. What was written of a failed one is useless.
    """
    with sealing(home / "journal", wait=True, shared=True):
        return _write_backup(home, file, made_at_ms, passphrase, with_blobs and not (home / PLACE_FILE).exists(), moved, progress)


def _write_backup(
    home: Path, file: BinaryIO, made_at_ms: int, passphrase: bytes | None, with_blobs: bool, moved: bool, progress: OnBytes
) -> BackupFacts:
    cut = _Cut(Walk(home / "journal"))
    try:
        format_of_home = check_home(home)
        if not cut.read_on() or not cut.market:
            raise BackupError("no_market", f"there is no market in {home}: its journal is empty")
        with _pinned(home / "blobs", cut, with_blobs) as (pins, missing):
            entries = list(cut.files())
            entries += [(f"blobs/{pin.name[:2]}/{pin.name}", pin, pin.stat().st_size) for pin in pins]
            small = whole_small_files(home)
            facts = BackupFacts(
                market=cut.market, made_at_ms=made_at_ms, last_at_ms=cut.last_at_ms, records=cut.walk.number,
                head=cut.walk.hash.hex(), term=cut.walk.term, blobs=len(pins), missing=tuple(missing),
                blob_bytes=sum(pin.stat().st_size for pin in pins), with_blobs=with_blobs, moved=moved,
                home_format=format_of_home,
            )  # fmt: skip
            write_entries(file, passphrase, facts, entries, small, progress)
    except (FormatNewer, JournalNewer) as error:
        raise BackupError("home_newer", str(error)) from error
    except FormatDamaged as error:
        raise BackupError("damaged", str(error)) from error
    except JournalCorrupt as error:
        raise BackupError("damaged", f"the journal is damaged: {error}") from error
    except JournalRewound as error:
        raise BackupError("busy", f"the market started anew meanwhile: {error}") from error
    return facts


@contextmanager
def _pinned(blobs: Path, cut: _Cut, wanted: bool) -> Iterator[tuple[list[Path], list[str]]]:
    """Hard links to what the cut needs, which is read on until all is here or nothing more comes; what is missing."""
    if not wanted or not blobs.is_dir():
        yield [], []
        return
    folder = blobs / "pinned"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupError("busy", "another backup of this market is being written") from error
        try:
            _empty(folder)  # what a killed backup left
            while (missing := _pin(BlobStore(blobs), folder, cut.living)) and cut.read_on():
                pass
            yield sorted(folder.iterdir()), sorted(missing)
        finally:
            _empty(folder)
    finally:
        os.close(lock)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _pin(store: BlobStore, folder: Path, living: Living) -> list[str]:
    """Link what is alive into the folder; the digests that should be here and are not."""

    def link(digest: str) -> bool:
        try:
            os.link(store.path(digest), folder / digest)
        except FileNotFoundError:
            return False
        except FileExistsError:
            return True
        return True

    missing: list[str] = []
    for digest, read in list(living.manifests()):
        if not link(digest):
            missing.append(digest)
            continue
        try:
            named = read((folder / digest).read_bytes())
        except MANIFEST_ERRORS:
            continue  # a damaged manifest is the market's own to complain of; it travels as it is
        missing += [blob for blob in named if not link(blob)]
    here = set(store.digests())
    for digest in living.named:
        if digest in here:
            link(digest)
    return missing


def write_entries(
    file: BinaryIO, passphrase: bytes | None, facts: BackupFacts, large: list[tuple[str, Path, int]],
    small: list[tuple[str, bytes, int]], progress: OnBytes,
) -> None:  # fmt: skip
    """A sealed tar of small files, then large ones, then what it is. Raises OSError."""
    total = sum(size for _, _, size in large) + sum(len(data) for _, data, _ in small)
    done, files = 0, dict[str, dict[str, Any]]()

    def add(name: str, content: BinaryIO, size: int, mode: int) -> None:
        nonlocal done
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, mode
        read = _Hashed(content)
        tar.addfile(entry, read)
        files[name] = {"bytes": size, "digest": read.digest.hexdigest()}
        done += size
        progress(done, total)

    with (
        SealedWriter(file, passphrase) as sealed,
        tarfile.open(fileobj=sealed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, data, mode in small:
            add(name, io.BytesIO(data), len(data), mode)
        for name, path, size in large:
            with open_archived_file(path) if path.suffix == ARCHIVED else path.open("rb") as content:
                add(name, content, size, 0o600)
        manifest = canonical_bytes({**facts.to_json(), "files": files})
        entry = tarfile.TarInfo(MANIFEST)
        entry.size, entry.mode = len(manifest), 0o600
        tar.addfile(entry, io.BytesIO(manifest))


class _Hashed(io.RawIOBase):
    """A file that is read once, with the digest of what was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def check_backup(
    file: BinaryIO, passphrase: bytes | None = None, progress: OnBytes = lambda done, total: None
) -> BackupFacts:
    """Read every byte and compare every digest; writes nothing. Raises BackupError, OSError."""
    return read_entries(file, passphrase, None, progress)


def unpack_backup(
    file: BinaryIO, folder: Path, passphrase: bytes | None = None, progress: OnBytes = lambda done, total: None
) -> BackupFacts:
    """Write a backup's files into the empty `folder`, check digests and chain, begin a new generation of terms.

    All is on the disk when it returns. Raises BackupError, OSError; the folder is then to be thrown away.
    """
    facts = read_entries(file, passphrase, folder, progress)
    found = verify_journal(folder / "journal")
    if not found.ok or (found.records, found.head) != (facts.records, facts.head):
        where = found.first_bad or f"it ends at record {found.records}, not {facts.records}"
        raise BackupError("backup_damaged", f"the journal in the backup does not hold: {where}")
    begin_generation(folder / "journal", facts.records, facts.head, facts.term)
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            sync_folder(path)
    return facts


def generation_after(term: int) -> int:
    """The first term that no open of the market with this term will reach."""
    return (term // TERMS_A_GENERATION + 1) * TERMS_A_GENERATION


def begin_generation(journal: Path, records: int, head: str, term: int) -> None:
    """The empty segment with which a restored journal goes on behind that record."""
    header = SegmentHeader(records + 1, generation_after(term), bytes.fromhex(head))
    path = journal / f"{header.first:020d}.journal"
    with path.open("wb") as file:
        file.write(header.encode())
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o600)


def read_entries(file: BinaryIO, passphrase: bytes | None, folder: Path | None, progress: OnBytes) -> BackupFacts:
    """Read a whole backup, into the folder if there is one. Raises BackupError, OSError."""
    total = os.fstat(file.fileno()).st_size
    found: dict[str, dict[str, Any]] = {}
    manifest: dict[str, Any] | None = None
    try:
        with SealedReader(file, passphrase) as sealed:
            with tarfile.open(fileobj=sealed, mode="r|") as tar:
                for entry in tar:
                    content = tar.extractfile(entry) if entry.isreg() else None
                    if content is None or manifest is not None:
                        raise BackupError(
                            "backup_damaged", f"the backup holds {entry.name!r}, which is none of its files"
                        )
                    if entry.name == MANIFEST:
                        manifest = parse_json(content.read())
                    else:
                        found[entry.name] = _take(entry, content, folder)
                    progress(file.tell(), total)
            while sealed.read(_COPY_BYTES):
                pass  # padding; the last piece proves that nothing was cut off
        return _checked_facts(manifest, found)
    except SealError as error:
        code = "backup_damaged" if error.code in ("torn", "changed") else f"backup_{error.code}"
        raise BackupError(code, str(error)) from error
    except (tarfile.TarError, NotCanonical, EOFError) as error:
        raise BackupError("backup_damaged", f"the backup is not whole: {error}") from error


def _take(entry: tarfile.TarInfo, content: Any, folder: Path | None) -> dict[str, Any]:
    """Read an entry, into the folder if there is one: its length and digest."""
    name = PurePosixPath(entry.name)
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise BackupError("backup_damaged", f"the backup holds {entry.name!r}, which is no name inside a home")
    digest, size = hashlib.sha256(), 0
    target = None
    if folder is not None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, entry.mode & 0o700), "wb")
    try:
        while data := content.read(_COPY_BYTES):
            digest.update(data)
            size += len(data)
            if target is not None:
                target.write(data)
        if target is not None:
            target.flush()
            os.fsync(target.fileno())
    finally:
        if target is not None:
            target.close()
    return {"bytes": size, "digest": digest.hexdigest()}


def _checked_facts(manifest: dict[str, Any] | None, found: dict[str, dict[str, Any]]) -> BackupFacts:
    if manifest is None:
        raise BackupError("backup_damaged", f"the backup has no {MANIFEST}")
    if (theirs := manifest.get("format")) != FORMAT:
        newer = newer_manifest("the backup", theirs, FORMAT)
        damaged = f"the backup says that it is {theirs!r}, which is no format of a backup"
        raise BackupError("backup_newer" if newer else "backup_damaged", newer or damaged)
    for name in sorted({*found, *manifest["files"]}):
        if found.get(name) != manifest["files"].get(name):
            raise BackupError("backup_damaged", f"{name} in the backup is not what {MANIFEST} says")
        parts = PurePosixPath(name).parts
        if parts[0] == "blobs" and (DIGEST.fullmatch(parts[-1]) is None or found[name]["digest"] != parts[-1]):
            raise BackupError("backup_damaged", f"{name} in the backup has other bytes than its name says")
    facts = BackupFacts.from_json(manifest)
    if facts.home_format > HOME_FORMAT:
        told = FormatNewer("the home in the backup", facts.home_format, HOME_FORMAT)
        raise BackupError("backup_newer", told.message)
    return facts
