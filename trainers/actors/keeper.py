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
from dataclasses import replace
from typing import Any

from storage.checkpoints import MAX_DELTAS, Chain, Kind, Manifest, next_kind, removable, removable_blobs
from trainers.actors.checkpoint_maker import (
    FETCH_TIMEOUT_S,
    PAUSE_AWAY_S,
    CheckpointMaker,
    HandedOut,
    Staged,
    StagedLost,
    kind_of,
)
from trainers.actors.outbox import Outbox
from trainers.actors.transport import Transport
from trainers.actors.wiring import Door, DoorAway, DoorRefused
from trainers.restoring import Replay, Restored, replay_members, restore_newest

log = logging.getLogger(__name__)

Json = dict[str, Any]

BASE_EVERY_ROUNDS = 10
MAX_REMOVED = 4096


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
        self._job, self._door, self._outbox = job, door, outbox
        self._wall_ms, self._replay = wall_ms, replay
        self._maker = CheckpointMaker(
            job=job, spec=spec, door=door, transport=transport, wall_ms=wall_ms, unwanted=lambda: self._undone
        )
        checkpoint = spec["checkpoint"]
        self._keep = int(checkpoint["keep"])
        self._every_rounds = int(checkpoint["every_rounds"])
        self._base_every_rounds = int(checkpoint.get("base_every_rounds", BASE_EVERY_ROUNDS))
        self._history: list[Manifest] = []
        self._told_round = 0
        self._changed = threading.Condition()
        self._queue: list[Staged] = []
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
        kind, strategy, round = kind_of(snapshot), self._maker.strategy_of(snapshot), int(snapshot["round"])
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
            self._queue = [*self._queue, Staged(snapshot, *hand_out(), alive, accuse)]
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
                self._maker.in_vain |= {manifest.digest, *manifest.blobs}
        self._history = [manifest for manifest in self._history if manifest.round <= round]
        self._told_round, self.durable_round = max(self._told_round, self.durable_round), round
        self.manifest = self._history[-1].digest if self._history else None
        self.rebase()

    # in the background

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

    def _try(self, batch: Sequence[Staged], stall_ms: int) -> bool:
        try:
            self._persist(batch, stall_ms)
        except (DoorRefused, OSError, StagedLost) as problem:
            # A full disk at the market: the job trains on, and the next checkpoint tries again.
            log.warning("round %s is not durable: %s", batch[-1].snapshot["round"], problem)
            return False
        return True

    def _persist(self, batch: Sequence[Staged], stall_ms: int) -> None:
        at = next((place for place, item in enumerate(batch) if item.kind == "base"), None)
        if at is None:
            self._persist_deltas(batch, stall_ms)
            return
        if at:
            try:
                self._persist_deltas(batch[:at], 0)
            except (DoorRefused, OSError, StagedLost) as problem:
                log.warning("rounds before the base of round %s are not kept: %s", batch[at].snapshot["round"], problem)
        made = self._maker.base(batch[at], self.manifest)
        known = {name for manifest in self._history for name in manifest.blobs}
        shared = sum(chunk.bytes for chunk in made.chunks if chunk.blob in known)
        self._finish(made, made.total_bytes - shared, stall_ms)
        with self._changed:
            if self._chain is not None:
                self._chain = replace(self._chain, base_bytes=made.state_bytes)
        if batch[at + 1 :]:
            self._persist_deltas(batch[at + 1 :], 0)

    def _persist_deltas(self, batch: Sequence[Staged], stall_ms: int) -> None:
        made = self._maker.extended(self._history[-1], batch, self.manifest)
        fresh = sum(delta.bytes for delta in made.deltas[-len(batch) :])
        self._finish(made, fresh, stall_ms)

    def _finish(self, made: Manifest, sent_bytes: int, stall_ms: int) -> None:
        """The manifest, then the market's record, which removes what no kept checkpoint needs."""
        digest = self._maker.upload(made.encode())
        assert digest == made.digest
        history = [*self._history, made]
        gone = {manifest.digest for manifest in removable(history, self._keep)}
        kept = [manifest for manifest in history if manifest.digest not in gone]
        needed = {name for manifest in kept for name in (manifest.digest, *manifest.blobs)}
        in_vain = self._maker.in_vain - needed | set(removable_blobs(history, self._keep))
        # A report of a round that the market has had durable is not recorded there: nothing may go by it.
        removed = sorted(in_vain)[:MAX_REMOVED] if made.round > self._told_round else []
        with self._changed:
            self._maker.need_wanted()
            self._maker.in_vain = in_vain - set(removed)
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

    def _read_sound(self, digest: str) -> bytes:
        while True:
            try:
                return self._door.read_blob(digest)
            except DoorAway:
                time.sleep(PAUSE_AWAY_S)
            except (DoorRefused, ValueError) as wrong:
                self._maker.unsound.add(digest)
                raise ValueError(str(wrong)) from wrong
