"""Brings files of a command from its worker to the blob store, in the background: file by file, in pieces.

What a worker says of a file is compared with the bytes that come; a file that changed meanwhile, or that the store does not
take, is left out and counted. `Gathering` brings the artifacts of a try that has ended, `Saving` what one that runs has
closed in its checkpoint folder, again and again; `Restoring` reads that for the next worker.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.artifacts import Artifact, Artifacts, ArtifactsError, tar_of
from trainers.actors.answers import BadAnswer, checked_answer
from trainers.actors.roster import Worker
from trainers.actors.transport import CallFailed, Gone, Transport
from trainers.actors.wiring import Door, DoorAway, DoorRefused

log = logging.getLogger(__name__)

Json = dict[str, Any]

LOOK_S = 0.2
PAUSE_AWAY_S = 0.3
LIST_S = 3600.0
"""To find and hash the files: there may be many, and large ones."""
PIECE_S = 120.0
MOST_EVERY_S = 60.0


class Lost(Exception):
    """The worker is gone, or does not say what it should."""


class Fetcher:
    """The way of one try's files. `is_there`: whether its worker is."""

    def __init__(
        self, *, job: str, number: int, worker: Worker, door: Door, transport: Transport, is_there: Callable[[], bool]
    ) -> None:
        self.job, self.number = job, number
        self._worker, self._door, self._transport, self._is_there = worker, door, transport, is_there

    def listed(self, kind: str) -> Json:
        """What the worker says of its files of that kind: artifacts or saved. Raises Lost, BadAnswer."""
        answer = checked_answer(kind, self._ask(LIST_S, kind, self.number))
        if not answer["ok"]:
            raise Lost(answer["message"])
        return answer

    def fetch(self, kind: str, path: str, digest: str, size: int) -> bool:
        """Whether the file is in the store now. Raises Lost."""
        with tempfile.NamedTemporaryFile(prefix="torg-file-") as file:
            sha, there = hashlib.sha256(), 0
            while there < size:
                piece = self._ask(PIECE_S, "piece", kind, path, there, failing=b"")
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
        while self._is_there():
            try:
                return self._door.upload(content)
            except DoorAway:
                time.sleep(PAUSE_AWAY_S)
            except DoorRefused as refused:
                log.warning("the market does not take a file: %s", refused)
                return None
        raise Lost("the worker went before its files were kept")

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
        listed = fetcher.listed("artifacts")
        for path, digest, size, executable in listed["files"]:
            if fetcher.fetch("artifacts", path, digest, size):
                kept.append(Artifact(path, digest, size, executable))
        left_out = listed["left_out"] + len(listed["files"]) - len(kept)
        made = Artifacts(fetcher.job, fetcher.number, tuple(kept), tuple(listed["unmatched"]), left_out)
        return made, fetcher.upload(checked(made).encode())


class Saving:
    """Keeps what a running try closes in its checkpoint folder. `before` is what was kept last; `tell` hears of each new
    manifest, with its digest. It looks every `every_s` at first and less often when it finds something again and again. Ends by
    itself when the worker is gone.
    """

    def __init__(
        self, fetcher: Fetcher, before: Artifacts | None, tell: Callable[[Artifacts, str], None], *, every_s: float
    ) -> None:
        self._fetcher, self._before, self._tell, self._every_s = fetcher, before, tell, every_s
        self._finish, self._done = threading.Event(), threading.Event()
        threading.Thread(target=self._work, name="saving", daemon=True).start()

    def finish(self) -> None:
        """Look once more, then no longer; returns at once, `done` says when."""
        self._finish.set()

    @property
    def done(self) -> bool:
        """Whether the last look is over."""
        return self._done.is_set()

    def _work(self) -> None:
        last, every_s = False, self._every_s
        try:
            while not last:
                last = self._finish.wait(every_s)
                if self._look():  # each one is a record of the market's
                    every_s = min(2 * every_s, MOST_EVERY_S)
        except (Lost, BadAnswer, ArtifactsError) as error:
            log.info("nothing more is saved: %s", error)
        finally:
            self._done.set()

    def _look(self) -> bool:
        """Whether there was something new, and it is kept."""
        fetcher, before = (
            self._fetcher,
            {} if self._before is None else {file.path: file for file in self._before.files},
        )
        listed = fetcher.listed("saved")
        held = {(file.blob, file.bytes) for file in before.values()}
        kept = {path: before[path] for path in listed["open"] if path in before}
        for path, digest, size, executable in listed["files"]:
            if (digest, size) in held or fetcher.fetch("saved", path, digest, size):
                kept[path] = Artifact(path, digest, size, executable)
            elif path in before:
                kept[path] = before[path]
        if kept == before:
            return False
        files = tuple(kept[path] for path in sorted(kept))
        made = checked(Artifacts(fetcher.job, fetcher.number, files, (), listed["left_out"]))
        manifest = fetcher.upload(made.encode())
        if manifest is None:
            return False
        self._before = made
        self._tell(made, manifest)
        return True


def checked(made: Artifacts) -> Artifacts:
    """As it is: paths that leave their folder are no files to keep, whoever names them. Raises ArtifactsError."""
    return Artifacts.from_json(made.to_json())


class Restoring:
    """Reads what was saved out of the store, in the background: `content` is a tar once it is `done`, None when it cannot be
    read, and then the command begins without it.
    """

    def __init__(self, saved: Artifacts, door: Door) -> None:
        self.content: bytes | None = None
        self._saved, self._door = saved, door
        self._done = threading.Event()
        threading.Thread(target=self._work, name="restoring", daemon=True).start()

    @property
    def done(self) -> bool:
        """See the class."""
        return self._done.is_set()

    def _work(self) -> None:
        try:
            self.content = tar_of(self._saved, self._read)
        except DoorRefused as refused:
            log.warning("what was saved cannot be read: %s", refused)
        finally:
            self._done.set()

    def _read(self, digest: str) -> bytes:
        while True:
            try:
                return self._door.read_blob(digest)
            except DoorAway:
                time.sleep(PAUSE_AWAY_S)
