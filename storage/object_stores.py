"""Named objects in a folder or in a bucket: what blobs and copies of the journal need of either, and no more.

An object is put whole and read whole or in part; nobody sees half of one. When `put_new` or `replace` returns, the object
is durable: in a folder by temporary file, fsync, link or rename, fsync of the folder; in a bucket by the server's answer.

    folder:  open_store("/srv/mirror")
    bucket:  open_store("s3://bucket/prefix", S3Access(endpoint="https://minio.example.org", region="us-east-1"))

A bucket needs the extra `s3` (obstore). Keys come from `S3Access`, or from where S3 clients look for them as a rule: the
variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION of this process, a web identity, or the
machine's role. No message holds a key.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Final, Protocol
from urllib.parse import urlsplit

from storage.disk import DISK, Disk, write_all
from storage.journal_format import FULL_ERRORS

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
MAX_NAME: Final = 512
BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
INCOMING: Final = ".incoming"
COPY_BYTES: Final = 1 << 20
ABANDONED_S: Final = 3600.0
"""After so long without a write a file on its way in has no writer any more."""


class ObjectStoreError(Exception):
    """The store cannot do what was asked; the text names the store and the object, and no key. `remedy`: what to do."""

    remedy: str | None = None

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


class ObjectMissing(ObjectStoreError):
    """There is no object of this name."""


class ObjectStoreFull(ObjectStoreError):
    """There is no room; nothing half-written is visible."""


class ObjectStoreAway(ObjectStoreError):
    """The store cannot be reached, or failed by itself: the same may work later."""


class ObjectStoreDenied(ObjectStoreError):
    """The store does not let these keys do that, or there is no such bucket."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: its name, exact length, and when it was written by the store's clock (milliseconds since 1970)."""

    name: str
    bytes: int
    modified_ms: int


class ObjectStore(Protocol):
    """Methods raise ValueError for what is no name, ObjectStoreError for what the store does. Any thread may call."""

    @property
    def where(self) -> str:
        """The store for people: a path or a URL, without keys."""

    def put_new(self, name: str, data: bytes) -> bool:
        """Make the object unless there is one of this name; whether it was made. Of several writers one makes it."""

    def put_file(self, name: str, path: Path) -> None:
        """Make the object from a file of any length. For names that say their content: of several writers each may win."""

    def replace(self, name: str, data: bytes) -> None:
        """Make the object or put other bytes in its place, at once for every reader."""

    def get(self, name: str) -> bytes:
        """All bytes. Raises ObjectMissing."""

    def get_range(self, name: str, begin: int, end: int) -> bytes:
        """Bytes begin to end (not included), fewer where the object ends. Raises ObjectMissing."""

    def size(self, name: str) -> int | None:
        """Exact length; None where there is no such object."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose name is in the folder `prefix` ("" for all) at any depth, sorted by name."""

    def delete(self, name: str) -> None:
        """Remove the object; no error where there is none."""


@dataclass(frozen=True, slots=True)
class S3Access:
    """How to reach a bucket; what is None is looked for where S3 clients look. Keys are not in its repr."""

    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)


def open_store(place: str, access: S3Access | None = None, *, disk: Disk = DISK) -> ObjectStore:
    """A folder by its path or a bucket by s3://BUCKET[/PREFIX]. Raises ValueError that says what is wrong with `place`."""
    if "://" not in place:
        return FolderStore(Path(place), disk=disk)
    from storage.s3_store import S3Store

    return S3Store(*split_url(place), access or S3Access())


def split_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of s3://BUCKET[/PREFIX]; the prefix is "" or a name. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme != "s3":
        raise ValueError(f"{parts.scheme}:// is no store that is known here; allowed: a folder or s3://BUCKET/PREFIX")
    if "@" in parts.netloc:
        raise ValueError("keys do not belong into a store's URL")
    prefix = parts.path.strip("/")
    if BUCKET.fullmatch(parts.netloc) is None:
        raise ValueError(f"{parts.netloc!r} is no name of a bucket")
    if parts.query or parts.fragment or (prefix and NAME.fullmatch(prefix) is None):
        raise ValueError(f"the prefix in {url!r} is not made of letters, digits, '.', '_', '-' and '/'")
    return parts.netloc, prefix


def checked_name(name: str) -> str:
    """The name itself. Raises ValueError for one that a folder or a bucket could take for something else."""
    if len(name) > MAX_NAME or NAME.fullmatch(name) is None:
        raise ValueError(f"{name[:80]!r} is no name of an object")
    return name


class FolderStore:
    """Objects as files of a folder; several processes may use it at once."""

    def __init__(self, folder: Path, *, disk: Disk = DISK) -> None:
        self._folder, self._disk = folder, disk
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._incoming = folder / INCOMING
        disk.make_folder(self._incoming)
        self._sweep()
        self._durable: set[Path] = set()
        """Folders that are there, with their names, as far as this object has made them."""

    @property
    def where(self) -> str:
        return str(self._folder)

    def _sweep(self) -> None:
        """Remove what writers left behind that were killed. A file that is being written changes all the time."""
        with suppress(OSError):
            for path in self._incoming.iterdir():
                if path.stat().st_mtime < time.time() - ABANDONED_S:
                    path.unlink()

    def put_new(self, name: str, data: bytes) -> bool:
        target = self._path(name)
        if target.exists():
            self._sync_name(target)  # whoever made it may have died before it was durable
            return False
        temporary = self._written(data, name)
        try:
            self._disk.link(temporary, target)
            made = True
        except FileExistsError:
            made = False
        except OSError as error:
            raise self._failure(error, name) from error
        finally:
            temporary.unlink(missing_ok=True)
        self._sync_name(target)
        return made

    def put_file(self, name: str, path: Path) -> None:
        target, temporary = self._path(name), self._temporary()
        try:
            with path.open("rb") as source:
                self._write(temporary, iter(lambda: source.read(COPY_BYTES), b""))
            self._disk.rename(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._failure(error, name) from error
        self._sync_name(target)

    def replace(self, name: str, data: bytes) -> None:
        target, temporary = self._path(name), self._written(data, name)
        try:
            self._disk.rename(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._failure(error, name) from error
        self._sync_name(target)

    def get(self, name: str) -> bytes:
        return self._read(name, 0, -1)

    def get_range(self, name: str, begin: int, end: int) -> bytes:
        assert 0 <= begin <= end
        return self._read(name, begin, end - begin)

    def size(self, name: str) -> int | None:
        try:
            found = (self._folder / checked_name(name)).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if S_ISREG(found.st_mode) else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        root = self._folder / checked_name(prefix) if prefix else self._folder
        found = []
        for folder, folders, files in os.walk(root):
            folders[:] = [one for one in folders if one != INCOMING]
            for file in files:
                path = Path(folder, file)
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue  # it went meanwhile
                name = path.relative_to(self._folder).as_posix()
                found.append(ObjectInfo(name, stat.st_size, stat.st_mtime_ns // 1_000_000))
        yield from sorted(found, key=lambda one: one.name)

    def delete(self, name: str) -> None:
        path = self._folder / checked_name(name)
        try:
            self._disk.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._failure(error, name) from error
        self._disk.sync_folder(path.parent)

    def _path(self, name: str) -> Path:
        """Where the object is or will be, in folders that are durable."""
        target = self._folder / checked_name(name)
        try:
            for folder in reversed(target.relative_to(self._folder).parents[:-1]):
                path = self._folder / folder
                if path not in self._durable:
                    self._disk.make_folder(path)
                    self._disk.sync_folder(path.parent)
                    self._durable.add(path)
        except OSError as error:
            raise self._failure(error, name) from error
        return target

    def _temporary(self) -> Path:
        return self._incoming / secrets.token_hex(8)

    def _written(self, data: bytes, name: str) -> Path:
        temporary = self._temporary()
        try:
            self._write(temporary, iter((data,)))
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._failure(error, name) from error
        return temporary

    def _write(self, path: Path, pieces: Iterator[bytes]) -> None:
        handle = self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            for piece in pieces:
                write_all(self._disk, handle, piece)
            self._disk.sync(handle)
        finally:
            os.close(handle)

    def _sync_name(self, target: Path) -> None:
        try:
            self._disk.sync_folder(target.parent)
        except OSError as error:
            raise self._failure(error, target.name) from error

    def _read(self, name: str, begin: int, size: int) -> bytes:
        try:
            with (self._folder / checked_name(name)).open("rb") as file:
                file.seek(begin)
                return file.read(size)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ObjectMissing(f"{self.where} has no object {name}") from error
        except OSError as error:
            raise self._failure(error, name) from error

    def _failure(self, error: OSError, name: str) -> ObjectStoreError:
        self._durable.clear()  # a folder may have gone
        message = f"{self.where}: {name}: {error.strerror or error}"
        if error.errno in FULL_ERRORS:
            return ObjectStoreFull(message, "free space on that disk")
        return ObjectStoreDenied(message) if isinstance(error, PermissionError) else ObjectStoreError(message)
