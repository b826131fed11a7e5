"""Blobs over the wire: resumable both ways, digests checked on this side too."""

import hashlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from market.blob_frames import framed
from market.wire import MarketUnreachable, Refused, Wire

CHUNK_BYTES = 8 * 1024 * 1024
MOVES_WITHOUT_PROGRESS = 5
ASK_AT_ONCE = 4_096


class Transfers:
    """Uploads and downloads of content-addressed bytes (digest: lower-case SHA-256 hex)."""

    def __init__(self, wire: Wire, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._wire = wire
        self._chunk_bytes = chunk_bytes

    def size(self, digest: str) -> int | None:
        """Bytes of a blob that the market holds whole, else None."""
        answer = self._wire.call("HEAD", f"/v1/blobs/{digest}", accept=(404,))
        return int(answer.headers["Content-Length"]) if answer.status_code == 200 else None

    def probe(self, size: int) -> tuple[float, float, float]:
        """(round trip, getting, sending) in seconds: the shortest of four empty calls, and `size` bytes each way, which the
        market forgets. For providers."""

        def took_s(method: str, **options: Any) -> float:
            began = time.monotonic()
            self._wire.call(method, "/v1/probe", repeatable=False, **options)
            return time.monotonic() - began

        trip_s = min(took_s("GET", params={"size": 0}) for _ in range(4))
        return trip_s, took_s("GET", params={"size": size}), took_s("POST", content=bytes(size))

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that the market does not hold whole, in their order; all, when it cannot tell."""
        found: list[str] = []
        for at in range(0, len(digests), ASK_AT_ONCE):
            asked = list(digests[at : at + ASK_AT_ONCE])
            answer = self._wire.call("POST", "/v1/blobs/missing", body={"digests": asked}, accept=(404, 405))
            found += answer.json()["missing"] if answer.status_code == 200 else asked
        return found

    def collect(self, *, dry_run: bool, grace_ms: int) -> dict[str, int]:
        """Mark what no job needs, sweep what was marked a grace ago (operator): {blobs, needed, marked, due, swept, …}."""
        found: dict[str, int] = self._wire.json("POST", "/v1/blobs/collect", body={"dry_run": dry_run, "grace_ms": grace_ms}, wait_s=600)
        return found

    def upload(self, source: Path | bytes) -> str:
        """Send what the market does not hold yet; answers the digest. Raises Refused (quota, disk full, digest)."""
        with _opened(source) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            total = file.seek(0, io.SEEK_END)
            self._send(file, digest, total)
        return digest

    def upload_all(self, blobs: Sequence[tuple[str, bytes | memoryview]]) -> list[str]:
        """Send small blobs, 64 MiB at most, in one request, each with the digest that it is said to have; the digests of those
        that have another, which are not kept. Nobody looks at what the market holds already (`missing`), nor tries twice.
        Raises Refused (quota, disk full).
        """
        body = framed(blobs)
        headers = {"Content-Length": str(sum(map(len, body))), "Content-Type": "application/octet-stream"}
        wrong: list[str] = self._wire.json("POST", "/v1/blobs", content=body, headers=headers, repeatable=False)["wrong"]
        return wrong

    def upload_files(self, files: Mapping[str, Path]) -> None:
        """Send small files, each under the digest that it has, in one request, and after a cut what did not come. A market of
        before this way gets them one by one. Raises Refused, MarketUnreachable, and ValueError for a file that has changed.
        """
        left, stuck = list(files), 0
        while left:
            try:
                wrong = self.upload_all([(digest, files[digest].read_bytes()) for digest in left])
            except MarketUnreachable:
                stuck += 1
                if stuck >= MOVES_WITHOUT_PROGRESS:
                    raise
                left = self.missing(left)  # patient: waits for the market within its patience
            except Refused as refused:
                if refused.status not in (404, 405):
                    raise
                for digest in left:
                    self.upload(files[digest])
                return
            else:
                if wrong:
                    raise ValueError(f"{files[wrong[0]]} has changed")
                return

    def read(self, digest: str) -> bytes:
        """A small blob whole. Raises Refused 404, and ValueError when the bytes are not what the digest says."""
        found = self._wire.call("GET", f"/v1/blobs/{digest}").content
        _check(hashlib.sha256(found).hexdigest(), digest)
        return found

    def download(self, digest: str, target: Path, progress: Callable[[int], None] = lambda _: None) -> None:
        """Fetch into `target` through a file beside it, which a later call continues. `progress` gets the bytes there."""
        partial = target.with_name(f".{target.name}.{digest[:12]}.part")
        stuck = 0
        while True:
            offset = partial.stat().st_size if partial.exists() else 0
            try:
                self._fetch(digest, partial, offset, progress)
                break
            except MarketUnreachable:
                moved = partial.exists() and partial.stat().st_size > offset
                stuck = 0 if moved else stuck + 1
                if stuck >= MOVES_WITHOUT_PROGRESS:
                    raise
                self.size(digest)  # patient: waits for the market within its patience
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            partial.unlink()
        _check(found, digest)
        partial.replace(target)

    def _fetch(self, digest: str, partial: Path, offset: int, progress: Callable[[int], None]) -> None:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            with self._wire.stream(f"/v1/blobs/{digest}", headers=headers) as answer:
                resumed = answer.status_code == 206
                with partial.open("ab" if resumed else "wb") as file:
                    there = offset if resumed else 0
                    for piece in answer.iter_bytes():
                        file.write(piece)
                        there += len(piece)
                        progress(there)
        except Refused as refused:
            if refused.code != "range_past_end":  # the partial file is already whole
                raise

    def _send(self, file: io.BufferedReader | io.BytesIO, digest: str, total: int) -> None:
        offset, stuck = self._held(digest), 0
        while offset is not None:
            file.seek(offset)
            chunk = file.read(min(self._chunk_bytes, total - offset))
            headers = {"Content-Range": f"bytes {offset}-{offset + len(chunk) - 1}/{total}"} if total else {}
            try:
                self._wire.call("PUT", f"/v1/blobs/{digest}", content=chunk, headers=headers, repeatable=False)
                if offset + len(chunk) >= total:
                    return
                offset, stuck = offset + len(chunk), 0
            except MarketUnreachable:
                stuck += 1
                if stuck >= MOVES_WITHOUT_PROGRESS:
                    raise
                offset = self._held(digest)
            except Refused as refused:
                stuck += 1
                if refused.code != "offset_wrong" or stuck >= MOVES_WITHOUT_PROGRESS:
                    raise
                offset = self._held(digest)

    def _held(self, digest: str) -> int | None:
        """Bytes that the market holds of an unfinished upload; None when it holds the whole blob."""
        answer = self._wire.call("HEAD", f"/v1/blobs/{digest}", accept=(404,))
        return None if answer.status_code == 200 else int(answer.headers.get("Upload-Offset", "0"))


def _opened(source: Path | bytes) -> io.BufferedReader | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _check(found: str, wanted: str) -> None:
    if found != wanted:
        raise ValueError(f"the bytes of blob {wanted} arrived with digest {found}")
