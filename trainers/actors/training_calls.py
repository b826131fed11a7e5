"""The calls of a worker that a training run makes: `load` and `connect`, then rounds of `train` and `merge`, and snapshots.

A part of `Worker`, whose meter, lease, child and folder these calls use, as `CommandCalls` is for a batch job's run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from storage.archives import Content
from trainers.actors.failures import failed_answer, failure
from trainers.actors.leaving import Leaving
from trainers.actors.meter import Meter
from trainers.actors.tidings import Tidings
from trainers.actors.warm_child import WarmChild

if TYPE_CHECKING:  # a worker that is warm imports little
    from trainers.actors.training import Training

Json = dict[str, Any]


class TrainingCalls:
    """See the module."""

    _turn: threading.RLock
    _remembering: threading.Lock
    _meter: Meter
    _meter_key: str
    _child: WarmChild
    _scratch: Path
    _host: str
    _called_at: float
    _phase: str
    _leaving: Leaving
    _tidings: Tidings
    _lease: Json | None
    _training: Training | None
    _load_failure: Json | None
    _recent: deque[Json]
    _tensors: list[Json]
    _tied: dict[str, str]

    def _log(self, lines: Sequence[str]) -> None:
        raise NotImplementedError

    def load(self, spec: Json, source: Content | None, data: Content | None) -> Json:
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

    def restore(self, state: Content, inner: Content | None, own: bool) -> Json:
        """Take over a checkpoint's state, with `own` what was its maker's own too; {ok, round, step, position, digest}."""

        def restore(training: Training) -> Json:
            training.restore(bytes(state), None if inner is None else bytes(inner), own)
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
        received_bytes, stall_ms, leased_ms, trained_ms, signature}, or {ok, left, why, spoiled}. `order`: {round, start, attempt,
        members, timeout_s}. `signature`: of what this worker gave to the round (storage/worker_statements.py), or empty.
        """
        self._called_at = time.monotonic()
        training = self._training
        if training is None:
            return failure("stale", "nothing is loaded here", "")
        answer = training.merge(order)
        if not answer.get("left"):
            self._phase = "idle"
            self._remember(answer)
            answer = {**answer, "signature": self._signed_work(answer)}
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
                told = {**answer, "info": training.info, "signature": self._signed_work(answer)}
                self._recent.append({**told, **training.standing(), **self._meter.reading()})

    def _signed_work(self, answer: Json) -> str:
        """By the lease's own key, where its host gave one, and work was given to the round."""
        info, lease = answer["info"], self._lease
        if not self._meter_key or info is None or lease is None:
            return ""
        from storage.worker_statements import sign_statement, worker_statement

        work = {
            **info,
            "lease": lease["lease"],
            "epoch": lease["epoch"],
            "contribution": answer["contribution"] or info["contribution"],
        }
        return sign_statement(worker_statement(lease["job"], answer["round"], answer["digest"], work), self._meter_key)

    def _tell_loss(self, loss: float | None, round: int) -> None:
        line = self._tidings.evaluated(round, loss, self._child.now.metrics)
        self._log([] if line is None else [line])

    def _loaded_answer(self, training: Training) -> Json:
        elements = int(training.member.parameters.size)
        return {"ok": True, "elements": elements, "tensors": self._tensors, **training.standing()}
