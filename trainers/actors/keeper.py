"""Makes rounds durable in the background: a worker's staged copy → blobs → manifest → the market's record.

Every round that may be replayed is kept as a delta, the bytes that it merged, and now and then a base, the whole state.
Deltas wait in a queue until a checkpoint is due or the one before is durable, and go together; a base is not begun
while another checkpoint is on its way. Whatever goes wrong (a worker gone, no room at the market) breaks the chain: the
next checkpoint is a base, and what was uploaded in vain is removed with the next report.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from storage.checkpoints import (
    MAX_DELTAS,
    Chain,
    Chunk,
    Delta,
    Kind,
    Manifest,
    TensorEntry,
    next_kind,
    removable,
    removable_blobs,
)
from storage.chunking import pieces_of
from storage.model_files import parameters_digest
from trainers.actors.outbox import Outbox
from trainers.actors.transport import Gone, Parcel, Transport
from trainers.actors.wiring import Door, DoorAway, DoorRefused
from trainers.restoring import Replay, Restored, replay_members, restore_newest

log = logging.getLogger(__name__)

Json = dict[str, Any]

FETCH_TIMEOUT_S = 120.0
LOOK_S = 0.2
PAUSE_AWAY_S = 0.3
BASE_EVERY_ROUNDS = 10
MAX_REMOVED = 4096

HandedOut = tuple[Parcel, Parcel | None, Parcel | None]
"""What a worker has set aside: its content, the inner optimiser's state, the model's buffers."""


@dataclass(frozen=True, slots=True)
class _Staged:
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
        return kind_of(self.snapshot)


def kind_of(snapshot: Json) -> Kind:
    """Of an answer of `Worker.snapshot`; workers of before there were deltas do not say it."""
    return "delta" if snapshot.get("kind") == "delta" else "base"


class _Lost(Exception):
    """A staged copy went with its worker, or is of a round that was undone."""


class Keeper:
    """The durable side of one run. `wall_ms` gives the time that a manifest bears; `replay`: as `Member.replay`."""

    def __init__(
        self,
        *,
        job: str,
        spec: Json,
        door: Door,
        transport: Transport,
        outbox: Outbox,
        wall_ms: Callable[[], int],
        replay: Replay = replay_members,
    ) -> None:
        self._job = job
        self._spec = spec
        self._door = door
        self._transport = transport
        self._outbox = outbox
        self._wall_ms = wall_ms
        self._replay = replay
        checkpoint = spec["checkpoint"]
        self._keep = int(checkpoint["keep"])
        self._every_rounds = int(checkpoint["every_rounds"])
        self._base_every_rounds = int(checkpoint.get("base_every_rounds", BASE_EVERY_ROUNDS))
        self._history: list[Manifest] = []
        self._in_vain: set[str] = set()
        self._unsound: set[str] = set()
        self._told_round = 0
        self._changed = threading.Condition()
        self._queue: list[_Staged] = []
        self._chain: Chain | None = None
        self._strategy: Json = dict(spec["strategy"])
        self._stall_ms = 0
        self._asked: Kind | None = None
        self._bases_only = False
        self._busy = False
        self._undone = False
        self.durable_round = 0
        self.manifest: str | None = None

    @property
    def durable_step(self) -> int:
        """Global inner steps behind the newest durable round."""
        return self._history[-1].step if self._history else 0

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being made durable now."""
        return self._busy

    def wants(self, round: int, *, last: bool = False) -> Kind | None:
        """What to ask a worker to set aside after this committed round: a base, a delta, or nothing now."""
        with self._changed:
            if round <= self._told_round:
                return None
            chain = None if self._bases_only else self._chain
            kind = next_kind(chain, round, last=last, base_every_rounds=self._base_every_rounds)
            if kind == "base" and (self._busy or not (last or self._is_due(round))):
                if chain is None or chain.round + 1 != round or chain.length >= MAX_DELTAS:
                    return None
                kind = "delta"  # the log goes on until the base can be made: every round stays within reach
            self._asked = kind
            return kind

    def keep(
        self, snapshot: Json, hand_out: Callable[[], HandedOut],
        *, alive: Callable[[], bool] = lambda: True, accuse: Callable[[str], None] = lambda why: None,
    ) -> None:  # fmt: skip
        """Begin to make a staged snapshot durable. `snapshot`: the answer of `Worker.snapshot`; `hand_out`: ask the worker
        for what it has set aside, without waiting; not called for one that is left out, which is serialised for nobody;
        `alive`: whether the worker is not known to be gone, after which nobody waits for what it has not serialised;
        `accuse` is told of a base that is not what it says.

        A base is left out while another checkpoint is on its way, and a delta that does not continue the chain: the
        next checkpoint is a base then. A worker that gives a base where a delta was wanted has none to give.
        """
        kind, strategy, round = kind_of(snapshot), self._strategy_of(snapshot), int(snapshot["round"])
        with self._changed:
            if kind == "base":
                self._bases_only = self._asked == "delta" or (self._bases_only and strategy == self._strategy)
                fits = not self._busy
                chain: Chain | None = Chain(round, 0, 0, None)
            else:
                chain = self._chain.with_delta(int(snapshot.get("bytes", 0))) if self._chain is not None else None
                fits = chain is not None and chain.round == round and strategy == self._strategy
            if not fits:
                self._chain = None
                return
            # Deltas before a base lead to rounds that it does not.
            self._queue = [*self._queue, _Staged(snapshot, *hand_out(), alive, accuse)]
            self._chain, self._strategy = chain, strategy
            self._stall_ms += int(snapshot["stall_ms"])
            if not self._busy and (kind == "base" or self._is_due(round)):
                self._busy = True
                threading.Thread(target=self._work, name="keeper", daemon=True).start()

    def rebase(self) -> None:
        """The next checkpoint is a base: the market refused one."""
        with self._changed:
            self._chain, self._queue = None, []

    def undo(self) -> None:
        """Rounds that are not durable were undone: they never become it, and the next checkpoint is a base."""
        with self._changed:
            self._chain, self._queue, self._undone = None, [], True

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is being made durable."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, timeout_s)

    # going on from before

    def resume(self, durable: Json) -> None:
        """Go on after this checkpoint ({round, manifest}); its predecessors that still exist can be removed in time."""
        self.durable_round, self.manifest = durable["round"], durable["manifest"]
        found: dict[str, Manifest] = {}
        wanted: list[str | None] = [durable["manifest"]]
        while wanted:
            digest = wanted.pop()
            if digest is None or digest in found or len(found) > self._keep + self._base_every_rounds:
                continue
            try:
                manifest = Manifest.decode(self._read_sound(digest))
            except ValueError as reason:
                log.info("the checkpoint before is gone (%s)", reason)
                continue
            found[digest] = manifest
            wanted += [manifest.base, manifest.parent]
        self._history = sorted(found.values(), key=lambda one: (one.round, one.created_at_ms))
        newest = found.get(durable["manifest"])
        self._chain = Chain.of(newest)
        if newest is not None:
            self._strategy = dict(newest.strategy)

    def restore(self) -> Restored:
        """The newest state that can be restored; `durable_round` and `manifest` follow it.

        What cannot be restored is passed over, and said: in the log, to the customer, and in the answer. Raises
        NothingRestorable.
        """
        with self._changed:
            history, newest = self._history, self.durable_round
        found = restore_newest(history, self._read_sound, self._replay)
        if found.plan.round < newest:
            self._fall_back(found.plan.round, found.lost)
        return found

    def state(self) -> bytes:
        """The state of the newest durable checkpoint that can be restored (what `Member.restore` takes)."""
        return self.restore().state

    def inner(self, digest: str) -> bytes | None:
        """The inner optimiser's state that a plan's `inner` names; None when it is lost: training goes on without."""
        try:
            return self._read_sound(digest)
        except ValueError as reason:
            log.warning("going on without the inner optimiser's state: %s", reason)
            return None

    def _fall_back(self, round: int, lost: str) -> None:
        """Rounds up to the durable one are made again; only then are the damaged checkpoints removed."""
        self.wait(FETCH_TIMEOUT_S)
        line = f"checkpoint damaged; going on from round {round} instead of {self.durable_round}: {lost}"
        log.error("%s", line)
        self._outbox.put_readings(logs=[{"at_ms": self._wall_ms(), "source": "run", "line": line[:2000]}])
        for manifest in self._history:
            if manifest.round > round:
                self._in_vain |= {manifest.digest, *manifest.blobs}
        self._history = [manifest for manifest in self._history if manifest.round <= round]
        self._told_round, self.durable_round = max(self._told_round, self.durable_round), round
        self.manifest = self._history[-1].digest if self._history else None
        self.rebase()

    # in the background

    def _strategy_of(self, snapshot: Json) -> Json:
        """The worker's word is newer than the spec: a strategy may change while a job runs."""
        return dict(snapshot["strategy"] if "strategy" in snapshot else self._spec["strategy"])

    def _is_due(self, round: int) -> bool:
        return round % self._every_rounds == 0

    def _work(self) -> None:
        done = True
        while True:
            with self._changed:
                if not done:
                    self._chain, self._queue = None, []
                # What is queued ends at a due round or with a base, or waits for one.
                if not any(item.kind == "base" or self._is_due(item.snapshot["round"]) for item in self._queue):
                    self._busy = False
                    self._changed.notify_all()
                    return
                batch, self._queue, self._undone = self._queue, [], False
                stall_ms, self._stall_ms = self._stall_ms, 0
            done = self._try(batch, stall_ms)

    def _try(self, batch: Sequence[_Staged], stall_ms: int) -> bool:
        try:
            self._persist(batch, stall_ms)
        except (DoorRefused, OSError, _Lost) as problem:
            # A full disk at the market: the job trains on, and the next checkpoint tries again.
            log.warning("round %s is not durable: %s", batch[-1].snapshot["round"], problem)
            return False
        return True

    def _persist(self, batch: Sequence[_Staged], stall_ms: int) -> None:
        at = next((place for place, item in enumerate(batch) if item.kind == "base"), None)
        if at is None:
            self._persist_deltas(batch, stall_ms)
            return
        if at:
            try:
                self._persist_deltas(batch[:at], 0)
            except (DoorRefused, OSError, _Lost) as problem:
                log.warning("rounds before the base of round %s are not kept: %s", batch[at].snapshot["round"], problem)
        made = self._base(batch[at])
        known = {name for manifest in self._history for name in manifest.blobs}
        shared = sum(chunk.bytes for chunk in made.chunks if chunk.blob in known)
        self._finish(made, made.total_bytes - shared, stall_ms)
        with self._changed:
            if self._chain is not None:
                self._chain = replace(self._chain, base_bytes=made.state_bytes)
        if batch[at + 1 :]:
            self._persist_deltas(batch[at + 1 :], 0)

    def _persist_deltas(self, batch: Sequence[_Staged], stall_ms: int) -> None:
        made = self._extended(self._history[-1], batch)
        fresh = sum(delta.bytes for delta in made.deltas[-len(batch) :])
        self._finish(made, fresh, stall_ms)

    def _base(self, item: _Staged) -> Manifest:
        content = self._open(item.content, item)
        self._check(content, item)
        tensors = tuple(TensorEntry(one["name"], tuple(one["shape"]), one["dtype"]) for one in item.snapshot["tensors"])
        pieces = pieces_of(content, tensors, self._unsound)
        chunks = tuple(Chunk(self._upload(bytes(piece)), len(piece)) for piece in pieces)
        state = chunks[0].blob if len(chunks) == 1 else sha256(content).hexdigest()
        inner, inner_bytes = (None, 0) if item.inner is None else self._store(item.inner, item)
        buffers, buffers_bytes = (None, 0) if item.buffers is None else self._store(item.buffers, item)
        snapshot, workload, data = item.snapshot, self._spec["workload"], self._spec["data"]
        return Manifest(
            job=self._job,
            round=snapshot["round"],
            step=snapshot["step"],
            parent=self.manifest,
            tensors=tensors,
            state=state,
            state_bytes=len(content),
            parameters=snapshot["digest"],
            strategy=self._strategy_of(snapshot),
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

    def _check(self, content: bytes, item: _Staged) -> None:
        """A base must hold what its round agreed on: it is what a job goes back to when nobody else is left."""
        try:
            found, wrong = parameters_digest(content), ""
        except ValueError as error:
            found, wrong = "", f"it is no state: {error}"
        if found != item.snapshot["digest"]:
            why = f"what it set aside of round {item.snapshot['round']} is not what was agreed on"
            item.accuse(f"{why}: {wrong or f'its parameters have the digest {found[:12]}'}")
            raise _Lost(why)

    def _store(self, parcel: Parcel, item: _Staged) -> tuple[str, int]:
        content = self._open(parcel, item)
        return self._upload(content), len(content)

    def _extended(self, before: Manifest, items: Sequence[_Staged]) -> Manifest:
        deltas = []
        for item in items:
            content, snapshot = self._open(item.content, item), item.snapshot
            deltas.append(
                Delta(snapshot["round"], snapshot["step"], self._upload(content), len(content), snapshot["digest"])
            )
        assert before.round + 1 == deltas[0].round, "keep() lets no gap into the queue"
        return replace(
            before,
            kind="delta",
            round=deltas[-1].round,
            step=deltas[-1].step,
            parameters=deltas[-1].parameters,
            parent=self.manifest,
            base=before.digest if before.base is None else before.base,
            deltas=(*before.deltas, *deltas),
            created_at_ms=self._wall_ms(),
        )

    def _finish(self, made: Manifest, sent_bytes: int, stall_ms: int) -> None:
        """The manifest, then the market's record, which removes what no kept checkpoint needs."""
        digest = self._upload(made.encode())
        assert digest == made.digest
        history = [*self._history, made]
        gone = {manifest.digest for manifest in removable(history, self._keep)}
        kept = [manifest for manifest in history if manifest.digest not in gone]
        needed = {name for manifest in kept for name in (manifest.digest, *manifest.blobs)}
        in_vain = self._in_vain - needed | set(removable_blobs(history, self._keep))
        # A report of a round that the market has had durable is not recorded there: nothing may go by it.
        removed = sorted(in_vain)[:MAX_REMOVED] if made.round > self._told_round else []
        with self._changed:
            self._need_wanted()
            self._in_vain = in_vain - set(removed)
            self._history, self.durable_round, self.manifest = kept, made.round, digest
        self._outbox.put(
            "checkpoint",
            {
                "job": self._job,
                "round": made.round,
                "step": made.step,
                "manifest": digest,
                "bytes": sent_bytes,
                "stall_ms": stall_ms,
                "removed": removed,
                "kind": made.kind,
                "base_round": made.base_round,
            },
        )

    def _open(self, parcel: Parcel, item: _Staged) -> bytes:
        until = time.monotonic() + FETCH_TIMEOUT_S
        while not self._transport.made(parcel, LOOK_S):
            self._need_wanted()
            if not item.alive():
                raise _Lost("its worker is gone")
            if time.monotonic() > until:
                raise _Lost(f"its worker did not serialise it within {FETCH_TIMEOUT_S:.0f} s")
        content = self._transport.open(parcel, FETCH_TIMEOUT_S)
        if isinstance(content, Gone):
            raise _Lost(f"its worker is gone ({content.detail})")
        return content

    def _need_wanted(self) -> None:
        if self._undone:
            raise _Lost("its round was undone")

    def _upload(self, content: bytes) -> str:
        while True:
            self._need_wanted()
            try:
                digest = self._door.upload(content)
            except DoorAway:
                time.sleep(PAUSE_AWAY_S)
                continue
            self._in_vain.add(digest)
            return digest

    def _read_sound(self, digest: str) -> bytes:
        while True:
            try:
                return self._door.read_blob(digest)
            except DoorAway:
                time.sleep(PAUSE_AWAY_S)
            except (DoorRefused, ValueError) as wrong:
                self._unsound.add(digest)
                raise ValueError(str(wrong)) from wrong
