"""Environments of one provider's machine, kept on its disk by digest: built once, whole or not there, the least recently used
gone when they take too much.

    DIGEST/            a whole environment, with `environment.json`, whose time says when it was used last
    DIGEST.lock        flock: shared by whoever uses it, exclusive for whoever builds or removes it
    building-DIGEST-…/ what is being built or removed; whoever finds one that nobody holds the lock of wipes it

Locks are the kernel's and end with their process, so a kill at any moment leaves nothing that is half and nothing that is held.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Final

from trainers.environments.building import BuildCancelled, Built, Limits, Say, build
from trainers.environments.layers import FORMAT, Base, digest_of, own_base
from trainers.sandbox import Isolation
from trainers.scratch import wipe, wiped

LIMIT_BYTES: Final = 20 << 30
ABOUT: Final = "environment.json"
_BUILDING: Final = "building-"
_TICK_S = 0.1

Builder = Callable[[Sequence[str], Base, Path, Isolation, Say, Event, Limits], Built]


@dataclass(frozen=True, slots=True)
class Held:
    """An environment in use: it stays until `release`. `seconds`: what building it took, None where it was there."""

    folder: Path
    digest: str
    lock: int
    seconds: float | None

    def release(self) -> None:
        """It may go now."""
        os.close(self.lock)


@dataclass(frozen=True, slots=True)
class Environments:
    """See the module. `root`: a folder of ours, made when it is needed; `limit_bytes`: of all that is kept."""

    root: Path
    limit_bytes: int = LIMIT_BYTES
    limits: Limits = field(default_factory=Limits)
    builder: Builder = build

    def take(self, lines: Sequence[str], isolation: Isolation, say: Say, cancelled: Event) -> Held:
        """The environment of these requirements, built if it is not there. Raises as `building.build`; waits for another
        process that builds the same.
        """
        base = own_base()
        digest = digest_of(lines, base)
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock, waiting = os.open(self.root / f"{digest}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), False
        try:
            while True:
                if self._is_there(digest, lock):
                    say(f"the environment {digest[:12]} is on this machine already")
                    return Held(self.root / digest, digest, lock, None)
                if _locks(lock, fcntl.LOCK_EX) and not (self.root / digest / ABOUT).exists():
                    seconds = self._build(digest, lines, base, isolation, say, cancelled)
                    if self._is_there(digest, lock):  # nobody removed it between the two locks
                        self._make_room()
                        return Held(self.root / digest, digest, lock, seconds)
                elif not waiting:
                    waiting = True
                    say(f"waiting for the environment {digest[:12]}, which is being built here for another job")
                if cancelled.wait(_TICK_S):
                    raise BuildCancelled
        except BaseException:
            os.close(lock)
            raise

    def _is_there(self, digest: str, lock: int) -> bool:
        """Whether it is whole; then it is ours to use."""
        about = self.root / digest / ABOUT
        if not about.exists() or not _locks(lock, fcntl.LOCK_SH) or not about.exists():
            return False
        os.utime(about)
        return True

    def _build(
        self, digest: str, lines: Sequence[str], base: Base, isolation: Isolation, say: Say, cancelled: Event
    ) -> float:
        """Under the exclusive lock. The seconds that it took."""
        self._sweep(digest)
        began, scratch = time.monotonic(), self.root / f"{_BUILDING}{digest}-{secrets.token_hex(4)}"
        scratch.mkdir(mode=0o700)
        say(f"building the environment {digest[:12]}: {_listed(lines)}")
        try:
            built = self.builder(lines, base, scratch, isolation, say, cancelled, self.limits)
            seconds = time.monotonic() - began
            about = {
                "format": FORMAT, "digest": digest, "requirements": list(lines), "python": base.python, "bytes": built.bytes,
                "packages": [list(one) for one in built.packages], "seconds": round(seconds, 3),
            }  # fmt: skip
            with (built.folder / ABOUT).open("x", encoding="utf-8") as file:
                file.write(json.dumps(about, indent=1) + "\n")
            _to_disk(built.folder)
            if (self.root / digest).exists():
                wipe(self.root / digest)  # without its page: not whole
            built.folder.rename(self.root / digest)
        finally:
            wiped(scratch)
        size = f"{built.bytes / 1e6:,.1f} MB"
        say(f"built the environment {digest[:12]} in {seconds:.1f} s: {len(built.packages)} packages, {size}")
        return seconds

    def _make_room(self) -> None:
        """Remove what was used least recently and is not in use, until the rest is within the limit."""
        kept = sorted(self._kept(), key=lambda one: one[0])
        total = sum(size for _, size, _ in kept)
        for _, size, digest in kept:
            if total <= self.limit_bytes:
                return
            if self._removed(digest):
                total -= size

    def _kept(self) -> list[tuple[int, int, str]]:
        """(last use in nanoseconds, bytes, digest) of each."""
        found = []
        for about in self.root.glob(f"*/{ABOUT}"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                told: dict[str, Any] = json.loads(about.read_text(encoding="utf-8"))
                found.append((about.stat().st_mtime_ns, int(told["bytes"]), about.parent.name))
        return found

    def _removed(self, digest: str) -> bool:
        with self._unused(digest) as free:
            if free:
                gone = self.root / f"{_BUILDING}{digest}-{secrets.token_hex(4)}"
                (self.root / digest).rename(gone)
                wiped(gone)
        return free

    def _sweep(self, own: str) -> None:
        """Wipe what builds have left that were killed."""
        for left in self.root.glob(f"{_BUILDING}*"):
            digest = left.name.removeprefix(_BUILDING).partition("-")[0]
            with contextlib.nullcontext(True) if digest == own else self._unused(digest) as free:
                if free:
                    wiped(left)

    @contextlib.contextmanager
    def _unused(self, digest: str) -> Iterator[bool]:
        """Whether nobody uses, builds or removes it; and nobody does meanwhile."""
        lock = os.open(self.root / f"{digest}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _locks(lock, fcntl.LOCK_EX)
        finally:
            os.close(lock)


def _locks(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _listed(lines: Sequence[str]) -> str:
    more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
    return ", ".join(lines[:5]) + more


def _to_disk(folder: Path) -> None:
    """So that no power cut leaves a name with empty files behind it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)
