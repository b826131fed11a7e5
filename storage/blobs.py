"""A folder of bytes named by their SHA-256: written once, never changed.

    blobs/ab/ab12…           whole blobs (64 hex digits), in a folder of their first two digits
    blobs/partial/ab12…      uploads that are not whole yet; the length of the file is the next offset
    blobs/temporary/…        files on their way in; emptied when the store is opened

A blob is durable when `put`, `put_all` or the last `upload` returns: temporary file, fsync, rename, fsync of the folder.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path

from storage.blob_ram import BlobRam
from storage.disk import DISK, Disk, write_all, write_synced
from storage.journal_format import FULL_ERRORS

DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_BLOB_BYTES = 64 * 1024**3


class BlobError(Exception):
    """The blob store cannot do what was asked."""


class BlobStoreFull(BlobError):
    """The disk is full; nothing half-written is visible under a digest."""


class BlobsAway(BlobError):
    """The store behind the blobs does not answer, or does not let this market in; the text says which and why."""


class BlobTooLarge(BlobError):
    """The blob is above the limit of this store."""


class BlobMissing(BlobError):
    """There is no whole blob of this digest."""


class BlobDamaged(BlobError):
    """The bytes do not have the digest that names them."""


class BlobOffsetWrong(BlobError):
    """An upload goes on at another offset than where it stands; `expected` says where."""

    def __init__(self, digest: str, expected: int, given: int) -> None:
        super().__init__(f"the upload of {digest} stands at byte {expected}, not {given}")
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Upload:
    """Where an upload stands: the next byte to send, and whether the blob is whole."""

    offset: int
    whole: bool


def digest_of(pieces: Iterable[bytes | memoryview]) -> str:
    """The SHA-256 of bytes that are in pieces."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


class BlobStore:
    """One folder of blobs. Several processes may read; writers of the same digest do not disturb each other,
    except that a resumable upload of one digest must have one sender at a time."""

    def __init__(self, folder: Path, *, max_blob_bytes: int = MAX_BLOB_BYTES, disk: Disk = DISK, ram: BlobRam | None = None) -> None:
        """ram: a tier before the store, for reads; by default none."""
        self.folder = folder
        self.ram = BlobRam(0) if ram is None else ram
        self._disk = disk
        self.max_blob_bytes = max_blob_bytes
        self._durable: set[str] = set()
        self._renamed: set[str] = set()
        self._folders: set[str] = set()
        for each in (folder, folder / "partial", folder / "temporary"):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, digest: str) -> Path:
        """Where the blob of this digest is or would be; raises ValueError for what is not a digest."""
        if DIGEST.fullmatch(digest) is None:
            raise ValueError(f"{digest!r} is not a SHA-256 in lower-case hex")
        return self.folder / digest[:2] / digest

    def where(self, digest: str) -> str:
        """The blob for people: its file."""
        return str(self.path(digest))

    def size(self, digest: str) -> int | None:
        """Bytes of a whole blob; None if there is none, or one that this process has renamed and not yet made durable."""
        if digest in self._renamed:
            return None
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def __contains__(self, digest: str) -> bool:
        return self.size(digest) is not None

    def digests(self) -> Iterator[str]:
        """Every whole blob, sorted."""
        for folder in sorted(self.folder.iterdir()):
            if len(folder.name) == 2:
                yield from sorted(path.name for path in folder.iterdir() if DIGEST.fullmatch(path.name))

    def sizes(self) -> dict[str, int]:
        """Bytes by digest of every whole blob, sorted."""
        found = ((digest, self.size(digest)) for digest in self.digests())
        return {digest: size for digest, size in found if size is not None}

    def read(self, digest: str) -> bytes:
        """All bytes, checked against the digest; raises BlobMissing, BlobDamaged."""
        found = self.ram.get(digest)
        return self._fetch(digest) if found is None else found

    def open(self, digest: str) -> BufferedReader:
        """A file to read from, checked only where it is small enough for the tier in RAM; raises BlobMissing. May take as long
        as reading it all."""
        found = self.ram.get(digest)
        if found is None and (self.size(digest) or 0) <= self.ram.largest_bytes and self.ram.limit_bytes:
            with contextlib.suppress(BlobDamaged):  # who reads looks at the digest, and hears of it
                found = self._fetch(digest)
        return self._open(digest) if found is None else BufferedReader(BytesIO(found))

    def _fetch(self, digest: str) -> bytes:
        """From the store below, checked, and into RAM."""
        data = self._read(digest)
        if hashlib.sha256(data).hexdigest() != digest:
            raise BlobDamaged(f"the blob {digest} has other bytes than its name says")
        self.ram.keep(digest, data)
        return data

    def _read(self, digest: str) -> bytes:
        with self._open(digest) as file:
            return file.read()

    def _open(self, digest: str) -> BufferedReader:
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise BlobMissing(f"there is no blob {digest}") from error

    def verify(self, digest: str) -> bool:
        """Whether the bytes on disk have this digest, whatever is in RAM; raises BlobMissing."""
        with self._open(digest) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest

    def put(self, data: bytes) -> str:
        """Store bytes, return their digest; storing the same again costs a look, and once in a process a sync."""
        self._check_size(len(data))
        digest = hashlib.sha256(data).hexdigest()
        if self._holds(digest):
            return digest
        temporary = self.folder / "temporary" / f"{digest}.{secrets.token_hex(6)}"
        try:
            self._append(temporary, os.O_EXCL, data, sync=True)
            self._adopt(temporary, digest)
        except OSError as error:
            raise self._failure(error, digest, temporary) from error
        self.ram.keep(digest, data)
        return digest

    def put_all(self, blobs: Iterable[tuple[str, Sequence[bytes | memoryview]]]) -> list[str]:
        """Store blobs, each with the digest that it is said to have and its bytes in pieces; the digests of those that have
        another, which are not kept.

        The others are durable together: every file's sync, the renames, then a sync of each folder once. Raises BlobTooLarge
        and BlobStoreFull; then none of them is promised that was not there before.
        """
        named = dict(blobs)
        for pieces in named.values():
            self._check_size(sum(map(len, pieces)))
        right = {digest: pieces for digest, pieces in named.items() if digest_of(pieces) == digest}
        self._put_new({digest: pieces for digest, pieces in right.items() if not self._holds(digest)})
        return [digest for digest in named if digest not in right]

    def _put_new(self, blobs: Mapping[str, Sequence[bytes | memoryview]]) -> None:
        temporaries = {digest: self.folder / "temporary" / f"{digest}.{secrets.token_hex(6)}" for digest in blobs}
        digest = ""
        try:
            for digest, pieces in blobs.items():
                write_synced(self._disk, temporaries[digest], *pieces)
            for digest, temporary in temporaries.items():
                self._rename(temporary, digest)
            for folder in dict.fromkeys(self.path(digest).parent for digest in blobs):
                self._disk.sync_folder(folder)
        except OSError as error:
            for temporary in temporaries.values():
                temporary.unlink(missing_ok=True)
            raise self._failure(error, digest, None) from error
        self._settled(blobs)
        if self.ram.limit_bytes:
            for digest, pieces in blobs.items():
                self.ram.keep(digest, b"".join(pieces))

    def partial(self, digest: str) -> int:
        """The next offset of an upload that is not whole; 0 if none was begun."""
        try:
            return self._partial(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def upload(self, digest: str, offset: int, total: int, data: bytes) -> Upload:
        """Take bytes `offset..offset+len(data)` of a blob of `total` bytes; the last one checks the digest.

        A chunk that was already taken may come again. Raises BlobOffsetWrong (carry on at `expected`),
        BlobTooLarge, BlobStoreFull, BlobDamaged (other bytes than the digest says: the upload starts again at 0).
        """
        self._check_size(total)
        if offset < 0 or offset + len(data) > total:
            raise BlobTooLarge(f"bytes {offset} to {offset + len(data)} are outside a blob of {total} bytes")
        if self._holds(digest):
            return Upload(total, True)
        path = self._partial(digest)
        stands = self.partial(digest)
        if offset > stands:
            raise BlobOffsetWrong(digest, stands, offset)
        fresh = data[stands - offset :]
        try:
            self._append(path, os.O_APPEND, fresh, sync=stands + len(fresh) == total)
        except OSError as error:
            # On a full disk what did arrive stays: the next offset is read from the file. After another failure nobody
            # knows what of it is on the disk, and a second sync would not say either.
            if error.errno not in FULL_ERRORS:
                path.unlink(missing_ok=True)
            raise self._failure(error, digest, None) from error
        if stands + len(fresh) < total:
            return Upload(stands + len(fresh), False)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                self._disk.unlink(path)
                raise BlobDamaged(f"the uploaded bytes do not have the digest {digest}")
        try:
            self._adopt(path, digest)
        except OSError as error:
            raise self._failure(error, digest, None) from error
        return Upload(total, True)

    def delete(self, digest: str) -> bool:
        """Remove a blob; False if there was none."""
        return self.delete_all([digest]) == 1

    def delete_all(self, digests: Iterable[str]) -> int:
        """Remove blobs, with a sync of each folder once; how many there were."""
        gone = [digest for digest in digests if self._delete(digest)]
        for folder in dict.fromkeys(self.path(digest).parent for digest in gone):
            self._disk.sync_folder(folder)
        return len(gone)

    def _delete(self, digest: str) -> bool:
        self.ram.drop(digest)
        self._durable.discard(digest)
        self._renamed.discard(digest)
        try:
            self._disk.unlink(self.path(digest))
        except FileNotFoundError:
            return False
        return True

    def abandon(self, digest: str) -> None:
        """Forget what was uploaded of a blob that is not whole."""
        self._partial(digest).unlink(missing_ok=True)

    def clean(self) -> int:
        """Remove temporary files that a dead writer left, and make durable what it had renamed; returns how many files. Only the
        owner calls it, at start.
        """
        left = list((self.folder / "temporary").iterdir())
        for path in left:
            path.unlink(missing_ok=True)
        for folder in sorted(self.folder.iterdir()):
            if len(folder.name) == 2:
                self._disk.sync_folder(folder)
        self._disk.sync_folder(self.folder)
        return len(left)

    def _partial(self, digest: str) -> Path:
        return self.folder / "partial" / self.path(digest).name

    def _check_size(self, size: int) -> None:
        if size > self.max_blob_bytes:
            raise BlobTooLarge(f"a blob of {size} bytes is above the limit of {self.max_blob_bytes}")

    def _append(self, path: Path, how: int, data: bytes, *, sync: bool) -> None:
        handle = self._disk.open(path, os.O_WRONLY | os.O_CREAT | how)
        try:
            write_all(self._disk, handle, data)
            if sync:
                self._disk.sync(handle)
        finally:
            os.close(handle)

    def _adopt(self, temporary: Path, digest: str) -> None:
        self._rename(temporary, digest)
        self._disk.sync_folder(self.path(digest).parent)
        self._settled([digest])

    def _rename(self, temporary: Path, digest: str) -> None:
        target = self.path(digest)
        self._secure_folder(target.parent)
        if digest not in self:  # else it was durable before, and stays it
            self._renamed.add(digest)
        self._disk.rename(temporary, target)

    def _settled(self, digests: Iterable[str]) -> None:
        self._durable.update(digests)
        self._renamed.difference_update(digests)

    def _secure_folder(self, folder: Path) -> None:
        # That it exists does not say that it is durable: whoever made it may have died before its sync.
        if folder.name not in self._folders:
            self._disk.make_folder(folder)
            self._disk.sync_folder(self.folder)
            self._folders.add(folder.name)

    def _holds(self, digest: str) -> bool:
        """Whether the blob is there, and durable now: whoever renamed it may have died before its folder's sync."""
        if digest not in self:
            return False
        if digest not in self._durable:
            folder = self.path(digest).parent
            self._secure_folder(folder)
            self._disk.sync_folder(folder)
            self._durable.add(digest)
        return True

    def _failure(self, error: OSError, digest: str, temporary: Path | None) -> Exception:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if error.errno in FULL_ERRORS:
            return BlobStoreFull(f"no room for the blob {digest}: {os.strerror(error.errno or errno.ENOSPC)}")
        return error
