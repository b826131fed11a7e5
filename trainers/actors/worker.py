"""What a WorkerActor does: one warm trainer child, one member of the outer state, one meter. A plain class.

Life of a worker: made warm by its provider's host; `assign` ties it to one lease for good; `load` hands it the job
(its meter starts here and runs until the lease ends) and `connect` opens its end of the run's mesh; then rounds of
`train` and `merge`, the exchange itself going from worker to worker. The job may be a command instead
(`command_calls.py`). Failures of the child are answers (`{"ok": False,
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainers.actors.command_calls import CommandCalls
from trainers.actors.failures import failed_answer, failure
from trainers.actors.leaving import Leaving, Why
from trainers.actors.lifeline import exit_with
from trainers.actors.meter import Meter
from trainers.actors.tidings import Tidings
from trainers.actors.warm_child import WarmChild
from trainers.devices import devices_of
from trainers.mesh.allocation import keep_freed_memory
from trainers.scratch import wiped
from trainers.secrecy import DOOR_FILE, take

if TYPE_CHECKING:
    from trainers.actors.command_desk import CommandDesk
    from trainers.actors.training import Training

Json = dict[str, Any]

LAST_WORDS = "last-words.json"
RECENT_ROUNDS = 64


class Worker(CommandCalls):
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

    # the run

    def load(self, spec: Json, source: bytes | None, data: bytes | None) -> Json:
        """Hand the job to the child; {ok, elements, tensors, round, digest, …} of the initial state. Starts the meter.

        `source`: the customer's file; `data`: the job's tar, extracted into this worker's own folder. Data that do not
        unpack fail as code that does not import does: both are the customer's.
        """
        from trainers.actors.loading import LoadFailed, load_job, tensor_row
        from trainers.actors.training import Training

        with self._turn:
            self._called_at = time.monotonic()
            self._meter.start()
            if self._training is not None:
                return self._loaded_answer(self._training)
            if self._load_failure is not None:
                return self._load_failure
            self._phase = "loading"
            made = load_job(self._child, spec, source, data, self._scratch)
            if isinstance(made, LoadFailed):
                if made.final:
                    self._phase, self._load_failure = "failed", made.answer
                return made.answer
            child, loaded = made
            assert self._lease is not None
            slot, epoch = int(self._lease["slot"]), int(self._lease["epoch"])
            self._tensors, self._tied = [tensor_row(tensor) for tensor in loaded.tensors], dict(loaded.tied)
            self._training = Training(spec, loaded, child, slot=slot, epoch=epoch, host=self._host)
            self._phase = "idle"
            return self._loaded_answer(self._training)

    def connect(self, secret: bytes) -> Json:
        """Open this worker's end of the run's mesh; {ok, address} that the others are to be told. After `load`."""
        if self._training is not None:
            self._training.close()  # steps that wait for members of a dead run give up, so that our turn comes
        return self._in_turn(lambda training: {"address": training.connect(secret)})

    def prepare(self, order: Json) -> Json:
        """Take over what living members hold, before the first round here and while they train on; {ok, round, step,
        position, digest}. `order`: {base: {round, digest}, members: [[slot, epoch, address]]}.
        """

        def prepare(training: Training) -> Json:
            training.prepare(order["base"], order["members"])
            return training.standing()

        return self._in_turn(prepare)

    def restore(self, state: bytes, inner: bytes | None, own: bool) -> Json:
        """Take over a checkpoint's state, with `own` what was its maker's own too; {ok, round, step, position, digest}."""

        def restore(training: Training) -> Json:
            training.restore(state, inner, own)
            return training.standing()

        return self._in_turn(restore)

    def recall(self, round: int, digest: str, inner: str | None) -> Json:
        """Go back to a checkpoint's state out of this worker's own RAM; {ok, found}. `inner`: the digest of the inner
        optimiser's state that goes with it, if one does.
        """
        return self._in_turn(lambda training: {"found": training.recall(round, digest, inner)})

    def train(self, order: Json) -> Json:
        """One worker's share of a round; {ok, round, loss, steps, tokens, trained_ms, norm}. `order`: see `orders.train_order`
        and `rounds.Share`; `fresh` after a void try of the same round, whose contribution does not count.
        """
        from trainers.actors.donors import NoDonor
        from trainers.actors.training import NotFinite, Stale
        from trainers.child_process import ChildFailed

        with self._turn:
            self._called_at = time.monotonic()
            refusal = self._leaving.refusal()
            if refusal is not None:
                return refusal
            if self._training is None:
                return failure("stale", "nothing is loaded here", "")
            self._phase = "training"
            self._meter.training()
            try:
                before = self._training.done(order)
                if order["evaluate"] and not before:
                    self._tell_loss(self._training.settled_loss(order["base"], order["timeout_s"]), order["round"] - 1)
                info = self._training.train(order)
            except (Stale, NoDonor) as reason:
                self._phase = "idle"
                return failure("stale" if isinstance(reason, Stale) else "no_donor", str(reason), "")
            except NotFinite as error:
                self._phase = "idle"
                return failure("nan", str(error), "")
            except ChildFailed as failed:
                self._phase = "failed"
                return failed_answer(failed)
            finally:
                self._meter.trained()
            if not before:
                self._meter.contributed(info["tokens"], 0)
            self._phase = "contributed"
            return info

    def merge(self, order: Json) -> Json:
        """Exchange and merge the round's contributions; {ok, round, digest, accepted, refused, contribution, sent_bytes,
        received_bytes, stall_ms, leased_ms, trained_ms}, or {ok, left, why, spoiled}. `order`: {round, start, attempt, members, timeout_s}.
        """
        self._called_at = time.monotonic()
        training = self._training
        if training is None:
            return failure("stale", "nothing is loaded here", "")
        answer = training.merge(order)
        if not answer.get("left"):
            self._phase = "idle"
            self._remember(answer)
        return {**answer, **self._meter.reading()}

    def evaluate(self, base: Json, timeout_s: float) -> Json:
        """Held-out loss of the parameters after round `base` ({round, digest}); {ok, round, loss}, where the loss is None when
        it is not finite. Told by `reading` too.
        """
        from trainers.actors.training import Stale
        from trainers.child_process import ChildFailed

        with self._turn:
            self._called_at = time.monotonic()
            assert self._training is not None, "evaluate after load"
            self._meter.training()
            try:
                loss = self._training.settled_loss(base, timeout_s)
            except Stale as reason:
                return failure("stale", str(reason), "")
            except ChildFailed as failed:
                self._phase = "failed"
                return failed_answer(failed)
            finally:
                self._meter.trained()
            self._tell_loss(loss, base["round"])
            return {"ok": True, "round": base["round"], "loss": loss}

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

    def snapshot(self, base: Json, wanted: str, inner: bool) -> Json:
        """Set the state after round `base` aside, which is all that training waits for; {ok, round, step, digest, kind,
        bytes, strategy, inner, buffers, stall_ms, tensors, tied}. `wanted`: base or delta.

        `staged` (and `staged_inner`, `staged_buffers`) serialise and hand it out while training goes on.
        """

        def snapshot(training: Training) -> Json:
            began = time.monotonic()
            training.settle(base)
            made = training.snapshot(wanted, inner=inner)
            stall_ms = int(1000 * (time.monotonic() - began))
            named = {"tensors": self._tensors, "tied": self._tied}
            return {**training.standing(), **made, "stall_ms": stall_ms, **named}

        return self._in_turn(snapshot)

    def staged(self, round: int, kind: Literal["base", "delta"]) -> bytes:
        """What `snapshot` set aside at that round, as bytes."""
        assert self._training is not None
        return self._training.staging.staged(round, kind)

    def staged_inner(self, round: int) -> bytes:
        """The inner optimiser's state that `snapshot` set aside with a base."""
        assert self._training is not None
        return self._training.staging.staged_inner(round)

    def staged_buffers(self, round: int) -> bytes:
        """The model's buffers that `snapshot` set aside with a base."""
        assert self._training is not None
        return self._training.staging.staged_buffers(round)

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
        return {
            "lease": lease["lease"],
            "epoch": lease["epoch"],
            "phase": self._phase,
            "unreachable": self._training.unreachable if self._training is not None else [],
            "moved_bytes": self._training.moved_bytes if self._training is not None else 0,
            **self._meter.reading(),
            **self._tidings.above(seen, kept),
        }

    def goodbye(self) -> None:
        """The run goes on without this worker, and needs nothing more of it."""
        self._leaving.see_off()

    # inside

    def _in_turn(self, do: Callable[[Training], Json]) -> Json:
        """{ok, …what it answers}, or why it could not be done."""
        from trainers.actors.donors import NoDonor
        from trainers.actors.training import Stale
        from trainers.child_process import ChildFailed
        from trainers.member import MemberError

        with self._turn:
            self._called_at = time.monotonic()
            if self._training is None:
                return failure("stale", "nothing is loaded here", "")
            try:
                return {"ok": True, **do(self._training)}
            except NoDonor as reason:
                return failure("no_donor", str(reason), "")
            except (Stale, MemberError) as reason:
                return failure("stale", str(reason), "")
            except ChildFailed as failed:
                self._phase = "failed"
                return failed_answer(failed)

    def _in_a_round(self) -> bool:
        """Whether somebody waits for what this worker trains or exchanges."""
        if self._phase == "contributed":
            assert self._training is not None
            return not self._training.at_rest
        return self._phase == "training"

    def _holds_a_round(self) -> bool:
        """Whether the run may still want something of a round that was merged here."""
        return self._phase == "idle" and bool(self._recent)

    def _remember(self, answer: Json) -> None:
        training = self._training
        assert training is not None
        with self._remembering:
            if self._meter.committed(answer["round"]):
                self._meter.contributed(0, answer["sent_bytes"])
                self._recent.append({**answer, "info": training.info, **training.standing(), **self._meter.reading()})

    def _tell_loss(self, loss: float | None, round: int) -> None:
        line = self._tidings.evaluated(round, loss, self._child.now.metrics)
        self._log([] if line is None else [line])

    def _log(self, lines: Sequence[str]) -> None:
        at_ms = time.time_ns() // 1_000_000
        self._tidings.add("logs", [{"at_ms": at_ms, "source": self.name, "line": line} for line in lines])

    def _loaded_answer(self, training: Training) -> Json:
        elements = int(training.member.parameters.size)
        return {"ok": True, "elements": elements, "tensors": self._tensors, **training.standing()}

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
