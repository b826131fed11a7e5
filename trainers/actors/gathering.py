"""Brings files of a command from its worker to the blob store, in the background: file by file, in pieces.

What a worker says of a file is compared with the bytes that come; a file that changed meanwhile, or that the store does not
take, is left out and counted. `Gathering` brings the artifacts of a try that has ended; `saves.py` what one that runs saves.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from storage.artifacts import Artifact, Artifacts, ArtifactsError
from storage.saved import Block
from trainers.actors.answers import BadAnswer, checked_answer
from trainers.actors.roster import Worker
from trainers.actors.transport import CallFailed, Gone, Transport
from trainers.actors.wiring import Door, DoorAway, DoorRefused

log = logging.getLogger(__name__)

Json = dict[str, Any]
Sent = TypeVar("Sent")

LOOK_S = 0.2
PAUSE_AWAY_S = 0.3
LIST_S = 3600.0
"""To find and hash the files: there may be many, and large ones."""
PIECE_S = 120.0
"""For a piece of a file or a block to come, also over a slow link."""


class Lost(Exception):
    """The worker is gone, or does not say what it should."""


class Fetcher:
    """The way of one try's files. `is_there`: whether its worker is. `refused`: the code with which the market declined the
    last upload, or empty.
    """

    def __init__(
        self, *, job: str, number: int, worker: Worker, door: Door, transport: Transport, is_there: Callable[[], bool]
    ) -> None:
        self.job, self.number = job, number
        self._worker, self._door, self._transport, self._is_there = worker, door, transport, is_there
        self.refused = ""

    def answer(self, method: str, *arguments: Any) -> Json:
        """What the worker answers, {ok, …}. Raises Lost, BadAnswer."""
        answer = checked_answer(method, self._ask(LIST_S, method, *arguments))
        if not answer["ok"]:
            raise Lost(answer["message"])
        return answer

    def blocks(self, wanted: Sequence[Block]) -> list[memoryview] | None:
        """Blocks of what the command saved, or None when the worker has one no more. What bytes they are, the market looks.
        Raises Lost.
        """
        found = self._ask(PIECE_S * len(wanted), "blocks", [block.digest for block in wanted], failing=())
        try:
            views = [memoryview(one).cast("B") for one in found]
        except TypeError:
            raise Lost("it does not hand out blocks") from None
        return views if [len(view) for view in views] == [block.bytes for block in wanted] else None

    def fetch(self, path: str, digest: str, size: int) -> bool:
        """Whether the artifact is in the store now. Raises Lost."""
        with tempfile.NamedTemporaryFile(prefix="torg-file-") as file:
            sha, there = hashlib.sha256(), 0
            while there < size:
                piece = self._ask(PIECE_S, "piece", path, there, failing=b"")
                if not isinstance(piece, bytes):
                    raise Lost(f"it does not hand out {path}")
                if not piece:
                    break
                sha.update(piece)
                file.write(piece)
                there += len(piece)
            file.flush()
            if (there, sha.hexdigest()) != (size, digest):
                log.info("%s changed while it was fetched", path)
                return False
            return self.upload(Path(file.name)) is not None

    def upload(self, content: bytes | Path) -> str | None:
        """The digest of what is in the store now; None when it is not taken. Raises Lost."""
        return self._taken(lambda: self._door.upload(content))

    def missing(self, digests: Sequence[str]) -> list[str] | None:
        """Those that are not in the store; None when the market does not say. Raises Lost."""
        return self._taken(lambda: self._door.missing(digests))

    def upload_all(self, blobs: Sequence[tuple[str, memoryview]]) -> list[str] | None:
        """Those that were not taken because they have other bytes; None when the market takes no more. Raises Lost."""
        tries = 0

        def send() -> list[str]:
            nonlocal tries
            tries += 1
            left = blobs if tries == 1 else self._left(blobs)  # of a request that was cut off some may be there
            return self._door.upload_all(left) if left else []

        return self._taken(send)

    def read_blob(self, digest: str) -> bytes:
        """A blob of the market's, however long it is away. Raises Lost, DoorRefused."""
        return self._patiently(lambda: self._door.read_blob(digest))

    def _left(self, blobs: Sequence[tuple[str, memoryview]]) -> list[tuple[str, memoryview]]:
        missing = set(self._door.missing([digest for digest, _ in blobs]))
        return [(digest, content) for digest, content in blobs if digest in missing]

    def _taken(self, send: Callable[[], Sent]) -> Sent | None:
        try:
            return self._patiently(send)
        except DoorRefused as refused:
            log.warning("the market does not take a file: %s", refused)
            self.refused = refused.code
            return None

    def _patiently(self, ask: Callable[[], Sent]) -> Sent:
        """The market's answer, however long it is away. Raises Lost, DoorRefused."""
        while self._is_there():
            try:
                return ask()
            except DoorAway:
                time.sleep(PAUSE_AWAY_S)
        raise Lost("the worker is gone")

    def _ask(self, limit_s: float, method: str, *arguments: Any, failing: Any = None) -> Any:
        """A worker's answer; `failing` (where that is something) when its call raised."""
        call, until = self._transport.ask(self._worker.handle, method, *arguments), time.monotonic() + limit_s
        while self._is_there():
            answer = self._transport.answers({0: call}, LOOK_S).get(0)
            if isinstance(answer, CallFailed) and failing is not None:  # a file that is gone, for example
                log.info("%s failed: %s", method, answer)
                return failing
            if isinstance(answer, Gone | CallFailed):
                raise Lost(str(answer))
            if answer is not None:
                return answer
            if time.monotonic() > until:
                raise Lost(f"no answer to {method} within {limit_s:.0f} s")
        raise Lost("the worker is gone")


class Gathering:
    """One try's artifacts. `done` once they are in the store (`found`, and `manifest` names them) or cannot be had: then
    `found` is None and `why` says why.
    """

    def __init__(self, fetcher: Fetcher) -> None:
        self.found: Artifacts | None = None
        self.manifest: str | None = None
        self.why = ""
        self._fetcher = fetcher
        self._done = threading.Event()
        threading.Thread(target=self._work, name="artifacts", daemon=True).start()

    @property
    def done(self) -> bool:
        """See the class."""
        return self._done.is_set()

    def _work(self) -> None:
        try:
            self.found, self.manifest = self._gather()
        except (Lost, BadAnswer, ArtifactsError) as error:
            self.why = str(error)
        finally:
            self._done.set()

    def _gather(self) -> tuple[Artifacts, str | None]:
        fetcher, kept = self._fetcher, []
        listed = fetcher.answer("artifacts", fetcher.number)
        for path, digest, size, executable in listed["files"]:
            if fetcher.fetch(path, digest, size):
                kept.append(Artifact(path, digest, size, executable))
        left_out = listed["left_out"] + len(listed["files"]) - len(kept)
        made = Artifacts(fetcher.job, fetcher.number, tuple(kept), tuple(listed["unmatched"]), left_out)
        return made, fetcher.upload(checked(made).encode())


def checked(made: Artifacts) -> Artifacts:
    """As it is: paths that leave their folder are no files to keep, whoever names them. Raises ArtifactsError."""
    return Artifacts.from_json(made.to_json())
