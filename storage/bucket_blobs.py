"""Blobs in a bucket: the same names, the same promises, another disk.

    ab/ab12…      whole blobs, named as in a folder
    torg-owner    the id of the market whose bucket this is: two markets would sweep each other's blobs

Uploads that are not whole lie in the home (`blobs/partial/`), so that they go on after a restart. A blob is durable when the
bucket has confirmed it, and only then is anybody told so. What the bucket holds is listed once, at start; after that the
one market that may write there knows it without asking. Before it is a tier in RAM (storage/blob_ram.py).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from storage.blob_ram import BUCKET_BYTES, BlobRam, RamError, ram_bytes
from storage.blobs import DIGEST, BlobError, BlobMissing, BlobsAway, BlobStore, BlobStoreFull
from storage.object_stores import (
    ObjectMissing,
    ObjectStore,
    ObjectStoreError,
    ObjectStoreFull,
    S3Access,
    open_store,
    split_url,
)

PLACE_FILE: Final = "blobs.json"
OWNER: Final = "torg-owner"
READ_BYTES: Final = 8 << 20
_FIELDS: Final = ("endpoint", "region", "access_key_id", "secret_access_key", "session_token")


class PlaceError(ValueError):
    """`blobs.json` cannot be used; the text says why and holds no key."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a market's blobs are. `owner`: its id there."""

    url: str
    owner: str
    access: S3Access

    def to_json(self) -> dict[str, Any]:
        """What `blobs.json` holds; it may have keys, so it is written 0600."""
        said = {name: value for name, value in asdict(self.access).items() if value is not None}
        return {"url": self.url, "owner": self.owner, **said}


def new_place(url: str, access: S3Access) -> Place:
    """A bucket for a market that has none yet. Raises ValueError for what is no s3:// URL."""
    split_url(url)
    return Place(url.rstrip("/"), secrets.token_hex(16), access)


def read_place(home: Path) -> Place | None:
    """Where the blobs of this home are; None for its own folder. Raises PlaceError, OSError."""
    path = home / PLACE_FILE
    try:
        text, mode = path.read_text(encoding="utf-8"), path.stat().st_mode
    except FileNotFoundError:
        return None
    try:
        said = json.loads(text)
        url, owner = said.pop("url"), said.pop("owner")
        split_url(url)
        if set(said) - set(_FIELDS) or not all(isinstance(one, str) for one in (owner, *said.values())):
            raise ValueError(f"it has other fields than url, owner, {', '.join(_FIELDS)}, or one that is no text")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlaceError(f"{path} does not say where the blobs are: {error}") from None
    if "secret_access_key" in said and mode & 0o077:
        raise PlaceError(f"{path} holds keys and others may read it: chmod 600 {path}")
    return Place(url, owner, S3Access(**said))


def open_blobs(home: Path) -> BlobStore:
    """The blobs of the market in `home`: its folder, or the bucket that `blobs.json` names. Raises PlaceError, BlobError."""
    place = read_place(home)
    try:
        said = ram_bytes(home)
    except RamError as error:
        raise PlaceError(str(error)) from error
    if place is None:
        return BlobStore(home / "blobs", ram=BlobRam(said or 0))
    return BucketBlobs(home / "blobs", claimed(place), ram=BlobRam(BUCKET_BYTES if said is None else said))


def claimed(place: Place) -> ObjectStore:
    """The bucket, which belongs to this market from now on. Raises BlobError when it is another's, or cannot be used."""
    try:
        store = open_store(place.url, place.access)
        if store.put_new(OWNER, place.owner.encode()):
            return store
        if store.get(OWNER) != place.owner.encode():
            raise BlobError(f"{place.url} holds another market's blobs: name another bucket or prefix")
    except ObjectStoreError as error:
        raise _failure(error) from error
    return store


class BucketBlobs(BlobStore):
    """Blobs in an object store; `folder` keeps uploads that are not whole. One process writes, which `claimed` the store."""

    def __init__(self, folder: Path, store: ObjectStore, **how: Any) -> None:
        super().__init__(folder, **{"ram": BlobRam(BUCKET_BYTES), **how})
        self._store = store
        try:
            names = ((one.name.partition("/")[2], one.bytes) for one in store.list())
            self._sizes = {digest: size for digest, size in names if DIGEST.fullmatch(digest)}
        except ObjectStoreError as error:
            raise _failure(error) from error

    def where(self, digest: str) -> str:
        return f"{self._store.where}/{self._name(digest)}"

    def size(self, digest: str) -> int | None:
        self.path(digest)  # raises ValueError for what is no digest
        return self._sizes.get(digest)

    def digests(self) -> Iterator[str]:
        yield from sorted(self._sizes)

    def _read(self, digest: str) -> bytes:
        if digest not in self:
            raise BlobMissing(f"there is no blob {digest}")
        try:
            return self._store.get(self._name(digest))
        except ObjectMissing as error:
            raise BlobMissing(str(error)) from error
        except ObjectStoreError as error:
            raise _failure(error) from error

    def _open(self, digest: str) -> io.BufferedReader:
        size = self.size(digest)
        if size is None:
            raise BlobMissing(f"there is no blob {digest}")
        return io.BufferedReader(_Object(self._store, self._name(digest), size), READ_BYTES)

    def put(self, data: bytes) -> str:
        self._check_size(len(data))
        digest = hashlib.sha256(data).hexdigest()
        self._put_new({} if digest in self else {digest: [data]})
        self.ram.keep(digest, data)
        return digest

    def _put_new(self, blobs: Mapping[str, Sequence[bytes | memoryview]]) -> None:
        for digest, pieces in blobs.items():
            data = b"".join(pieces)
            try:
                self._store.put_new(self._name(digest), data)
            except ObjectStoreError as error:
                raise _failure(error) from error
            self._sizes[digest] = len(data)
            self.ram.keep(digest, data)

    def delete_all(self, digests: Iterable[str]) -> int:
        return sum(map(self._delete, digests))

    def _delete(self, digest: str) -> bool:
        self.ram.drop(digest)
        known = self._sizes.pop(digest, None)
        if known is not None:
            try:
                self._store.delete(self._name(digest))
            except ObjectStoreError as error:
                self._sizes[digest] = known
                raise _failure(error) from error
        return known is not None

    def _adopt(self, temporary: Path, digest: str) -> None:
        size = temporary.stat().st_size
        try:
            self._store.put_file(self._name(digest), temporary)
        except ObjectStoreError as error:
            raise _failure(error) from error
        finally:
            temporary.unlink()  # an upload that stands at its end would have nothing more to send: it begins again
        self._sizes[digest] = size

    def _holds(self, digest: str) -> bool:
        return digest in self

    def _name(self, digest: str) -> str:
        return f"{digest[:2]}/{digest}"


class _Object(io.RawIOBase):
    """An object as a file to read from."""

    def __init__(self, store: ObjectStore, name: str, size: int) -> None:
        self._store, self._object, self._size, self._at = store, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, room: Any) -> int:
        end = min(self._size, self._at + len(room))
        if end <= self._at:
            return 0
        try:
            data = self._store.get_range(self._object, self._at, end)
        except ObjectMissing as error:
            raise BlobMissing(str(error)) from error
        except ObjectStoreError as error:
            raise _failure(error) from error
        room[: len(data)] = data
        self._at += len(data)
        return len(data)


def _failure(error: ObjectStoreError) -> BlobError:
    full = isinstance(error, ObjectStoreFull)
    message = f"{error}{': ' if error.remedy else ''}{error.remedy or ''}"
    return BlobStoreFull(message) if full else BlobsAway(message)
