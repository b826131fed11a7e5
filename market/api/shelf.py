"""The blob store as members use it: one sender per digest, a quota per member, nothing removed that another job needs.

Who knows a digest may read its bytes: a digest of 256 bits cannot be guessed, and only its owner's job shows it.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from market.api.problems import Problem
from market.blob_frames import Framed
from storage.artifacts import Artifacts, ArtifactsError
from storage.blobs import (
    BlobDamaged,
    BlobError,
    BlobMissing,
    BlobOffsetWrong,
    BlobsAway,
    BlobStore,
    BlobStoreFull,
    BlobTooLarge,
    Upload,
)
from storage.checkpoints import Manifest, ManifestError
from storage.garbage import Marks
from storage.living import digests_in
from storage.parts import Parts, PartsError
from storage.saved import Saved, SavedError

log = logging.getLogger("torg.shelf")

QUOTA_BYTES = 64 * 1024**3
PIECE_BYTES = 1024 * 1024
AT_ONCE = 256
"""So many blobs are removed in one go."""
PLANE = "plane"
"""The account of our own actors, whose uploads are others' files."""
Decoded = TypeVar("Decoded")


@dataclass(frozen=True, slots=True)
class Piece:
    """Where the bytes of one request belong: `start` within `total` bytes."""

    start: int
    total: int


class Shelf:
    """Blobs in `store`; who uploaded what is noted in `uploads`, a line `member digest bytes` each.

    `in_thread` runs what waits for the disk beside the event loop, on which everything else here runs.
    """

    def __init__(
        self, store: BlobStore, uploads: Path, *, quota_bytes: int = QUOTA_BYTES,
        in_thread: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:  # fmt: skip
        self.store = store
        self.store.clean()
        self.marks = Marks()
        self.unreadable: set[str] = set()
        """Manifests of which nobody knows what they need: as long as there are any, nothing is swept."""
        self._in_thread = in_thread
        self._uploads = uploads
        self._quota_bytes = quota_bytes
        self._senders: dict[str, tuple[asyncio.Lock, int]] = {}
        self._used: dict[str, dict[str, int]] = {}
        self._needed_by: dict[str, set[str]] = {}
        self._manifests: dict[str, set[str]] = {}
        self._left: list[tuple[str, str]] = []
        self._saved: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._checkpoints: dict[str, dict[str, Manifest]] = {}
        self._note_known()

    def used_bytes(self, member: str) -> int:
        """Bytes that count for a member's quota."""
        return sum(self._used.get(member, {}).values())

    def size(self, digest: str) -> int | None:
        """Bytes of a whole blob, which stays for a grace from now on; None where there is none, or it is going."""
        return self.store.size(digest) if self.marks.touch(digest) else None

    async def receive(self, member: str, digest: str, piece: Piece | None, pieces: AsyncIterator[bytes]) -> Upload:
        """Take the bytes of one request as they come. Raises Problem: quota, offset, digest, size, disk."""
        async with self._one_sender(digest):
            if (whole := self.size(digest)) is not None:
                return Upload(whole, True)
            if piece is None:
                return await self._receive_whole(member, digest, pieces)
            self._check_quota(member, digest, piece.total)
            offset, done = piece.start, Upload(piece.start, False)
            held = bytearray()
            async for part in pieces:
                held += part
                if len(held) >= PIECE_BYTES and offset + len(held) < piece.total:
                    done = await self._write(digest, offset, piece.total, bytes(held))
                    offset += len(held)
                    held.clear()
            if held or piece.total == 0:
                done = await self._write(digest, offset, piece.total, bytes(held))
            if done.whole:
                self._note(member, {digest: piece.total})
                self.marks.touch(digest)  # promised from now on, and not from before the disk was waited for
            return done

    async def receive_all(self, member: str, blobs: Sequence[Framed]) -> list[str]:
        """Take whole blobs, durable together; the digests of those that have other bytes than they say, which are not kept.
        Raises Problem (quota, disk): then none of them is taken.
        """
        async with self._one_sender(*(blob.digest for blob in blobs)):
            new = {blob.digest: blob for blob in blobs if self.size(blob.digest) is None}
            held = self._used.get(member, {})
            self._check_room(member, sum(blob.bytes for blob in new.values() if blob.digest not in held))
            wrong: list[str] = await self._stored(self.store.put_all, [(blob.digest, blob.pieces) for blob in new.values()])
            self._note(member, {blob.digest: blob.bytes for blob in new.values() if blob.digest not in wrong})
            self.missing(blob.digest for blob in blobs)  # as above
            return wrong

    async def remove(self, job: str, digests: Iterable[str]) -> None:
        """Remove blobs that `job` needs no more, without those that another job still names."""
        free = []
        for digest in digests:
            self._checkpoints.get(job, {}).pop(digest, None)
            needed = self._needed_by.get(digest, set())
            needed.discard(job)
            if not needed:
                self._needed_by.pop(digest, None)
                free.append(digest)
        self.marks.free(free)
        for at in range(0, len(free), AT_ONCE):
            await self.discard(*free[at : at + AT_ONCE])

    async def discard(self, *digests: str, marked: bool = False) -> bool:
        """Remove blobs that were marked, or are free, and that nobody has asked for since; whether all are gone.

        From the decision on they count as absent, and whoever sends one again waits until it is.
        """
        async with self._one_sender(*digests):
            going = [one for one in digests if not self._needed_by.get(one) and self.marks.take(one, marked=marked)]
            try:
                await self._in_thread(self.store.delete_all, going)
            except (OSError, BlobError):
                log.exception("blobs stay in the store: %s", ", ".join(going))
            finally:
                for digest in going:
                    self.marks.gone(digest)
            gone = [digest for digest in going if self.store.size(digest) is None]
            for held in self._used.values():
                for digest in gone:
                    held.pop(digest, None)
            return len(gone) == len(digests)

    def is_needed(self, digest: str) -> bool:
        """Whether a job names it."""
        return bool(self._needed_by.get(digest))

    def checkpoints(self, job: str) -> list[Manifest]:
        """The checkpoints of a job that are kept, oldest first."""
        found = self._checkpoints.get(job, {}).values()
        return sorted(found, key=lambda manifest: (manifest.round, manifest.created_at_ms))

    def need(self, job: str, digests: Iterable[str]) -> None:
        """These blobs stay as long as `job` names them."""
        for digest in digests:
            self._needed_by.setdefault(digest, set()).add(job)

    def observe(self, events: Sequence[dict[str, Any]]) -> None:
        """Learn from the journal, at start, which checkpoints are kept, and what commands have left."""
        for event in events:
            if event["type"] == "checkpoint_durable":
                kept = self._manifests.setdefault(event["job"], set())
                kept.add(event["manifest"])
                kept.difference_update(event["removed"])
            elif event["type"] == "attempt_ended" and event["manifest"] is not None:
                self._left.append((event["job"], event["manifest"]))
            elif event["type"] == "job_submitted":
                self._owners[event["job"]] = event["customer"]
                self.need_spec(event["job"], event.get("spec", {}))
            elif event["type"] == "files_saved":
                self._saved[event["job"]] = event["manifest"]
            elif event["type"] == "job_state" and event["state"] == "done":
                self._saved.pop(event["job"], None)

    def recall_manifests(self) -> None:
        """After `observe`: what the kept checkpoints and artifacts name is needed."""
        for job, manifests in self._manifests.items():
            for digest in manifests:
                try:
                    self.need_manifest(job, digest)
                except Problem as problem:
                    self.unreadable.add(digest)
                    log.error("a checkpoint of %s is damaged: %s", job, problem.message)
        self._manifests.clear()
        kept = [
            *((partial(self.need_artifacts, job), job, digest) for job, digest in self._left),
            *((partial(self.need_saved, job, self._owners[job]), job, digest) for job, digest in self._saved.items()),
        ]
        for need, job, digest in kept:
            try:
                need(digest)
            except Problem as problem:
                self.unreadable.add(digest)
                log.error("files of the command of %s are damaged: %s", job, problem.message)
        self._left.clear()
        self._saved.clear()
        self._owners.clear()

    def need_artifacts(self, job: str, digest: str) -> None:
        """What a job's command has left, as long as there is the job. Raises Problem when it is not here, or another job's."""
        found = self._read(digest, Artifacts.decode)
        self.need(job, self._named(job, digest, found.job, found.blobs))

    def need_saved(self, job: str, owner: str, digest: str) -> None:
        """What a job's command has saved, until `remove_saved`; it counts for the owner. Raises Problem as `need_artifacts`."""
        named = self._named_saved(job, digest)
        self.need(_saved(job), named)
        for one in named:
            self._used.get(PLANE, {}).pop(one, None)
        self._note(owner, {one: self.store.size(one) or 0 for one in named})

    def parts(self, digest: str) -> Parts:
        """A manifest of parts. Raises PartsError, also when it is not here."""
        try:
            return Parts.decode(self.store.read(digest))
        except (BlobMissing, BlobDamaged) as error:
            raise PartsError(str(error)) from error

    def need_spec(self, job: str, spec: Mapping[str, Any]) -> None:
        """Code, data and what a working folder is made of, which were looked at before, stay as long as there is the job."""
        self.need(job, digests_in(dict(spec)))
        workdir = (spec.get("command") or {}).get("workdir") or {}
        if "parts" in workdir:
            try:
                self.need(job, (digest for digest, _ in self.parts(workdir["digest"]).parts))
            except PartsError as error:
                self.unreadable.add(workdir["digest"])
                log.error("the working folder of %s is damaged: %s", job, error)

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those that are not here whole."""
        return [digest for digest in digests if self.size(digest) is None]

    async def keep_saved(self, job: str, owner: str, digest: str) -> None:
        """`need_saved`, if the owner has room for what is new; else that goes. Raises Problem."""
        held = self._used.get(owner, {})
        new = {one: self.store.size(one) or 0 for one in self._named_saved(job, digest) if one not in held}
        try:
            self._check_room(owner, sum(new.values()))
        except Problem:
            await self.remove(_saved(job), new)
            raise
        self.need_saved(job, owner, digest)

    async def remove_saved(self, job: str, digest: str, kept: str | None) -> None:
        """What was saved before `kept` (or nothing is to be kept), without what that names too. May be said again."""
        if _saved(job) not in self._needed_by.get(digest, ()):
            return
        try:
            gone = set(self._named_saved(job, digest)) - set(() if kept is None else self._named_saved(job, kept))
        except Problem as problem:
            log.error("what %s had saved stays: %s", job, problem.message)
        else:
            await self.remove(_saved(job), gone)

    def _named_saved(self, job: str, digest: str) -> list[str]:
        found = self._read(digest, Saved.decode)
        return self._named(job, digest, found.job, found.blocks)

    def _read(self, digest: str, decode: Callable[[bytes], Decoded]) -> Decoded:
        """A manifest of a command's files."""
        try:
            return decode(self.store.read(digest))
        except (BlobMissing, BlobDamaged, ArtifactsError, SavedError) as error:
            message = f"manifest {digest} cannot be used: {error}"
            raise Problem(422, "manifest_missing", message, field="manifest", remedy="upload it first") from error

    def _named(self, job: str, digest: str, of: str, blobs: Iterable[str]) -> list[str]:
        """A manifest and the blobs that it names, which must be here."""
        missing = self.missing([digest, *blobs])
        if of != job or missing:
            what = f"blob {missing[0]} of it is not here" if missing else f"it is of {of}, not of {job}"
            raise Problem(422, "manifest_wrong", f"manifest {digest} cannot be used: {what}", field="manifest")
        return [digest, *blobs]

    def need_manifest(self, job: str, digest: str, *, place: tuple[int, int] | None = None) -> None:
        """A checkpoint and what its manifest names. Raises Problem when its blobs are not here, or when it is another
        job's or (with `place`: round, step) of another place in the job.
        """
        try:
            manifest = Manifest.decode(self.store.read(digest))
        except (BlobMissing, BlobDamaged, ManifestError) as error:
            message = f"manifest {digest} cannot be used: {error}"
            raise Problem(422, "manifest_missing", message, field="manifest", remedy="upload it first") from error
        if manifest.job != job:
            message = f"manifest {digest} is of {manifest.job}, not of {job}"
            raise Problem(422, "manifest_wrong", message, field="manifest")
        if place is not None and (manifest.round, manifest.step) != place:
            message = f"manifest {digest} is of round {manifest.round}, step {manifest.step}, not of {place}"
            raise Problem(422, "manifest_wrong", message, field="manifest")
        missing = self.missing([digest, *manifest.blobs])
        if missing:
            raise Problem(422, "blob_missing", f"blob {missing[0]} of the manifest is not here", field="manifest")
        self.need(job, [digest, *manifest.blobs])
        self._checkpoints.setdefault(job, {})[digest] = manifest

    async def _receive_whole(self, member: str, digest: str, pieces: AsyncIterator[bytes]) -> Upload:
        """A request without Content-Range: the body is the blob, limited by the size of a request body."""
        data = bytearray()
        async for part in pieces:
            data += part
        self._check_quota(member, digest, len(data))
        self.store.abandon(digest)
        done = await self._write(digest, 0, len(data), bytes(data))
        self._note(member, {digest: len(data)})
        self.marks.touch(digest)
        return done

    async def _write(self, digest: str, offset: int, total: int, data: bytes) -> Upload:
        done: Upload = await self._stored(self.store.upload, digest, offset, total, data)
        return done

    async def _stored(self, store: Callable[..., Any], *what: Any) -> Any:
        try:
            return await self._in_thread(store, *what)
        except BlobOffsetWrong as error:
            headers = {"Upload-Offset": str(error.expected)}
            raise Problem(409, "offset_wrong", str(error), field="Content-Range", headers=headers) from error
        except BlobDamaged as error:
            raise Problem(
                422, "digest_wrong", str(error), field="digest", remedy="send it again from byte 0"
            ) from error
        except BlobTooLarge as error:
            raise Problem(413, "blob_too_large", str(error), field="Content-Range") from error
        except BlobsAway as error:
            raise Problem(503, "blobs_away", str(error), remedy="send it again later") from error
        except BlobStoreFull as error:
            raise Problem(507, "disk_full", f"disk full: {error}", remedy="free space on the market's disk") from error

    @asynccontextmanager
    async def _one_sender(self, *digests: str) -> AsyncIterator[None]:
        """Whoever has several takes them in the order of their names, so that nobody waits for one that waits for him."""
        async with AsyncExitStack() as turns:
            for digest in sorted(set(digests)):
                await turns.enter_async_context(self._turn(digest))
            yield

    @asynccontextmanager
    async def _turn(self, digest: str) -> AsyncIterator[None]:
        lock, others = self._senders.get(digest, (asyncio.Lock(), 0))
        self._senders[digest] = lock, others + 1
        try:
            async with lock:
                yield
        finally:
            _, left = self._senders.pop(digest)
            if left > 1:
                self._senders[digest] = lock, left - 1

    def _check_quota(self, member: str, digest: str, total: int) -> None:
        if digest not in self._used.get(member, {}):
            self._check_room(member, total)

    def _check_room(self, member: str, more: int) -> None:
        used = self.used_bytes(member)
        if used + more > self._quota_bytes:
            message = f"{used} of {self._quota_bytes} bytes are used; {more} more do not fit"
            raise Problem(413, "quota_exceeded", message, remedy="ask the operator for more room")

    def _note(self, member: str, sizes: Mapping[str, int]) -> None:
        held = self._used.setdefault(member, {})
        new = {digest: size for digest, size in sizes.items() if digest not in held}
        held |= new
        try:
            with self._uploads.open("a", encoding="ascii") as file:
                file.write("".join(f"{member} {digest} {size}\n" for digest, size in new.items()))
        except OSError:
            log.exception("uploads of %s are not counted after a restart: %s", member, ", ".join(new))

    def _note_known(self) -> None:
        """Read the uploads of before, and write them anew without those that are gone."""
        if not self._uploads.exists():
            return
        for line in self._uploads.read_text(encoding="ascii", errors="replace").splitlines():
            parts = line.split(" ")
            if len(parts) == 3 and len(parts[1]) == 64 and parts[2].isdigit() and parts[1] in self.store:
                self._used.setdefault(parts[0], {})[parts[1]] = int(parts[2])
        lines = [f"{member} {digest} {size}\n" for member, held in self._used.items() for digest, size in held.items()]
        beside = self._uploads.with_suffix(".new")
        try:
            beside.write_text("".join(lines), encoding="ascii")
            os.replace(beside, self._uploads)
        except OSError:
            beside.unlink(missing_ok=True)
            log.exception("%s could not be made shorter", self._uploads)


def _saved(job: str) -> str:
    """Who needs what a command saves, beside its job: an id of a job has no blank."""
    return f"{job} saved"
