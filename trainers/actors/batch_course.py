"""Drives a batch job's command: asks the pure machine in `trainers.attempts` what to do, does it, tells it what came of it.

One thread, and nothing here waits long: an answer to come is a call in progress. The counterpart of `Course` for jobs that
are a command; `Run` drives either.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from storage.artifacts import Artifacts
from trainers.actors.calls import Calls
from trainers.actors.failures import Halt, detail_of
from trainers.actors.gathering import Fetcher, Gathering, Restoring, Saving
from trainers.actors.outbox import Outbox
from trainers.actors.roster import Roster, Worker
from trainers.actors.transport import Gone, Transport
from trainers.actors.wiring import Door
from trainers.attempts import Attempts, Begin, Collect, Decisions, Outcome, Over, Report, Stop, counted

log = logging.getLogger(__name__)

Json = dict[str, Any]

LOOK_S = 0.2
SAVE_EVERY_S = 5.0
ENDS = ("kind", "code", "signal", "duration_ms", "detail", "tail")


class BatchCourse:
    """One attempt of the market's at a batch job, from what its directive says until it halts.

    Args:
        directive: of the job, when the run began. workdir, data: tars, as the spec names them. saved: what the command
            has saved so far. save_every_s: how often a running one is looked at for that.
        clock: monotonic seconds; wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self, *, job: str, directive: Json, workdir: bytes | None, data: bytes | None, transport: Transport, outbox: Outbox,
        roster: Roster, door: Door, wall_ms: Callable[[], int], saved: Artifacts | None = None,
        save_every_s: float = SAVE_EVERY_S, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._job, self._spec = job, directive["spec"]
        self._transport, self._outbox, self._roster, self._door, self._wall_ms = (
            transport,
            outbox,
            roster,
            door,
            wall_ms,
        )
        self._workdir, self._data = (None if one is None else transport.parcel(one) for one in (workdir, data))
        self._calls = Calls(transport, clock)
        command = self._spec["command"]
        self._attempts = Attempts(
            command["argv"], retries=command["retries"], timeout_ms=command["timeout_ms"],
            collects=bool(command["artifacts"]), before=directive["attempts"], restarts=directive["restarts"],
        )  # fmt: skip
        self._met: dict[int, Worker] = {}
        self._saved, self._save_every_s = saved, save_every_s
        self._gathering: tuple[int, Gathering] | None = None
        self._restoring: tuple[Begin, Restoring] | None = None
        self._saving: Saving | None = None
        self._stopped: tuple[int, int, Outcome] | None = None
        self._used: set[int] = set()
        self._halt: Halt | None = None
        self.manifest: str | None = None
        self._do(self._attempts.resume())

    def welcome(self, worker: Worker) -> None:
        """A worker that holds a lease of the job: the command begins there, or goes on if it runs there already."""
        self._met[worker.slot] = worker
        self._roster.add(worker)
        self._do(self._attempts.arrived(worker.slot))

    def slots(self) -> list[int]:
        """Slots of everybody who is alive as far as is known."""
        return [worker.slot for worker in self._roster.all()]

    def knows(self, slot: int) -> bool:
        """Whether this slot's worker has been met, living or not."""
        return slot in self._met

    def leave(self, slot: int, reason: str, detail: str) -> None:
        """The market has ended this lease."""
        if self._roster.remove(slot) is not None:
            self._forget(slot, f"{reason}: {detail}")

    def give_up(self, worker: Worker, reason: str, detail: str) -> None:
        """This lease's worker was never met and will not be."""
        self._met[worker.slot] = worker
        self._report_lost(worker, reason, detail)

    def retune(self, spec: Json, tuning: int) -> None:
        """A command has no strategy that could change."""

    def pause(self, why: str) -> None:
        """End the command and halt; it begins again when the job goes on."""
        self._do(self._attempts.pause(why))

    def advance(self) -> Halt | None:
        """Do what is due, waiting a little when nothing is; the end of the run once it is there."""
        for worker, gone in self._roster.take_losses():
            self._report_lost(worker, gone.reason, gone.detail)
            self._forget(worker.slot, gone.reason)
        if self._halt is None:
            self._take_answers()
            self._look_at_files()
        return self._halt

    # answers of workers

    def _take_answers(self) -> None:
        for kind, worker, answer in self._calls.heard(self._roster, LOOK_S):
            if isinstance(answer, Gone):
                self._lose(worker, answer.reason, answer.detail)
            elif not answer["ok"]:
                self._failed(worker, answer)
            elif kind == "begin":
                self._begun(worker, answer["number"])
            elif kind == "outcome":
                self._heard(worker, answer["number"], answer["outcome"])

    def _heard(self, worker: Worker, number: int, told: Json | None) -> None:
        if told is None:
            self._calls.ask("outcome", worker, number)
        elif told["kind"] == "died":
            self._lose(worker, "worker_killed", told["detail"])
        else:
            self._finish_saving()
            self._stopped = worker.slot, number, Outcome(**{name: told[name] for name in ENDS})
            if told["kind"] != "stopped":  # else what it has saved is looked at first: it begins again with that
                self._end()

    def _begun(self, worker: Worker, number: int) -> None:
        self._calls.ask("outcome", worker, number)
        if self._attempts.pausing:  # asked for before there was anything to stop
            self._calls.ask("end_command", worker)
        self._saving = Saving(
            self._fetcher(worker, number), self._saved, partial(self._keep, worker), every_s=self._save_every_s
        )

    def _end(self) -> None:
        """Tell the machine how the try ended."""
        assert self._stopped is not None
        (slot, number, outcome), self._stopped = self._stopped, None
        self._do(self._attempts.ended(slot, number, outcome))

    def _failed(self, worker: Worker, answer: Json) -> None:
        if answer["kind"] == "import":  # the customer's files: they unpack nowhere
            self._halt = Halt("failed", "import", detail_of(answer))
        else:
            self._lose(worker, "worker_lost", detail_of(answer))

    def _look_at_files(self) -> None:
        """What is done in the background."""
        if self._restoring is not None and self._restoring[1].done:
            (decision, restoring), self._restoring = self._restoring, None
            self._ask_to_begin(decision, restoring.content)
        if self._stopped is not None and (self._saving is None or self._saving.done):
            self._end()
        self._look_at_artifacts()

    def _look_at_artifacts(self) -> None:
        if self._gathering is None or not self._gathering[1].done:
            return
        (slot, gathering), self._gathering = self._gathering, None
        found, worker = gathering.found, self._roster.get(slot)
        if found is None:
            if worker is not None:
                self._lose(worker, "worker_lost", gathering.why)
            return
        for pattern in found.unmatched:
            self._say(f"artifacts: nothing matches {pattern!r}")
        if found.left_out:
            self._say(f"artifacts: {counted(found.left_out, 'file')} could not be kept")
        self._say(f"artifacts: {counted(len(found.files), 'file')}, {found.total_bytes:,} bytes")
        self._do(self._attempts.collected(slot, gathering.manifest))

    def _lose(self, worker: Worker, reason: str, detail: str) -> None:
        self._roster.remove(worker.slot)
        self._report_lost(worker, reason, detail)
        self._forget(worker.slot, reason)

    def _forget(self, slot: int, why: str) -> None:
        self._calls.forget(slot)
        self._finish_saving()
        self._gathering = self._restoring = self._stopped = None
        if self._attempts.phase != "over":
            self._say(f"{self._met[slot].provider} is lost ({why}): the command begins again elsewhere")
        self._do(self._attempts.lost(slot))

    def _report_lost(self, worker: Worker, reason: str, detail: str) -> None:
        log.info("lost %s: %s, %s", worker.name, reason, detail)
        body = {"lease": worker.lease, "epoch": worker.epoch, "reason": reason, "detail": detail[:2000]}
        self._outbox.put_readings(lost=[body])

    # decisions of the machine

    def _do(self, decisions: Decisions) -> None:
        for decision in decisions:
            log.info("%s", decision.why)
            if isinstance(decision, Begin):
                self._begin(decision)
            elif isinstance(decision, Stop):
                self._say(decision.why)
                self._stop(decision.slot)
            elif isinstance(decision, Collect):
                self._collect(decision.slot)
            elif isinstance(decision, Report):
                self._say(decision.why)
                self._report(decision)
            else:
                assert isinstance(decision, Over)
                self.manifest = decision.manifest
                self._halt = Halt(decision.state, decision.reason, decision.why)

    def _begin(self, decision: Begin) -> None:
        self._say(f"{self._met[decision.slot].provider}: {decision.why}")
        if decision.slot in self._used or self._saved is None or not self._saved.files:
            self._ask_to_begin(decision, None)
        else:
            self._restoring = decision, Restoring(self._saved, self._door)

    def _ask_to_begin(self, decision: Begin, checkpoint: bytes | None) -> None:
        worker = self._met[decision.slot]
        self._used.add(decision.slot)
        if checkpoint is not None and self._saved is not None:
            files = counted(len(self._saved.files), "file")
            self._say(f"TORG_CHECKPOINT_DIR has what was saved: {files}, {self._saved.total_bytes:,} bytes")
        order = {"job": self._job, "number": decision.number, "restarts": decision.restarts}
        order |= {name: self._spec[name] for name in ("command", "data")}
        parcel = None if checkpoint is None else self._transport.parcel(checkpoint)
        self._calls.ask("begin", worker, order, self._workdir, self._data, parcel)

    def _stop(self, slot: int) -> None:
        worker = self._roster.get(slot)
        if self._restoring is not None:  # it has not begun
            self._restoring = None
            self._do(self._attempts.ended(slot, self._attempts.number, Outcome("stopped")))
        elif worker is not None:
            self._calls.ask("end_command", worker)

    def _collect(self, slot: int) -> None:
        self._gathering = slot, Gathering(self._fetcher(self._met[slot], self._attempts.number))

    def _fetcher(self, worker: Worker, number: int) -> Fetcher:
        return Fetcher(
            job=self._job, number=number, worker=worker, door=self._door, transport=self._transport,
            is_there=lambda: self._roster.get(worker.slot) is worker,
        )  # fmt: skip

    def _keep(self, worker: Worker, saved: Artifacts, manifest: str) -> None:
        """The market is to know what was saved. Called by a thread of `Saving`."""
        self._saved = saved
        body = {"job": self._job, "number": saved.number, "lease": worker.lease, "epoch": worker.epoch}
        self._outbox.put("save", {**body, "manifest": manifest, "bytes": saved.total_bytes})

    def _finish_saving(self) -> None:
        if self._saving is not None:
            self._saving.finish()

    def _report(self, report: Report) -> None:
        worker, outcome = self._met[report.slot], report.outcome
        body = {"job": self._job, "number": report.number, "lease": worker.lease, "epoch": worker.epoch}
        body |= {name: getattr(outcome, name) for name in ("kind", "code", "signal", "duration_ms")}
        self._outbox.put("attempt", {**body, "detail": report.why[:2000], "manifest": report.manifest})

    def _say(self, text: str) -> None:
        """A line of the job's log."""
        at_ms = self._wall_ms()
        lines = [{"at_ms": at_ms, "source": "run", "line": f"[torg: {line}]"} for line in text.splitlines()]
        self._outbox.put_readings(logs=lines)
