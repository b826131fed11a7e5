"""What a WorkerActor does: one warm trainer child, one replica of the outer state, one meter. A plain class.

Life of a worker: made warm by its provider's host; `assign` ties it to one lease for good; `load` hands it the job
(its meter starts here and runs until the lease ends); then rounds of `train`, `hold`, `commit`. Failures of the child
are answers (`{"ok": False, "kind": …}`), not exceptions: they are the run's business.

Calls that change the worker take turns; `reading` and `state` answer at any time. All of them may be repeated: a second
`train` of the same round gives the first one's answer, and a second `commit` the same digest.
"""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from storage.archives import PackingError, unpack
from trainers.actors.lifeline import exit_with
from trainers.actors.meter import Meter
from trainers.actors.tidings import Tidings
from trainers.actors.warm_child import WarmChild
from trainers.devices import devices_of

Json = dict[str, Any]

LAST_WORDS = "last-words.json"
LOAD_TIMEOUT_S = 120.0
SNAPSHOTS_KEPT = 2
RECENT_ROUNDS = 64


class Worker:
    """See the module. `host_pid`: the provider's host process, with which the worker ends.

    The warm child has the threads of one unit and the first of the worker's `devices` (fields of `Device`).
    """

    def __init__(
        self,
        *,
        name: str,
        host_pid: int,
        scratch: str,
        threads_per_unit: int,
        devices: Sequence[Json],
        memory_limit_bytes: int,
        shares: Mapping[str, str],
        isolation: Literal["sandbox", "process"],
        orphan_after_s: float,
    ) -> None:
        self.name = name
        exit_with(host_pid)
        self._scratch = Path(scratch)
        self._threads_per_unit = threads_per_unit
        self._has = (1, list(devices), None)
        self._shares = {share: Path(folder) for share, folder in shares.items()}
        self._orphan_after_s = orphan_after_s
        self._turn = threading.RLock()
        self._meter = Meter(time.monotonic)
        self._called_at = time.monotonic()
        self._lease: Json | None = None
        self._phase = "warm"
        self._draining = False
        self._replica: Any = None
        self._load_failure: Json | None = None
        self._contributed: tuple[int, Json, bytes] | None = None
        self._snapshots: dict[int, Any] = {}
        self._tidings = Tidings()
        self._recent: deque[Json] = deque(maxlen=RECENT_ROUNDS)
        self._child = WarmChild(
            scratch=self._scratch, memory_limit_bytes=memory_limit_bytes, isolation=isolation,
            threads=threads_per_unit, devices=devices_of(devices),
        )  # fmt: skip
        threading.Thread(target=self._watch_orphan, name="orphan", daemon=True).start()

    # the provider's host

    def ready(self) -> Json:
        """Wait until the child has imported torch; {pid, child_pid} or {"error"}."""
        child = self._child.wait()
        if child is None:
            return {"pid": os.getpid(), "child_pid": None, "error": self._child.error}
        return {"pid": os.getpid(), "child_pid": child.pid, "error": None}

    def assign(self, lease: Json) -> Json:
        """Tie this worker to one lease ({id, epoch, slot, job, share, gpus, devices}) for good; {pid}.

        A job with a share, or with other units or cards than the warm child's, gets a fresh child with just these.
        """
        with self._turn:
            if self._lease is not None:
                assert self._lease["epoch"] == lease["epoch"], "a worker serves one lease"
                return {"pid": os.getpid()}
            self._lease = {"lease": lease["id"], **{name: lease[name] for name in ("epoch", "slot", "job")}}
            self._called_at = time.monotonic()
            share, devices = lease.get("share"), list(lease.get("devices", []))
            if (lease["gpus"], devices, share) != self._has:
                self._has = (lease["gpus"], devices, share)
                self._child.replace(
                    threads=self._threads_per_unit * lease["gpus"],
                    devices=devices_of(devices),
                    shares={share: self._shares[share]} if share is not None else {},
                )
            self._phase = "assigned"
            return {"pid": os.getpid()}

    def drain(self, timeout_s: float) -> bool:
        """Refuse the next round; True once no round is in progress here, False when that took too long."""
        self._draining = True
        deadline = time.monotonic() + timeout_s
        while self._phase in {"training", "contributed"}:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def stop(self) -> None:
        """End the child and clean up; the actor itself is ended by its host."""
        self._phase = "stopped"
        self._meter.stop()
        self._child.kill()
        shutil.rmtree(self._scratch, ignore_errors=True)

    # the run

    def load(self, spec: Json, source: bytes | None, data: bytes | None) -> Json:
        """Hand the job to the child; {ok, elements, digest, tensors} of the initial parameters. Starts the meter.

        `source`: the customer's file; `data`: the job's tar, extracted into this worker's own folder. Data that do not
        unpack fail as code that does not import does: both are the customer's.
        """
        from trainers.child_process import ChildFailed, JobPackage
        from trainers.replica import Replica

        with self._turn:
            self._called_at = time.monotonic()
            self._meter.start()
            if self._replica is not None:
                return self._loaded_answer()
            if self._load_failure is not None:
                return self._load_failure
            self._phase = "loading"
            child = self._child.wait()
            if child is None:
                return _failure("died", self._child.error, "")
            try:
                loaded = child.load(JobPackage(spec, source, self._data_folder(spec, data)), LOAD_TIMEOUT_S)
            except PackingError as error:
                self._phase = "failed"
                self._load_failure = _failure("import", f"the job's data cannot be unpacked: {error}", "")
                return self._load_failure
            except ChildFailed as failed:
                self._phase = "failed"
                self._load_failure = self._failed(failed)
                return self._load_failure
            self._tensors = [_tensor(spec_) for spec_ in loaded.tensors]
            self._replica = Replica(spec, loaded.initial)
            self._phase = "idle"
            return self._loaded_answer()

    def restore(self, state: bytes) -> Json:
        """Take over the outer state of a peer or a checkpoint; {ok, round, step, digest}."""
        from trainers.replica import Replica, ReplicaError

        with self._turn:
            self._called_at = time.monotonic()
            try:
                self._replica = Replica.restore(state)
            except ReplicaError as error:
                return _failure("stale", str(error), "")
            self._contributed = None
            return {"ok": True, **self._where()}

    def train(self, order: Json) -> tuple[Json, bytes]:
        """One worker's share of a round: (info, contribution), returned separately (num_returns=2).

        `order`: {round, first_step, steps, evaluate, timeout_s, fresh}; `fresh` after a void try of the same round, whose
        contribution does not count.
        """
        from trainers.child_process import ChildFailed

        with self._turn:
            self._called_at = time.monotonic()
            round = order["round"]
            if order["fresh"] and self._replica is not None:
                self._replica.drop_round()
                self._contributed = None
            if self._contributed is not None and self._contributed[0] == round:
                return self._contributed[1], self._contributed[2]
            if self._draining:
                return _failure("drained", "the provider takes its machine back", ""), b""
            if self._replica is None:
                return _failure("stale", "nothing is loaded here", ""), b""
            if self._replica.round != round - 1:
                return _failure("stale", f"this worker stands at round {self._replica.round}", ""), b""
            self._phase = "training"
            try:
                info, payload = self._train(order)
            except ChildFailed as failed:
                self._phase = "failed"
                return self._failed(failed), b""
            finally:
                self._meter.trained()
            self._contributed = (round, info, payload)
            self._phase = "contributed"
            return info, payload

    def hold(self, round: int, slots: Sequence[int], *payloads: bytes) -> Json:
        """Keep everybody's contributions of a round, ready to commit; {ok, slots held, refused {slot: why}}."""
        from trainers.replica import ReplicaError

        with self._turn:
            self._called_at = time.monotonic()
            try:
                held = self._replica.hold(round, dict(zip(slots, payloads, strict=True)))
            except ReplicaError as error:
                return _failure("stale", str(error), "")
            return {
                "ok": True,
                "slots": list(held.slots),
                "refused": {str(slot): why for slot, why in held.refused.items()},
            }

    def commit(self, round: int, accepted: Sequence[int]) -> Json:
        """Merge the accepted slots; {ok, round, step, digest, leased_ms, …} of the new parameters and the meter."""
        from trainers.replica import ReplicaError

        with self._turn:
            self._called_at = time.monotonic()
            if self._replica.round == round:
                return {"ok": True, **self._where(), **self._meter.reading()}
            try:
                self._replica.commit(round, tuple(accepted))
            except ReplicaError as error:
                finite = "finite" not in str(error)
                return _failure("stale" if finite else "nan", str(error), "")
            info = self._contributed[1] if self._contributed is not None and self._contributed[0] == round else None
            self._contributed = None
            self._phase = "idle"
            self._meter.committed(round)
            done = {**self._where(), **self._meter.reading()}
            self._recent.append({**done, "accepted": sorted(accepted), "info": info})
            return {"ok": True, **done}

    def evaluate(self, timeout_s: float) -> Json:
        """Held-out loss of the parameters of the last committed round; {ok, round, loss}. Told by `reading` too."""
        from trainers.child_process import ChildFailed

        with self._turn:
            self._called_at = time.monotonic()
            self._meter.training()
            try:
                loss = self._child.now.evaluate(self._replica.parameters, timeout_s)
            except ChildFailed as failed:
                self._phase = "failed"
                return self._failed(failed)
            finally:
                self._meter.trained()
            self._tidings.add("evaluated", [{"round": self._replica.round, "loss": loss}])
            return {"ok": True, "round": self._replica.round, "loss": loss}

    def state(self) -> Json:
        """Who this worker works for and where it stands: {lease, epoch, job, slot, phase, round, step, digest, recent}.

        `recent`: its last rounds, from which a run that was restarted tells the market what its predecessor could not.
        """
        self._called_at = time.monotonic()
        lease = self._lease or {"lease": None, "epoch": None, "job": None, "slot": None}
        where = self._where() if self._replica is not None else {"round": None, "step": None, "digest": None}
        return {**lease, "phase": self._phase, "pid": os.getpid(), **where, "recent": list(self._recent)}

    def export(self) -> bytes:
        """The outer state, for a newcomer (safetensors)."""
        with self._turn:
            self._called_at = time.monotonic()
            return bytes(self._replica.export())

    def snapshot(self) -> Json:
        """Set the outer state aside, which is all that training waits for; {round, step, digest, stall_ms, tensors}.

        `staged` serialises and hands it out while training goes on.
        """
        with self._turn:
            began = time.monotonic()
            self._called_at = began
            where = self._where()
            # Committing makes new arrays and never writes into old ones, so a shallow copy is the whole staging.
            self._snapshots[where["round"]] = copy.copy(self._replica)
            for old in sorted(self._snapshots)[:-SNAPSHOTS_KEPT]:
                del self._snapshots[old]
            return {**where, "stall_ms": int(1000 * (time.monotonic() - began)), "tensors": self._tensors}

    def staged(self, round: int) -> bytes:
        """The state that `snapshot` set aside at that round, as bytes."""
        return bytes(self._snapshots[round].export())

    def reading(self, seen: int) -> Json:
        """The meter, and evaluations and log lines numbered above `seen`; answers also while training.

        They are kept until they are seen, so that a run that is killed between asking and telling loses none.
        """
        self._called_at = time.monotonic()
        child = self._child.now
        if child is not None:
            at_ms = time.time_ns() // 1_000_000
            lines = [{"at_ms": at_ms, "source": self.name, "line": line} for line in child.read_log()]
            self._tidings.add("logs", lines)
        lease = self._lease or {"lease": None, "epoch": None}
        return {
            "lease": lease["lease"],
            "epoch": lease["epoch"],
            "phase": self._phase,
            **self._meter.reading(),
            **self._tidings.above(seen),
        }

    # inside

    def _train(self, order: Json) -> tuple[Json, bytes]:
        round, steps = order["round"], order["steps"]
        parameters = self._replica.parameters
        self._meter.training()
        if order["evaluate"]:
            loss = self._child.now.evaluate(parameters, order["timeout_s"])
            self._tidings.add("evaluated", [{"round": round - 1, "loss": loss}])
        assert self._lease is not None
        trained = self._child.now.train(
            parameters,
            round=round,
            first_step=order["first_step"],
            steps=steps,
            worker=self._lease["slot"],
            evaluate=False,
            timeout_s=order["timeout_s"],
        )
        payload, made = self._replica.contribute(trained.parameters)
        self._meter.contributed(trained.tokens, len(payload))
        info = {
            "ok": True,
            "round": round,
            "loss": trained.loss,
            "steps": steps,
            "tokens": trained.tokens,
            "bytes": len(payload),
            "trained_ms": trained.trained_ms,
            "contribution": made.digest,
        }
        return info, payload

    def _where(self) -> Json:
        replica = self._replica
        return {"round": replica.round, "step": replica.step, "digest": replica.digest()}

    def _loaded_answer(self) -> Json:
        return {"ok": True, "elements": int(self._replica.parameters.size), "tensors": self._tensors, **self._where()}

    def _data_folder(self, spec: Json, data: bytes | None) -> str | None:
        if spec["data"]["kind"] == "share":
            return f"share:{spec['data']['name']}"
        if data is None:
            return None
        folder = self._scratch / "data"
        unpack(io.BytesIO(data), folder)
        return str(folder)

    def _failed(self, failed: Any) -> Json:
        return _failure(failed.kind, failed.message, failed.traceback)

    def _watch_orphan(self) -> None:
        """A lease whose run has been silent for long goes back: the process ends and its host reports why."""
        while True:
            time.sleep(1.0)
            silent_s = time.monotonic() - self._called_at
            if self._lease is not None and self._phase != "stopped" and silent_s > self._orphan_after_s:
                words = {"reason": "head_lost", "detail": f"no word from the run for {silent_s:.0f} s"}
                (self._scratch / LAST_WORDS).write_text(json.dumps(words), encoding="utf-8")
                self._child.kill()
                os._exit(0)


def _failure(kind: str, message: str, traceback: str) -> Json:
    return {"ok": False, "kind": kind, "message": message, "traceback": traceback}


def _tensor(spec: Any) -> Json:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": "float32"}
