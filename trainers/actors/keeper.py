"""Makes rounds durable in the background: a worker's staged copy → blob → manifest → the market's record.

One checkpoint at a time: the next waits for the last, and rounds that pass meanwhile are covered by the next one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from storage.checkpoints import Manifest, ManifestError, TensorEntry, removable, removable_blobs
from trainers.actors.outbox import Outbox
from trainers.actors.transport import Gone, Parcel, Transport
from trainers.actors.wiring import Door, DoorAway, DoorRefused

log = logging.getLogger(__name__)

Json = dict[str, Any]

FETCH_TIMEOUT_S = 120.0
PAUSE_AWAY_S = 0.3


class Keeper:
    """The durable side of one run. `wall_ms` gives the time that a manifest bears."""

    def __init__(
        self,
        *,
        job: str,
        spec: Json,
        door: Door,
        transport: Transport,
        outbox: Outbox,
        wall_ms: Callable[[], int],
    ) -> None:
        self._job = job
        self._spec = spec
        self._door = door
        self._transport = transport
        self._outbox = outbox
        self._wall_ms = wall_ms
        self._history: list[Manifest] = []
        self._changed = threading.Condition()
        self._busy = False
        self.durable_round = 0
        self.manifest: str | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being made durable now."""
        return self._busy

    def resume(self, durable: Json) -> None:
        """Go on after this checkpoint ({round, manifest}); its predecessors that still exist can be removed in time."""
        self.durable_round, self.manifest = durable["round"], durable["manifest"]
        digest: str | None = durable["manifest"]
        while digest is not None and len(self._history) <= int(self._spec["checkpoint"]["keep"]) + 1:
            try:
                found = Manifest.decode(self._read(digest))
            except (DoorRefused, ManifestError) as reason:
                log.info("the checkpoint before is gone (%s)", reason)
                break
            self._history.insert(0, found)
            digest = found.parent

    def state(self) -> bytes:
        """The state of the newest durable checkpoint (what `Replica.restore` takes)."""
        assert self._history, "nothing is durable"
        return self._read(self._history[-1].state)

    def keep(self, snapshot: Json, staged: Parcel) -> None:
        """Begin to make a staged snapshot durable; only when not busy. `snapshot`: the answer of `Worker.snapshot`."""
        with self._changed:
            assert not self._busy, "one checkpoint at a time"
            self._busy = True
        threading.Thread(target=self._work, args=(snapshot, staged), name="keeper", daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is being made durable."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, timeout_s)

    def _work(self, snapshot: Json, staged: Parcel) -> None:
        try:
            self._persist(snapshot, staged)
        except (DoorRefused, OSError) as problem:
            # A full disk at the market: the job trains on, and the next checkpoint tries again.
            log.warning("round %s is not durable: %s", snapshot["round"], problem)
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _persist(self, snapshot: Json, staged: Parcel) -> None:
        content = self._transport.open(staged, FETCH_TIMEOUT_S)
        if isinstance(content, Gone):
            log.info("round %s is not durable: its worker is gone (%s)", snapshot["round"], content.detail)
            return
        state = self._upload(content)
        made = self._manifest(snapshot, state, len(content))
        digest = self._upload(made.encode())
        assert digest == made.digest
        history = [*self._history, made]
        keep = int(self._spec["checkpoint"]["keep"])
        removed = removable_blobs(history, keep)
        gone = {manifest.digest for manifest in removable(history, keep)}
        self._history = [manifest for manifest in history if manifest.digest not in gone]
        self.durable_round, self.manifest = made.round, digest
        self._outbox.put(
            "checkpoint",
            {
                "job": self._job,
                "round": made.round,
                "step": made.step,
                "manifest": digest,
                "bytes": len(content),
                "stall_ms": snapshot["stall_ms"],
                "removed": list(removed),
            },
        )

    def _manifest(self, snapshot: Json, state: str, state_bytes: int) -> Manifest:
        workload, data = self._spec["workload"], self._spec["data"]
        return Manifest(
            job=self._job,
            round=snapshot["round"],
            step=snapshot["step"],
            parent=self.manifest,
            tensors=tuple(TensorEntry(one["name"], tuple(one["shape"]), one["dtype"]) for one in snapshot["tensors"]),
            state=state,
            state_bytes=state_bytes,
            parameters=snapshot["digest"],
            strategy=self._spec["strategy"],
            code=workload.get("digest"),
            data=data.get("digest"),
            created_at_ms=self._wall_ms(),
        )

    def _upload(self, content: bytes) -> str:
        while True:
            try:
                return self._door.upload(content)
            except DoorAway:
                time.sleep(PAUSE_AWAY_S)

    def _read(self, digest: str) -> bytes:
        while True:
            try:
                return self._door.read_blob(digest)
            except DoorAway:
                time.sleep(PAUSE_AWAY_S)
