"""What a WorkerActor does: one warm trainer child, one member of the outer state, one meter. A plain class.

Life of a worker: made warm by its provider's host; `assign` ties it to one lease for good; `load` hands it the job
(its meter starts here and runs until the lease ends) and `connect` opens its end of the run's mesh; then rounds of
`train` and `merge`, the exchange itself going from worker to worker. These calls are in
`training_calls.py`; the job may be a command instead (`command_calls.py`). Failures of the child are answers (`{"ok": False,
"kind": …}`), not exceptions: they are the run's business.

Calls that change the worker take turns; `merge` of the round that is being trained, `reading` and `state` answer at any
time. All of them may be repeated: a second `train` or `merge` of the same round gives the first one's answer.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from storage.meter_readings import sign_reading
from trainers.actors.command_calls import CommandCalls
from trainers.actors.leaving import Leaving, Why
from trainers.actors.lifeline import exit_with
from trainers.actors.meter import Meter
from trainers.actors.tidings import Tidings
from trainers.actors.training_calls import TrainingCalls
from trainers.actors.warm_child import WarmChild
from trainers.devices import devices_of
from trainers.mesh.allocation import keep_freed_memory
from trainers.scratch import wiped
from trainers.secrecy import DOOR_FILE, METER_FILE, take

if TYPE_CHECKING:
    from trainers.actors.command_desk import CommandDesk
    from trainers.actors.training import Training

Json = dict[str, Any]

LAST_WORDS = "last-words.json"
RECENT_ROUNDS = 64


class Worker(TrainingCalls, CommandCalls):
    """See the module. `host_pid`: the provider's host process, with which the worker ends.

    The warm child has the threads of one unit and the first of the worker's `devices` (fields of `Device`). `host`: the
    address at which other workers reach this one. `way_out`: fields of `OutwardRules` where its owner lets commands out;
    `environments`: {root, limit_bytes} where it lets them have environments of their own.
    """

    def __init__(
        self, *, name: str, host_pid: int, scratch: str, threads_per_unit: int, devices: Sequence[Json],
        memory_limit_bytes: int, shares: Mapping[str, str], isolation: Literal["sandbox", "process"],
        orphan_after_s: float, host: str = "127.0.0.1", way_out: Json | None = None,
        environments: Json | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        keep_freed_memory()
        self._host = host
        exit_with(host_pid)
        self._scratch, self._threads_per_unit = Path(scratch), threads_per_unit
        self._isolation, self._memory_limit_bytes = isolation, memory_limit_bytes
        self._has = (1, list(devices), None)
        self._shares = {share: Path(folder) for share, folder in shares.items()}
        self._way_out, self._environments = way_out, environments
        self._orphan_after_s = orphan_after_s
        self._turn, self._remembering = threading.RLock(), threading.Lock()
        self._meter = Meter(time.monotonic)
        self._called_at = time.monotonic()
        self._lease: Json | None = None
        self._phase = "warm"
        self._leaving = Leaving()
        self._training: Training | None = None
        self._commands: CommandDesk | None = None
        self._secrets: dict[str, str] = {}
        self._door: dict[str, str] = {}
        self._meter_key = ""
        self._load_failure: Json | None = None
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

        A job with a share, or with other units or cards than the warm child's, gets a fresh child with just these, unless it
        is a `command`, which needs none.
        """
        with self._turn:
            if self._lease is not None:
                assert self._lease["epoch"] == lease["epoch"], "a worker serves one lease"
                return {"pid": os.getpid()}
            self._lease = {"lease": lease["id"], **{name: lease[name] for name in ("epoch", "slot", "job")}}
            self._called_at = time.monotonic()
            self._secrets = take(self._scratch)
            self._door = take(self._scratch, DOOR_FILE)
            self._meter_key = take(self._scratch, METER_FILE).get("key", "")
            share, devices = lease.get("share"), list(lease.get("devices", []))
            if (lease["gpus"], devices, share) != self._has:
                self._has = (lease["gpus"], devices, share)
                if not lease.get("command", False):
                    self._child.replace(
                        threads=self._threads_per_unit * lease["gpus"],
                        devices=devices_of(devices),
                        shares={share: self._shares[share]} if share is not None else {},
                    )
            self._phase = "assigned"
            return {"pid": os.getpid()}

    def drain(self, timeout_s: float, why: Why = "drained") -> bool:
        """Refuse the next round, or end the command and let the run fetch what it saved; True once this worker may go, False
        when that took too long.
        """
        self._leaving.begin(why)
        if self._commands is not None:
            return self._commands.drain(timeout_s)
        return self._leaving.wait(timeout_s, busy=self._in_a_round, holds=self._holds_a_round)

    def stop(self) -> None:
        """End the child and clean up; the actor itself is ended by its host."""
        self._phase = "stopped"
        self._meter.stop()
        if self._training is not None:
            self._training.close()
        if self._commands is not None:
            self._commands.close()
        self._child.kill()
        wiped(self._scratch)

    # the run; also `training_calls.py` and `command_calls.py`

    def state(self) -> Json:
        """Who this worker works for and where it stands: {lease, epoch, job, slot, phase, round, step, position, digest,
        strategy, recent}.

        `recent`: its last rounds, from which a run that was restarted tells the market what its predecessor could not.
        """
        self._called_at = time.monotonic()
        answer = self._training.merged if self._training is not None else None
        if answer is not None:  # a round must not be told of as held before it is remembered
            self._remember(answer)
        lease = self._lease or {"lease": None, "epoch": None, "job": None, "slot": None}
        nowhere = {"round": None, "step": None, "position": None, "digest": None}
        where = self._training.standing() if self._training is not None else nowhere
        strategy = self._training.member.spec["strategy"] if self._training is not None else None
        told = {"phase": self._phase, "pid": os.getpid(), "strategy": strategy, "recent": list(self._recent)}
        return {**lease, **where, **told}

    def reading(self, seen: int, kept: int) -> Json:
        """The meter, and evaluations and log lines numbered above `seen`; answers also while training.

        `kept`: up to which number the market has them. Only these go, so that a run that is killed loses none.
        """
        self._called_at = time.monotonic()
        child = self._child.now
        printed = child.read_log() if child is not None else []
        if self._commands is not None and not self._tidings.crowded:
            printed += self._commands.lines()
        self._log(printed)
        lease = self._lease or {"lease": None, "epoch": None}
        meter, signature = self._meter.reading(), ""
        if self._meter_key:
            signature = sign_reading(self._meter_key, str(lease["lease"]), int(lease["epoch"] or 0), meter)
        return {
            "lease": lease["lease"],
            "epoch": lease["epoch"],
            "phase": self._phase,
            "unreachable": self._training.unreachable if self._training is not None else [],
            "moved_bytes": self._training.moved_bytes if self._training is not None else 0,
            **meter,
            "signature": signature,
            **self._tidings.above(seen, kept),
        }

    def goodbye(self) -> None:
        """The run goes on without this worker, and needs nothing more of it."""
        self._leaving.see_off()

    # inside

    def _log(self, lines: Sequence[str]) -> None:
        at_ms = time.time_ns() // 1_000_000
        self._tidings.add("logs", [{"at_ms": at_ms, "source": self.name, "line": line} for line in lines])

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
