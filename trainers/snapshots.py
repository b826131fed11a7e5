"""States set aside in RAM: what training waits for at a checkpoint, and what a restarted run restores from first.

The outer state is functional: committing makes new vectors and never writes into old ones. So setting it aside is a
shallow copy, without a byte copied, and serialising waits until somebody asks. The inner optimiser's tensors, which are
changed in place, lie here as the child's copy of them in memory that is used again (`trainers/exports.py`), so that one
copy is kept and not for longer than until it was handed out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from storage.checkpoints import Kind
from trainers.exports import Exported

Array = NDArray[np.generic]

LIMIT_BYTES = 8 * 1024**3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A member's state after `round` rounds, or what that round merged. `size_bytes`: what `content` keeps from being freed."""

    kind: Kind
    round: int
    digest: str
    size_bytes: int
    content: Callable[[], bytes]
    inner: Exported | None = None
    buffers: bytes | None = None

    @property
    def kept_bytes(self) -> int:
        """What all of it keeps from being freed."""
        inner_bytes = 0 if self.inner is None else self.inner.size_bytes
        return self.size_bytes + inner_bytes + len(self.buffers or b"")


class Snapshots:
    """The newest snapshots of one member: at most `bases` states with the deltas after them, within `limit_bytes`.

    The newest base and what follows it stay whatever they weigh. Thread-safe.
    """

    def __init__(self, *, bases: int = 2, limit_bytes: int = LIMIT_BYTES) -> None:
        assert bases >= 1
        self._bases, self._limit_bytes = bases, limit_bytes
        self._kept: dict[tuple[int, Kind], Snapshot] = {}
        self._turn = threading.Lock()

    def add(self, snapshot: Snapshot) -> None:
        """Keep one more; another of the same round and kind is replaced, later ones (undone rounds) go.

        Only the newest base keeps its inner state.
        """
        with self._turn:
            self._kept = {place: kept for place, kept in self._kept.items() if place[0] <= snapshot.round}
            if snapshot.kind == "base":
                self._kept = {place: replace(kept, inner=None) for place, kept in self._kept.items()}
            self._kept[snapshot.round, snapshot.kind] = snapshot
            self._trim()

    def staged(self, round: int, kind: Kind | None = None) -> bytes:
        """The bytes of the snapshot of that round (a base before a delta). Raises KeyError when it is gone."""
        return self._find(round, kind).content()

    def take_inner(self, round: int) -> Exported | None:
        """The inner optimiser's state that was set aside with the base of that round, if one was; once, so that its
        memory can be used again.
        """
        found = self._find(round, "base")
        with self._turn:
            if self._kept.get((round, "base")) is found:
                self._kept[round, "base"] = replace(found, inner=None)
        return found.inner

    def buffers(self, round: int) -> bytes | None:
        """The model's buffers that were set aside with the base of that round, if it has any."""
        return self._find(round, "base").buffers

    def rounds(self) -> dict[int, str]:
        """Every round whose state can be had from here, with its digest."""
        with self._turn:
            found = {round: kept.digest for (round, kind), kept in self._kept.items() if kind == "base"}
            for (round, kind), kept in sorted(self._kept.items()):
                if kind == "delta" and round - 1 in found:
                    found.setdefault(round, kept.digest)
            return found

    def base(self, round: int) -> Snapshot | None:
        """The base that the state after that round is made from; None when the state is not here."""
        chain = self._chain(round)
        return chain[0] if chain else None

    def state(self, round: int, replay: Callable[[bytes, Sequence[bytes]], bytes]) -> bytes | None:
        """The state after that round, from a base and its deltas, by `Member.replay`; None when it is not here."""
        chain = self._chain(round)
        if not chain:
            return None
        base, *deltas = [kept.content() for kept in chain]
        return replay(base, deltas) if deltas else base

    @property
    def size_bytes(self) -> int:
        """What all of them keep from being freed."""
        with self._turn:
            return self._size()

    def _find(self, round: int, kind: Kind | None) -> Snapshot:
        with self._turn:
            kinds: tuple[Kind, ...] = ("base", "delta") if kind is None else (kind,)
            for each in kinds:
                if (round, each) in self._kept:
                    return self._kept[round, each]
        raise KeyError(f"nothing is staged for round {round}")

    def _chain(self, round: int) -> list[Snapshot]:
        """A base and the deltas after it that lead to that round; empty when none do."""
        with self._turn:
            chain: list[Snapshot] = []
            for at in range(round, -1, -1):
                kind: Kind = "base" if (at, "base") in self._kept else "delta"
                if (at, kind) not in self._kept:
                    break
                chain.insert(0, self._kept[at, kind])
                if kind == "base":
                    return chain
        return []

    def _trim(self) -> None:
        while True:
            bases = sorted(round for round, kind in self._kept if kind == "base")
            if len(bases) < 2 or (len(bases) <= self._bases and self._size() <= self._limit_bytes):
                break
            oldest = bases[1]
            self._kept = {place: kept for place, kept in self._kept.items() if place[0] >= oldest}
            self._kept.pop((oldest, "delta"), None)
        first = bases[0] if bases else 0
        self._kept = {place: kept for place, kept in self._kept.items() if place[0] >= first}

    def _size(self) -> int:
        return sum(kept.kept_bytes for kept in self._kept.values())
