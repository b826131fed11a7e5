"""Checkpoints off the training path: a staging copy, the RAM tier, a background thread that makes it durable.

Training waits for the copy only. A newer snapshot replaces one that still waits for the thread; the one being written
is finished first. What became of each is told by `finished`, failures too.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from trainers.codecs.base import Vector

Serialise: TypeAlias = Callable[[Mapping[str, Vector], int], bytes]
PutBlob: TypeAlias = Callable[[bytes], str]


@dataclass(frozen=True, slots=True)
class Durable:
    """The snapshot of a round is in the store under this digest; training waited `stall_ms` for its copy."""

    round: int
    digest: str
    size_bytes: int
    stall_ms: float
    persist_ms: float


@dataclass(frozen=True, slots=True)
class NotDurable:
    """The snapshot of a round did not reach the store (`error` says why), or a newer one took its place (None)."""

    round: int
    stall_ms: float
    error: str | None


@dataclass(slots=True)
class _Buffer:
    """One staging area; `round` is what it holds."""

    tensors: dict[str, Vector]
    round: int = -1
    stall_ms: float = 0.0


class Snapshots:
    """At most three buffers: the one being written, the newest that waits, and the one for the next copy.

    Args:
        serialise: outer state and round to bytes; runs on the thread. put_blob: bytes to the store, its digest back;
            an OSError means that they are not there. Both must not touch what training uses.
    """

    def __init__(self, serialise: Serialise, put_blob: PutBlob) -> None:
        self._serialise, self._put_blob = serialise, put_blob
        self._changed = threading.Condition()
        self._waiting: _Buffer | None = None
        self._writing: _Buffer | None = None
        self._free: list[_Buffer] = []
        self._latest: tuple[int, bytes] | None = None
        self._finished: deque[Durable | NotDurable] = deque()
        self._bug: BaseException | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._persist_all, name="persist-snapshots", daemon=True)
        self._thread.start()

    def stage(self, tensors: Mapping[str, Vector], round: int) -> float:
        """Copy the outer state aside and return the milliseconds that took; persisting goes on by itself."""
        began = time.monotonic()
        with self._changed:
            assert not self._closing, "staged after close"
            buffer = self._free.pop() if self._free else _Buffer({})
        for name, tensor in tensors.items():
            kept = buffer.tensors.get(name)
            if kept is None or kept.shape != tensor.shape:
                kept = buffer.tensors[name] = np.empty_like(tensor)
            np.copyto(kept, tensor)
        buffer.round, buffer.stall_ms = round, (time.monotonic() - began) * 1000
        with self._changed:
            if self._waiting is not None:
                self._finished.append(NotDurable(self._waiting.round, self._waiting.stall_ms, None))
                self._free.append(self._waiting)
            self._waiting = buffer
            self._changed.notify_all()
        return buffer.stall_ms

    def latest(self) -> tuple[int, bytes] | None:
        """The RAM tier: round and bytes of the newest serialised snapshot, durable or not."""
        with self._changed:
            return self._latest

    def finished(self) -> list[Durable | NotDurable]:
        """What became of snapshots since the last call, oldest first. Raises what `serialise` raised by mistake."""
        with self._changed:
            if self._bug is not None:
                raise self._bug
            done = list(self._finished)
            self._finished.clear()
        return done

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing waits or is being written; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting is None and self._writing is None, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Write what waits, then end the thread; False when that took too long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _persist_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closing)
                self._writing, self._waiting = self._waiting, None
                buffer = self._writing
            if buffer is None:
                return
            try:
                outcome = self._persist(buffer)
            except Exception as bug:  # noqa: BLE001  raised again in `finished`, where somebody can see it
                with self._changed:
                    self._bug = bug
                outcome = NotDurable(buffer.round, buffer.stall_ms, f"{type(bug).__name__}: {bug}")
            with self._changed:
                self._finished.append(outcome)
                self._free.append(buffer)
                self._writing = None
                self._changed.notify_all()

    def _persist(self, buffer: _Buffer) -> Durable | NotDurable:
        began = time.monotonic()
        data = self._serialise(buffer.tensors, buffer.round)
        with self._changed:
            self._latest = (buffer.round, data)
        try:
            digest = self._put_blob(data)
        except OSError as error:
            return NotDurable(buffer.round, buffer.stall_ms, f"{type(error).__name__}: {error}")
        return Durable(buffer.round, digest, len(data), buffer.stall_ms, (time.monotonic() - began) * 1000)
