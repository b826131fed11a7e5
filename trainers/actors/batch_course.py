"""Drives a batch job's command: asks the pure machine in `trainers.attempts` what to do, does it, tells it what came of it.

One thread, and nothing here waits long: an answer to come is a call in progress. The counterpart of `Course` for jobs that
are a command; `Run` drives either.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from storage.saved import Saved
from storage.units import counted
from trainers.actors.calls import Calls
from trainers.actors.failures import Halt, detail_of
from trainers.actors.gathering import Fetcher, Gathering
from trainers.actors.outbox import Outbox
from trainers.actors.roster import Roster, Worker
from trainers.actors.saves import Restoring, Saving
from trainers.actors.transport import Gone, Transport
from trainers.actors.wiring import Door
from trainers.attempts import (
    DEATHS,
    SOON_MS,
    UNBUILT,
    Attempts,
    Begin,
    Collect,
    Decisions,
    Outcome,
    Over,
    Report,
    Stop,
)

log = logging.getLogger(__name__)

Json = dict[str, Any]

LOOK_S = 0.2
SAVE_EVERY_S = 2.0
ENDS = ("kind", "code", "signal", "duration_ms", "detail", "tail")


class BatchCourse:
    """One attempt of the market's at a batch job, from what its directive says until it halts.

    Args:
        directive: of the job, when the run began. workdir, data: tars, as the spec names them. saved: what the command
            has saved so far. save_every_s: how often, at most, a running one is looked at for that.
        clock: monotonic seconds; wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self, *, job: str, directive: Json, workdir: bytes | None, data: bytes | None, transport: Transport, outbox: Outbox,
        roster: Roster, door: Door, wall_ms: Callable[[], int], saved: Saved | None = None,
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
            deaths=directive["deaths"],
        )  # fmt: skip
        self._met: dict[int, Worker] = {}
        self._saved, self._save_every_s = saved, save_every_s
        self._saved_before: Saved | None = saved
        self._gathering: tuple[int, Gathering] | None = None
        self._restoring: tuple[Begin, Restoring] | None = None
        self._saving: Saving | None = None
        self._stopped: tuple[int, int, Outcome] | None = None
        self._used: set[int] = set()
        self._dismissed: list[Worker] = []
        self._clock, self._began_at = clock, 0.0
        self._has_saved = threading.Event()
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
            self._forget(slot, reason, f"{reason}: {detail}")

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
        elif told["kind"] == UNBUILT:
            self._unbuilt(worker, told["detail"])
        else:
            self._finish_saving()
            self._stopped = worker.slot, number, Outcome(**{name: told[name] for name in ENDS})
            if told["kind"] != "stopped":  # else what it has saved is looked at first: it begins again with that
                self._end()

    def _unbuilt(self, worker: Worker, why: str) -> None:
        """Its machine could not build the environment: another one may."""
        self._finish_saving()
        decisions = self._attempts.unbuilt(worker.slot, worker.provider, why)
        self._say(f"{worker.provider} cannot build the environment ({why})")
        self._lose(worker, "failed_to_start", f"it could not build the environment: {why}")
        self._do(decisions)

    def _begun(self, worker: Worker, number: int) -> None:
        self._calls.ask("outcome", worker, number)
        if self._attempts.pausing:  # asked for before there was anything to stop
            self._calls.ask("end_command", worker)
        self._saving = Saving(
            self._fetcher(worker, number),
            self._saved,
            partial(self._keep, worker),
            self._say,
            every_s=self._save_every_s,
        )

    def _end(self) -> None:
        """Tell the machine how the try ended."""
        assert self._stopped is not None
        (slot, number, outcome), self._stopped = self._stopped, None
        self._roster.last_readings()  # the job's log has all that came from there before it has how that ended
        if outcome.kind == "stopped":
            self._dismiss(slot)
            if not self._attempts.pausing:
                self._say(f"the lease of {self._met[slot].provider} is over: the command begins again elsewhere")
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
            self._restored(decision, restoring)
        if self._stopped is not None and (self._saving is None or self._saving.done):
            self._end()
        self._look_at_artifacts()
        if self._dismissed and self._outbox.wait_empty(0):  # the market knows all that came from there
            for worker in self._dismissed:
                self._transport.ask(worker.handle, "dismiss")
            self._dismissed.clear()

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
            self._say(f"artifacts: {counted(found.left_out, 'file')} could not be kept (links, pipes, odd names, or too many)")
        self._say(f"artifacts: {counted(len(found.files), 'file')}, {counted(found.total_bytes, 'byte')}")
        self._do(self._attempts.collected(slot, gathering.manifest))

    def _lose(self, worker: Worker, reason: str, detail: str) -> None:
        self._roster.remove(worker.slot)
        self._report_lost(worker, reason, detail)
        self._forget(worker.slot, reason)

    def _forget(self, slot: int, reason: str, why: str = "") -> None:
        self._calls.forget(slot)
        if slot != self._attempts.slot:  # told late: the command begins elsewhere already
            return
        self._finish_saving()
        died = self._died(slot, reason)
        self._gathering = self._restoring = self._stopped = None
        if self._attempts.phase != "over":
            decisions = self._attempts.lost(slot, died)
            then = "" if self._attempts.phase == "over" else ": the command begins again elsewhere"
            self._say(f"{self._met[slot].provider} is lost ({why or reason}){then}")
            self._do(decisions)

    def _died(self, slot: int, reason: str) -> str:
        """Whose machine it was that died soon after the command began there, if that is what happened."""
        soon = 1000 * (self._clock() - self._began_at) < SOON_MS
        if self._has_saved.is_set() or (reason in DEATHS and not soon):
            self._attempts.progressed()
        return self._met[slot].provider if reason in DEATHS and soon and not self._has_saved.is_set() else ""

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
                for slot in self.slots():
                    self._dismiss(slot)
                self._halt = Halt(decision.state, decision.reason, decision.why)

    def _begin(self, decision: Begin) -> None:
        if decision.slot in self._used or self._saved is None or not self._saved.files:
            self._ask_to_begin(decision, None)
        else:
            worker = self._met[decision.slot]
            self._restoring = decision, Restoring(self._saved, self._fetcher(worker, decision.number))

    def _restored(self, decision: Begin, restoring: Restoring) -> None:
        assert self._saved is not None
        worker = self._met[decision.slot]
        if restoring.lost:
            self._lose(worker, "worker_lost", restoring.lost)
        elif restoring.why:
            self._say(f"what was saved cannot be read ({restoring.why}): TORG_CHECKPOINT_DIR is empty")
            self._ask_to_begin(decision, None)
        else:
            files, size = counted(len(self._saved.files), "file"), counted(self._saved.total_bytes, "byte")
            self._ask_to_begin(decision, self._saved, f"TORG_CHECKPOINT_DIR has what was saved: {files}, {size}")

    def _ask_to_begin(self, decision: Begin, saved: Saved | None, further: str = "") -> None:
        """The worker says what this run would say, if it does begin: a run that was replaced may only go on with it."""
        worker = self._met[decision.slot]
        self._used.add(decision.slot)
        self._has_saved.clear()
        self._began_at = self._clock()
        order = {"job": self._job, "number": decision.number, "restarts": decision.restarts}
        order["says"] = _lines(f"{worker.provider}: {decision.why}") + _lines(further)
        order |= {name: self._spec[name] for name in ("command", "data")}
        told = None if saved is None else saved.to_json()
        self._calls.ask("begin", worker, order, self._workdir, self._data, told)

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

    def _keep(self, worker: Worker, saved: Saved, manifest: str) -> None:
        """The market is to know what was saved. Called by a thread of `Saving`."""
        self._saved_before, self._saved = self._saved, saved
        self._has_saved.set()
        body = {"job": self._job, "number": saved.number, "lease": worker.lease, "epoch": worker.epoch}
        self._outbox.put("save", {**body, "manifest": manifest, "bytes": saved.total_bytes})

    def save_refused(self, code: str) -> None:
        """The market did not take what was saved last: what was saved before it is what counts. From any thread."""
        self._saved = self._saved_before
        if self._saving is not None:
            self._saving.refused(self._saved)
        self._say(f"what TORG_CHECKPOINT_DIR has now was not kept ({code}); what was saved before stays")

    def _dismiss(self, slot: int) -> None:
        """Let a provider that drains go on, once the market knows what came from its worker."""
        worker = self._roster.get(slot)
        if worker is not None:
            self._dismissed.append(worker)

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
        self._outbox.put_readings(logs=[{"at_ms": at_ms, "source": "run", "line": line} for line in _lines(text)])


def _lines(text: str) -> list[str]:
    return [f"[torg: {line}]" for line in text.splitlines()]
