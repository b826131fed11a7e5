"""Objects in an S3-compatible bucket, through obstore (the extra `s3`): see `storage.object_stores`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from storage.object_stores import (
    ObjectInfo,
    ObjectMissing,
    ObjectStoreAway,
    ObjectStoreDenied,
    ObjectStoreError,
    ObjectStoreFull,
    S3Access,
    checked_name,
)

CONNECT_TIMEOUT: Final = "10s"
TIMEOUT: Final = "120s"
"""Of one request."""
RETRIES: Final = 5
PART_BYTES: Final = 16 << 20
ONE_REQUEST_BYTES: Final = 64 << 20
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>(\w{1,80})</Code>")
_DENIED: Final = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "ExpiredToken"}
_FULL: Final = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"}
Found = TypeVar("Found")


class S3Store:
    """One bucket below a prefix. `retries`: of a request that the network or the server failed."""

    def __init__(self, bucket: str, prefix: str, access: S3Access, *, retries: int = RETRIES) -> None:
        try:
            import obstore
            from obstore.exceptions import AlreadyExistsError, BaseError
            from obstore.store import S3Store as Bucket
        except ImportError as missing:
            raise ObjectStoreError("an s3:// store needs obstore", "pip install 'torg[s3]'") from missing
        self.where = f"s3://{bucket}/{prefix}".rstrip("/")
        self._obstore: Any = obstore
        self._exists, self._errors = AlreadyExistsError, (BaseError, OSError, ValueError)
        said = {
            "endpoint": access.endpoint, "region": access.region, "access_key_id": access.access_key_id,
            "secret_access_key": access.secret_access_key, "session_token": access.session_token,
        }  # fmt: skip
        client: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT, "timeout": TIMEOUT}
        if access.endpoint is not None and access.endpoint.startswith("http://"):
            client["allow_http"] = True
        try:
            self._bucket: Any = Bucket(
                bucket, prefix=prefix or None, client_options=client, retry_config={"max_retries": retries},
                **{name: value for name, value in said.items() if value is not None},
            )  # type: ignore[call-overload, unused-ignore]  # fmt: skip
        except self._errors as error:
            raise ObjectStoreError(f"{self.where} cannot be used: {type(error).__name__}") from error

    def put_new(self, name: str, data: bytes) -> bool:
        checked_name(name)
        try:
            self._obstore.put(self._bucket, name, data, mode="create", use_multipart=False)
        except self._exists:
            return False
        except self._errors as error:
            raise self._failure(error, "PUT", name) from None
        return True

    def put_file(self, name: str, path: Path) -> None:
        several = path.stat().st_size > ONE_REQUEST_BYTES
        self._do("PUT", name, lambda: self._obstore.put(self._bucket, name, path, use_multipart=several, chunk_size=PART_BYTES))

    def replace(self, name: str, data: bytes) -> None:
        several = len(data) > ONE_REQUEST_BYTES
        self._do("PUT", name, lambda: self._obstore.put(self._bucket, name, data, use_multipart=several, chunk_size=PART_BYTES))

    def get(self, name: str) -> bytes:
        return self._do("GET", name, lambda: bytes(self._obstore.get(self._bucket, name).bytes()))

    def get_range(self, name: str, begin: int, end: int) -> bytes:
        assert 0 <= begin <= end
        size = self.size(name) if begin else 1  # a range behind the end is an error of its own kind on every server
        if size is None:
            raise ObjectMissing(f"{self.where} has no object {name}")
        if begin >= min(size, end):
            return b""
        try:
            return self._do("GET", name, lambda: bytes(self._obstore.get_range(self._bucket, name, start=begin, end=end)))
        except ObjectMissing:
            raise
        except ObjectStoreError:
            if self.size(name) == 0:
                return b""
            raise

    def size(self, name: str) -> int | None:
        try:
            return int(self._do("HEAD", name, lambda: self._obstore.head(self._bucket, name))["size"])
        except ObjectMissing:
            return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        if prefix:
            checked_name(prefix)
        batches = self._do("LIST", prefix, lambda: iter(self._obstore.list(self._bucket, prefix=prefix or None)))
        found = []
        while (batch := self._do("LIST", prefix, lambda: next(batches, None))) is not None:
            found += [ObjectInfo(one["path"], one["size"], int(one["last_modified"].timestamp() * 1000)) for one in batch]
        yield from sorted(found, key=lambda one: one.name)

    def delete(self, name: str) -> None:
        try:
            self._do("DELETE", name, lambda: self._obstore.delete(self._bucket, name))
        except ObjectMissing:
            return

    def _do(self, verb: str, name: str, ask: Callable[[], Found]) -> Found:
        if verb != "LIST":
            checked_name(name)
        try:
            return ask()
        except self._errors as error:
            raise self._failure(error, verb, name) from None

    def _failure(self, error: Exception, verb: str, name: str) -> ObjectStoreError:
        """Of what the library says only the status and the server's code: the rest may quote headers."""
        text = str(error)
        status, code = _STATUS.search(text), _CODE.search(text)
        told = code[1] if code else f"status {status[1]}" if status else "no answer"
        message = f"{self.where}: {verb} {name}: {told}"
        number = int(status[1]) if status else 0
        if told in _DENIED or number in (401, 403):
            return ObjectStoreDenied(message, "check the bucket's name, the keys and what they may do")
        if isinstance(error, FileNotFoundError):
            return ObjectMissing(f"{self.where} has no object {name}")
        if told in _FULL or number == 507:
            return ObjectStoreFull(message, "ask for more room in the bucket")
        if not status or number >= 500 or number in (408, 429):
            return ObjectStoreAway(message, "see whether the endpoint answers")
        return ObjectStoreError(message)
