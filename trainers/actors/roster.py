"""The workers of one run as far as they are known: handles, latest readings, and a thread that notices who is silent."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.meter_readings import COUNTS, is_signed
from trainers.actors.answers import BadAnswer, checked_reading
from trainers.actors.outbox import Outbox
from trainers.actors.transport import Call, CallFailed, Gone, Transport
from trainers.round_decisions import NOWHERE, START, Member, Standing

log = logging.getLogger(__name__)

Json = dict[str, Any]

LEAST_MOVED_BYTES = 16 * 1024
"""What counts as progress: in an exchange's 20 s, 6.5 kbit/s."""


@dataclass(slots=True)
class Worker:
    """One lease's worker. `phase`: loading, ready (the round machine knows it) or lost. `address`: its end of the mesh;
    `at`, `digest`: where it stands, and by which strategy, when a run takes it over; `info`, `merged`: its last answers to train
    and merge; `unreachable`: whom it waits for in vain; `moved_bytes`: of its mesh, cumulative. `asked`: for a reading, and not
    answered yet; `told_at`: when the last one that was answered had been asked for. `meter_key`: by which it signs its meter;
    `base_ms`, `based_at`: its first reading by this run, and when that was asked for.
    """

    lease: str
    epoch: int
    slot: int
    provider: str
    name: str
    handle: Any
    phase: str = "loading"
    address: str = ""
    at: Standing = START
    digest: str | None = None
    strategy: Json | None = None
    merged: Json = field(default_factory=dict)
    unreachable: tuple[int, ...] = ()
    moved_bytes: int = 0
    seen: int = 0
    reading: Json = field(default_factory=dict)
    info: Json = field(default_factory=dict)
    asked: Call | None = None
    asked_at: float = 0.0
    told_at: float = 0.0
    cut_at: float | None = None
    meter_key: str = ""
    base_ms: int = 0
    based_at: float | None = None
    _moved_before: int = 0

    @property
    def stream(self) -> str:
        """What its lines are numbered in: a lease and an epoch have one worker process."""
        return f"{self.lease}.{self.epoch}"

    def run_ms(self, now: float) -> int:
        """The most that its meter can honestly say by this run's own clock: no more time has passed since its first reading
        was asked for."""
        return self.base_ms + (0 if self.based_at is None else int((now - self.based_at) * 1000))

    def has_moved(self) -> bool:
        """Whether enough bytes of its mesh moved since this was true last: who lets them drip does not hold up a round."""
        if self.moved_bytes - self._moved_before < LEAST_MOVED_BYTES:
            return False
        self._moved_before = self.moved_bytes
        return True


def _heard(_provider: str, _loss: float) -> None:
    """Nobody waits for a loss."""


def heirs(ready: Sequence[Worker], at: Standing, agrees: bool) -> tuple[str | None, list[Member]]:
    """(digest, members) of a predecessor's workers: whose digest is another than that of most holds another state."""
    digests = [worker.digest for worker in ready if worker.at == at and worker.digest is not None]
    digest = max(sorted(set(digests)), key=digests.count) if digests and agrees else None
    members = []
    for worker in ready:
        odd = digest is not None and worker.at == at and worker.digest not in (None, digest)
        members.append(Member(worker.slot, worker.epoch, worker.name, NOWHERE if odd else worker.at))
    return digest, members


class Roster:
    """Workers by slot. The watching thread asks every one for its reading each `every_s`; one that has not answered for
    `lost_after_s`, that could not even be asked for `cut_after_s`, or whose process is gone, is handed out by
    `take_losses` once.
    """

    def __init__(
        self, transport: Transport, outbox: Outbox, *, every_s: float, lost_after_s: float, cut_after_s: float = 1.0
    ) -> None:
        self._transport = transport
        self._outbox = outbox
        self._every_s = every_s
        self._lost_after_s = lost_after_s
        self._cut_after_s = cut_after_s
        self._lock = threading.Lock()
        self._workers: dict[int, Worker] = {}
        self._losses: list[tuple[Worker, Gone]] = []
        self.changed = threading.Event()
        self.on_loss: Callable[[str, float], None] = _heard  # (provider, held-out loss), by the watching thread
        self._hurry, self._told = threading.Event(), threading.Condition()
        threading.Thread(target=self._watch, name="watch-workers", daemon=True).start()

    def add(self, worker: Worker) -> None:
        """Watch one more."""
        with self._lock:
            self._workers[worker.slot] = worker

    def remove(self, slot: int) -> Worker | None:
        """Watch it no longer."""
        with self._lock:
            worker = self._workers.pop(slot, None)
        if worker is not None:
            worker.phase = "lost"
        return worker

    def get(self, slot: int) -> Worker | None:
        """The worker of a slot."""
        with self._lock:
            return self._workers.get(slot)

    def all(self) -> list[Worker]:
        """Everybody, by slot."""
        with self._lock:
            return [worker for _, worker in sorted(self._workers.items())]

    def lose(self, worker: Worker, gone: Gone) -> None:
        """Somebody found out that this worker cannot stay; `take_losses` hands it out. Any thread may."""
        self._lose(worker, gone)

    def take_losses(self) -> list[tuple[Worker, Gone]]:
        """Who was found gone or silent since the last call."""
        with self._lock:
            losses, self._losses = self._losses, []
            self.changed.clear()
        return losses

    def last_readings(self) -> None:
        """Wait shortly until everybody has answered once more, so that the end of a run is metered.

        The watching thread asks: two answers to one question would tell the same lines twice.
        """
        since = time.monotonic()
        self._hurry.set()
        with self._told:
            self._told.wait_for(lambda: all(worker.told_at >= since for worker in self.all()), 1.0)

    def _watch(self) -> None:
        while True:
            if all(worker.asked is None for worker in self.all()):
                self._hurry.clear()
            began = time.monotonic()
            for worker in self.all():
                if worker.asked is None:
                    worker.asked = self._ask(worker)
                    worker.asked_at = began
            asked = {worker.slot: worker.asked for worker in self.all() if worker.asked is not None}
            until = began + self._every_s
            while True:
                # Also when no time is left: a run that was itself held up hears first who has answered meanwhile.
                left = max(0.0, until - time.monotonic())
                for slot, answer in self._transport.answers(asked, left).items():
                    del asked[slot]
                    self._take(slot, answer)
                    with self._told:
                        self._told.notify_all()
                if not asked:
                    self._hurry.wait(max(0.0, until - time.monotonic()))
                if time.monotonic() >= until or self._hurry.is_set():
                    break
            self._find_silent(time.monotonic())

    def _ask(self, worker: Worker) -> Call:
        return self._transport.ask(worker.handle, "reading", worker.seen, self._outbox.kept(worker.stream))

    def _take(self, slot: int, answer: Any) -> None:
        worker = self.get(slot)
        if worker is None:
            return
        worker.told_at = worker.asked_at
        if isinstance(answer, CallFailed):
            worker.asked = None
            log.error("reading of %s failed: %s", worker.name, answer)
        elif not isinstance(answer, Gone):
            worker.asked = None
            self._note(worker, answer)
        elif answer.reason == "network_cut":
            # Perhaps only for a moment: asked again at the next turn.
            worker.asked = None
            now = time.monotonic()
            log.info("%s cannot be reached: %s", worker.name, answer.detail)
            worker.cut_at = now if worker.cut_at is None else worker.cut_at
            if now - worker.cut_at >= self._cut_after_s:
                self._lose(worker, answer)
        else:
            self._lose(worker, answer)

    def _note(self, worker: Worker, answered: Any) -> None:
        try:
            answer = checked_reading(answered)
        except BadAnswer as bad:
            self._lose(worker, Gone("bad_contribution", str(bad)))
            return
        figures, signature = {name: answer[name] for name in COUNTS}, answered.get("signature", "")
        if worker.meter_key and not is_signed(worker.meter_key, worker.lease, worker.epoch, figures, signature):
            self._lose(worker, Gone("bad_contribution", "its meter is not signed by the key that its provider has named"))
            return
        now = time.monotonic()
        if worker.based_at is None:
            worker.base_ms, worker.based_at = figures["leased_ms"], worker.asked_at or now
        worker.seen, worker.cut_at = answer["seen"], None
        worker.unreachable, worker.moved_bytes = tuple(answer["unreachable"]), answer["moved_bytes"]
        reading = {"lease": worker.lease, "epoch": worker.epoch, **figures}
        for one in answer["evaluated"]:
            self.on_loss(worker.provider, one["loss"])
        lines = [{**line, "stream": worker.stream} for line in answer["logs"]]  # not by the worker's word
        changed = reading != worker.reading
        worker.reading = reading
        self._outbox.put_readings(
            readings=[{**reading, "run_ms": worker.run_ms(now), "signature": signature if worker.meter_key else ""}] if changed else [],
            evaluated=answer["evaluated"], logs=lines,
            seen={worker.stream: worker.seen},
        )

    def _find_silent(self, now: float) -> None:
        for worker in self.all():
            if worker.asked is not None and now - worker.asked_at > self._lost_after_s:
                detail = f"no reading for {now - worker.asked_at:.1f} s"
                self._lose(worker, Gone("worker_frozen", detail))

    def _lose(self, worker: Worker, gone: Gone) -> None:
        with self._lock:
            if self._workers.pop(worker.slot, None) is None:
                return
            worker.phase = "lost"
            self._losses.append((worker, gone))
            self.changed.set()
