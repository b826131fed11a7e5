"""A run's durable side without market and workers: blobs on a real disk, a record of what was reported.

Run as a module it makes rounds durable until it is killed: `python -m tests.trainers.durable FOLDER`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from storage.blobs import BlobDamaged, BlobMissing, BlobStore
from storage.checkpoints import Manifest
from trainers.actors.keeper import Keeper
from trainers.actors.transport import Gone
from trainers.actors.wiring import DoorRefused

Json = dict[str, Any]
ELEMENTS = 64
STRATEGY = {"name": "diloco"}


def spec(keep: int = 3, every_rounds: int = 1, base_every_rounds: int = 4) -> Json:
    checkpoint = {"keep": keep, "every_rounds": every_rounds, "base_every_rounds": base_every_rounds}
    return {"strategy": STRATEGY, "workload": {}, "data": {}, "checkpoint": checkpoint}


def pack(parameters: np.ndarray) -> bytes:
    momentum = np.zeros(4 * ELEMENTS, np.float32)  # so that a base weighs about as much as five deltas
    return bytes(safetensors.numpy.save({"parameters": parameters, "momentum": momentum}))


def digest_of(state: bytes) -> str:
    return hashlib.sha256(safetensors.numpy.load(state)["parameters"].tobytes()).hexdigest()


def replay(base: bytes, deltas: Sequence[bytes]) -> bytes:
    """A delta is added to the parameters."""
    parameters = safetensors.numpy.load(base)["parameters"]
    for delta in deltas:
        if len(delta) != 4 * ELEMENTS:
            raise ValueError("not a delta")
        parameters = parameters + np.frombuffer(delta, np.float32)
    return pack(parameters)


class Store:
    """A `Door` for blobs and an outbox in one. What is reported is a line in `reports`, then `removed` goes."""

    def __init__(self, folder: Path) -> None:
        self.blobs = BlobStore(folder / "blobs")
        self._file = folder / "reports"
        self.refuse_uploads = 0
        self.logs: list[str] = []

    def reports(self) -> list[Json]:
        lines = self._file.read_bytes().splitlines(keepends=True) if self._file.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def durable(self) -> Json | None:
        return max(self.reports(), key=lambda report: report["round"], default=None)

    def kept(self) -> list[Manifest]:
        """What was reported and not removed, in order."""
        names: dict[str, None] = {}
        for report in self.reports():
            names[report["manifest"]] = None
            for name in report["removed"]:
                names.pop(name, None)
        return [Manifest.decode(self.read_blob(name)) for name in names]

    def upload(self, content: bytes) -> str:
        if self.refuse_uploads:
            self.refuse_uploads -= 1
            raise DoorRefused("disk_full", "no room")
        return self.blobs.put(content)

    def read_blob(self, digest: str) -> bytes:
        try:
            return self.blobs.read(digest)
        except (BlobMissing, BlobDamaged) as error:
            raise DoorRefused("blob", str(error)) from error

    def put(self, kind: str, body: Mapping[str, Any]) -> None:
        assert kind == "checkpoint"
        durable = self.durable()
        if durable is None or body["round"] > durable["round"]:  # as the market: an older round is answered only
            with self._file.open("ab") as file:
                file.write(json.dumps(dict(body)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        for digest in body["removed"]:
            self.blobs.delete(digest)

    def put_readings(self, logs: Sequence[Json] = ()) -> None:
        self.logs += [log["line"] for log in logs]


class Parcels:
    """The part of a `Transport` that a keeper uses."""

    def made(self, parcel: bytes | Gone, timeout_s: float) -> bool:
        return True

    def open(self, parcel: bytes | Gone, timeout_s: float) -> bytes | Gone:
        return parcel


class Life:
    """A job that trains alone: each round adds a vector that its number and its attempt give."""

    def __init__(self, store: Store, job_spec: Json) -> None:
        self.store = store
        self.spec = job_spec
        self.attempt = 0
        self.gives_deltas = True
        self.restart()

    def restart(self) -> str:
        """Everybody was lost: a new keeper goes on from what is durable; why newer rounds were lost."""
        self.keeper = Keeper(
            job="job-1", spec=self.spec, door=self.store, transport=Parcels(), outbox=self.store,
            wall_ms=lambda: len(self.store.reports()), replay=replay,
        )  # type: ignore[arg-type]  # fmt: skip
        self.attempt += 1
        self.round, self.state, lost = 0, pack(np.zeros(ELEMENTS, np.float32)), ""
        durable = self.store.durable()
        if durable is not None:
            self.keeper.resume(durable)
            found = self.keeper.restore()
            self.round, self.state, lost = found.plan.round, found.state, found.lost
        return lost

    def train(self, *, gone: bool = False, last: bool = False) -> str | None:
        """One more round, and its checkpoint if one is wanted; what was given to the keeper."""
        self.round += 1
        generator = np.random.default_rng([self.round, self.attempt])
        delta = generator.standard_normal(ELEMENTS).astype(np.float32).tobytes()
        self.state = replay(self.state, [delta])
        wanted = self.keeper.wants(self.round, last=last)
        if wanted is None:
            return None
        kind = wanted if self.gives_deltas else "base"
        content: Any = delta if kind == "delta" else self.state
        snapshot = {
            "round": self.round, "step": 10 * self.round, "digest": digest_of(self.state), "stall_ms": 1, "kind": kind,
            "tensors": [{"name": "w", "shape": [ELEMENTS], "dtype": "float32"}], "bytes": len(content),
        }  # fmt: skip
        handed: Any = Gone("worker_killed", "killed") if gone else content
        self.keeper.keep(snapshot, lambda: (handed, None, None))
        return kind


def main() -> None:
    """Rounds without end, each made durable before the next; says so by its report alone."""
    life = Life(Store(Path(sys.argv[1])), spec())
    print(f"from {life.round}", flush=True)
    while True:
        life.train()
        assert life.keeper.wait(30)
        print(life.keeper.durable_round, flush=True)


if __name__ == "__main__":
    main()
