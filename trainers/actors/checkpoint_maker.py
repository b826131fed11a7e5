"""Makes a manifest of what a worker has set aside: its bytes are fetched, checked, cut and stored, and the manifest names them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from storage.checkpoints import Chunk, Delta, Kind, Manifest, TensorEntry
from storage.chunking import pieces_of
from storage.model_files import parameters_digest
from trainers.actors.transport import Gone, Parcel, Transport
from trainers.actors.wiring import Door, DoorAway

Json = dict[str, Any]

FETCH_TIMEOUT_S = 120.0
LOOK_S = 0.2
PAUSE_AWAY_S = 0.3

HandedOut = tuple[Parcel, Parcel | None, Parcel | None]
"""What a worker has set aside: its content, the inner optimiser's state, the model's buffers."""


class StagedLost(Exception):
    """A staged copy went with its worker, is not what it says, or is of a round that was undone."""


@dataclass(frozen=True, slots=True)
class Staged:
    """One snapshot on its way. `snapshot`: the answer of `Worker.snapshot`; `alive`: whether who gives it is still there;
    `accuse`: say what is wrong with what it gave.
    """

    snapshot: Json
    content: Parcel
    inner: Parcel | None
    buffers: Parcel | None
    alive: Callable[[], bool]
    accuse: Callable[[str], None]

    @property
    def kind(self) -> Kind:
        """Base or delta."""
        return kind_of(self.snapshot)


def kind_of(snapshot: Json) -> Kind:
    """Of an answer of `Worker.snapshot`; workers of before there were deltas do not say it."""
    return "delta" if snapshot.get("kind") == "delta" else "base"


class CheckpointMaker:
    """See the module. Everything here may take long, and raises StagedLost, DoorRefused, OSError.

    Args:
        wall_ms: the time that a manifest bears. unwanted: whether what is made now is of no use any more.

    `in_vain`: what was stored and no record names yet. `unsound`: blobs that are known to be damaged, which are cut otherwise.
    """

    def __init__(
        self, *, job: str, spec: Json, door: Door, transport: Transport, wall_ms: Callable[[], int],
        unwanted: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._job, self._spec = job, spec
        self._door, self._transport = door, transport
        self._wall_ms, self._unwanted = wall_ms, unwanted
        self.in_vain: set[str] = set()
        self.unsound: set[str] = set()

    def strategy_of(self, snapshot: Json) -> Json:
        """The worker's word is newer than the spec: a strategy may change while a job runs."""
        return dict(snapshot["strategy"] if "strategy" in snapshot else self._spec["strategy"])

    def base(self, item: Staged, parent: str | None) -> Manifest:
        """The whole state, after the checkpoint `parent`."""
        content = self._open(item.content, item)
        _check(content, item)
        tensors = tuple(TensorEntry(one["name"], tuple(one["shape"]), one["dtype"]) for one in item.snapshot["tensors"])
        pieces = pieces_of(content, tensors, self.unsound)
        chunks = tuple(Chunk(self.upload(bytes(piece)), len(piece)) for piece in pieces)
        state = chunks[0].blob if len(chunks) == 1 else sha256(content).hexdigest()
        inner, inner_bytes = (None, 0) if item.inner is None else self._store(item.inner, item)
        buffers, buffers_bytes = (None, 0) if item.buffers is None else self._store(item.buffers, item)
        snapshot, workload, data = item.snapshot, self._spec["workload"], self._spec["data"]
        return Manifest(
            job=self._job,
            round=snapshot["round"],
            step=snapshot["step"],
            parent=parent,
            tensors=tensors,
            state=state,
            state_bytes=len(content),
            parameters=snapshot["digest"],
            strategy=self.strategy_of(snapshot),
            code=workload.get("digest"),
            data=data.get("digest"),
            created_at_ms=self._wall_ms(),
            inner=inner,
            inner_bytes=inner_bytes,
            tied=snapshot.get("tied", {}),
            buffers=buffers,
            buffers_bytes=buffers_bytes,
            chunks=chunks if len(chunks) > 1 else (),
        )

    def extended(self, before: Manifest, items: Sequence[Staged], parent: str | None) -> Manifest:
        """The chain of `before` with these deltas, which come after it without a gap, after the checkpoint `parent`."""
        deltas = []
        for item in items:
            content, snapshot = self._open(item.content, item), item.snapshot
            deltas.append(
                Delta(snapshot["round"], snapshot["step"], self.upload(content), len(content), snapshot["digest"])
            )
        assert before.round + 1 == deltas[0].round, "keep() lets no gap into the queue"
        return replace(
            before,
            kind="delta",
            round=deltas[-1].round,
            step=deltas[-1].step,
            parameters=deltas[-1].parameters,
            parent=parent,
            base=before.digest if before.base is None else before.base,
            deltas=(*before.deltas, *deltas),
            created_at_ms=self._wall_ms(),
        )

    def upload(self, content: bytes) -> str:
        """Store a blob, however long the market is away; its digest."""
        while True:
            self.need_wanted()
            try:
                digest = self._door.upload(content)
            except DoorAway:
                time.sleep(PAUSE_AWAY_S)
                continue
            self.in_vain.add(digest)
            return digest

    def need_wanted(self) -> None:
        """Raises StagedLost when what is made now is of no use any more."""
        if self._unwanted():
            raise StagedLost("its round was undone")

    # inside

    def _store(self, parcel: Parcel, item: Staged) -> tuple[str, int]:
        content = self._open(parcel, item)
        return self.upload(content), len(content)

    def _open(self, parcel: Parcel, item: Staged) -> bytes:
        until = time.monotonic() + FETCH_TIMEOUT_S
        while not self._transport.made(parcel, LOOK_S):
            self.need_wanted()
            if not item.alive():
                raise StagedLost("its worker is gone")
            if time.monotonic() > until:
                raise StagedLost(f"its worker did not serialise it within {FETCH_TIMEOUT_S:.0f} s")
        content = self._transport.open(parcel, FETCH_TIMEOUT_S)
        if isinstance(content, Gone):
            raise StagedLost(f"its worker is gone ({content.detail})")
        return content


def _check(content: bytes, item: Staged) -> None:
    """A base must hold what its round agreed on: it is what a job goes back to when nobody else is left."""
    try:
        found, wrong = parameters_digest(content), ""
    except ValueError as error:
        found, wrong = "", f"it is no state: {error}"
    if found != item.snapshot["digest"]:
        why = f"what it set aside of round {item.snapshot['round']} is not what was agreed on"
        item.accuse(f"{why}: {wrong or f'its parameters have the digest {found[:12]}'}")
        raise StagedLost(why)
