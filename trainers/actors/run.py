"""What a RunActor does: finds out where its job stands, then drives it until it halts. A plain class.

1. Read the directive; fetch code and data from the market once.
2. Ask the living workers where they stand (a merged round counts, adopted or not). The newest round that is
   believed (`trainers.standings`) is where the run goes on; the others take it over. With nobody left it goes on from the durable checkpoint.
3. Tell the market of rounds that a predecessor committed and could not report.
4. Rounds, until done, paused, stopped or failed; then make the last round durable and say how it ended.

A job that is a command has no rounds: its worker begins it, or goes on with it, and the run waits for its end.

Its loop begins in the constructor, so that a restart by Ray (after SIGKILL, for example) needs no caller.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from storage.parts import Parts
from storage.saved import Saved, SavedError
from trainers import rounds as machine
from trainers.actors.answers import BadAnswer, checked_state
from trainers.actors.batch_course import BatchCourse
from trainers.actors.course import Course, Halt
from trainers.actors.durability import restored_from
from trainers.actors.keeper import Keeper
from trainers.actors.outbox import Outbox, Report
from trainers.actors.plans import plan_of
from trainers.actors.reports import recovered_report
from trainers.actors.roster import Roster, Worker
from trainers.actors.transport import CallFailed, Gone, RayTransport, Transport
from trainers.actors.wiring import Door, DoorAway, DoorRefused
from trainers.mesh.wire import SECRET_BYTES
from trainers.restoring import NothingRestorable
from trainers.standings import agree, place

log = logging.getLogger(__name__)

Json = dict[str, Any]
Found = TypeVar("Found")

POLL_S = 4.0
PAUSE_AWAY_S = 0.3
STATE_TIMEOUT_S = 3.0
CRASH_PAUSE_S = 1.0
MISSING_S = 3.0
FLUSH_S = 600.0


class Run:
    """One attempt at one job. `reading_every_s`, `lost_after_s`: how often a worker is asked, and when it is lost."""

    def __init__(
        self,
        *,
        job: str,
        attempt: int,
        door: Door,
        log_folder: str,
        reading_every_s: float = 0.5,
        lost_after_s: float = 3.0,
        first_deadline_ms: int = 120_000,
        grace_ms: int = 5_000,
    ) -> None:
        _log_to(Path(log_folder) / f"run-{job}.log")
        threading.excepthook = _crash
        self._job = job
        self._attempt = attempt
        self._door = door
        self._reading_every_s = reading_every_s
        self._lost_after_s = lost_after_s
        self._first_deadline_ms = first_deadline_ms
        self._grace_ms = grace_ms
        self._transport: Transport = RayTransport()
        self._directive: Json = {}
        self._missing: dict[int, float] = {}
        self._directive_changed = threading.Event()
        threading.Thread(target=self._work, name="run", daemon=True).start()

    def ping(self) -> int:
        """This process's id."""
        return os.getpid()

    def _work(self) -> None:
        log.info("run of %s begins in process %s", self._job, os.getpid())
        self._run()
        log.info("run of %s is over", self._job)

    def _run(self) -> None:
        directive = self._patiently(lambda: self._door.directive(self._job, wait_s=0, seen=None))
        if not self._is_ours(directive):
            return
        if "command" in directive["spec"]:
            self._run_command(directive)
            return
        spec, durable = directive["spec"], directive["durable"]
        keepers: list[Keeper] = []
        outbox = Outbox(self._job, os.getpid(), self._door, lambda report, _: _refused(report, keepers))
        keeper = Keeper(
            job=self._job, spec=spec, door=self._door, transport=self._transport, outbox=outbox, wall_ms=wall_ms
        )
        keepers.append(keeper)
        if durable is not None:
            keeper.resume(durable)
        if durable is not None and keeper.durable_step >= spec["steps"]:
            self._tell_end(
                outbox, Halt("done", "done", "all rounds are durable"), keeper.durable_round, keeper.manifest
            )
            return
        living, recent, liars = self._find_living(directive)
        try:
            at, durable_at = self._find_place(keeper, living, directive["rounds_committed"])
        except NothingRestorable as lost:
            self._tell_end(outbox, Halt("failed", "checkpoint_lost", str(lost)), keeper.durable_round, keeper.manifest)
            return
        self._tell_missed(outbox, directive, recent, at.round)
        log.info(
            "Deciding to go on from round %s since %s living workers hold it or it is durable", at.round, len(living)
        )
        roster = self._roster(outbox)
        course = Course(
            job=self._job,
            spec=spec,
            source=self._blob(spec["workload"]),
            data=self._blob(spec["data"]),
            transport=self._transport,
            outbox=outbox,
            roster=roster,
            keeper=keeper,
            rounds=machine.Rounds(self._plan(spec), at=at, durable=durable_at),
            tuning=directive.get("tuning", 0),
            secret=secrets.token_bytes(SECRET_BYTES),
            plan=self._plan,
        )
        for worker, why in liars:
            course.give_up(worker, "stale", why)
        course.resume(living)
        halt = self._follow(directive, course)
        if halt is not None:
            roster.last_readings()
            self._tell_end(outbox, halt, keeper.durable_round, keeper.manifest)

    def _run_command(self, directive: Json) -> None:
        spec, courses = directive["spec"], list[BatchCourse]()
        outbox = Outbox(self._job, os.getpid(), self._door, lambda report, code: _save_refused(report, code, courses))
        roster = self._roster(outbox)
        course = BatchCourse(
            job=self._job, directive=directive, workdir=self._workdir(spec["command"]["workdir"] or {}),
            data=self._blob(spec["data"]), transport=self._transport, outbox=outbox, roster=roster, door=self._door,
            wall_ms=wall_ms, saved=self._saved(directive["saved"]),
        )  # fmt: skip
        courses.append(course)
        halt = self._follow(directive, course)
        if halt is not None:
            roster.last_readings()
            self._tell_end(outbox, halt, 0, course.manifest)

    def _saved(self, manifest: str | None) -> Saved | None:
        """What the command has saved; None when that is nothing, or cannot be read."""
        if manifest is None:
            return None
        try:
            return Saved.decode(self._patiently(lambda: self._door.read_blob(manifest)))
        except (DoorRefused, SavedError):
            log.exception("what was saved cannot be read")
            return None

    def _roster(self, outbox: Outbox) -> Roster:
        return Roster(self._transport, outbox, every_s=self._reading_every_s, lost_after_s=self._lost_after_s)

    def _follow(self, directive: Json, course: Course | BatchCourse) -> Halt | None:
        """Drive the course by this directive and all that come after it."""
        self._set_directive(directive)
        threading.Thread(target=self._poll, args=(directive["version"],), name="directive", daemon=True).start()
        return self._drive(course)

    def _drive(self, course: Course | BatchCourse) -> Halt | None:
        """Until the course halts, or (None) until the market wants this run no longer."""
        while True:
            if self._directive_changed.is_set():
                self._directive_changed.clear()
                directive = self._directive
                if not self._is_ours(directive):
                    log.info("the job is %s, wanted %s: nothing more to do", directive["state"], directive["wanted"])
                    return None
                self._apply(course, directive)
            halt = course.advance()
            if halt is not None:
                return halt

    def _apply(self, course: Course | BatchCourse, directive: Json) -> None:
        listed = {lease["slot"] for lease in directive["leases"]}
        ended = {lease["slot"]: lease for lease in directive["ended"]}
        for slot in course.slots():
            if slot not in listed:
                why = ended.get(slot, {})
                course.leave(slot, why.get("reason", "released"), why.get("detail") or "the market ended the lease")
        for lease in directive["leases"]:
            if lease["worker"] is None or course.knows(lease["slot"]):
                continue
            handle = self._transport.find(lease["worker"])
            if handle is not None:
                course.welcome(_worker(lease, handle))
            elif not self._miss(course, lease):
                threading.Timer(PAUSE_AWAY_S, self._directive_changed.set).start()
        course.retune(directive["spec"], directive.get("tuning", 0))
        if directive["wanted"] == "pause":
            course.pause(directive["reason"])

    def _miss(self, course: Course | BatchCourse, lease: Json) -> bool:
        """A worker that Ray does not know, perhaps not yet; True once it is given up and reported."""
        now = time.monotonic()
        if now - self._missing.setdefault(lease["epoch"], now) < MISSING_S:
            return False
        # A node that this cluster never saw belonged to the head before: nobody but the market is to blame.
        reason = "worker_lost" if self._transport.has_met(lease["node"]) else "head_lost"
        course.give_up(_worker(lease, None), reason, "the worker is not to be found")
        return True

    def _is_ours(self, directive: Json) -> bool:
        return directive["state"] == "running" and directive["run"] == self._attempt and directive["wanted"] != "stop"

    # where the job stands

    def _find_living(
        self, directive: Json
    ) -> tuple[list[Worker], dict[int, dict[int, Json]], list[tuple[Worker, str]]]:
        """Workers that have loaded this job, each at the round that it says; what they tell of their recent rounds by
        (round, slot); and workers whose word cannot be true, and why.
        """
        workers, calls = {}, {}
        for lease in directive["leases"]:
            handle = self._transport.find(lease["worker"]) if lease["worker"] is not None else None
            if handle is not None:
                workers[lease["slot"]] = _worker(lease, handle)
                calls[lease["slot"]] = self._transport.ask(handle, "state")
        states: dict[int, Json] = {}
        lies: dict[int, str] = {}
        until = time.monotonic() + STATE_TIMEOUT_S
        while calls and time.monotonic() < until:
            for slot, answer in self._transport.answers(calls, until - time.monotonic()).items():
                del calls[slot]
                if isinstance(answer, Gone | CallFailed):
                    continue
                try:
                    states[slot] = checked_state(answer)
                except BadAnswer as bad:
                    lies[slot] = str(bad)
        living: list[Worker] = []
        recent: dict[int, dict[int, Json]] = {}
        for slot, state in states.items():
            worker = workers[slot]
            if state.get("epoch") == worker.epoch and state.get("round") is not None and state.get("phase") != "failed":
                worker.at = machine.Standing(state["round"], state["step"], state["position"])
                worker.digest, worker.strategy = state["digest"], state["strategy"]
                living.append(worker)
        lies |= agree({worker.slot: worker.at for worker in living}, committed=directive["rounds_committed"]).liars
        living = [worker for worker in living if worker.slot not in lies]
        for worker in living:
            for done in states[worker.slot]["recent"]:
                recent.setdefault(done["round"], {})[worker.slot] = {**done, "worker": worker}
        return living, recent, [(workers[slot], why) for slot, why in sorted(lies.items())]

    def _tell_missed(
        self, outbox: Outbox, directive: Json, recent: Mapping[int, Mapping[int, Json]], newest: int
    ) -> None:
        for number in range(directive["rounds_committed"] + 1, newest + 1):
            report = recovered_report(self._job, number, recent.get(number, {}))
            if report is None:
                log.error("nobody remembers round %s", number)
                return
            outbox.put("round", report)

    def _find_place(
        self, keeper: Keeper, living: list[Worker], committed: int
    ) -> tuple[machine.Standing, machine.Standing]:
        """(newest, durable) states. The durable one is opened only when nobody who is believed is further."""
        at = agree({worker.slot: worker.at for worker in living}, committed=committed).at
        durable = machine.Standing(keeper.durable_round, keeper.durable_step, 0)
        if at.round <= durable.round and durable.round > 0:
            at = durable = restored_from(keeper).at
        for worker in living:
            stands = place(worker.at, at)
            if stands != worker.at:
                log.info("%s says that it holds round %s; going on without it", worker.name, worker.at.round)
                worker.at, worker.digest = stands, None
        return at, durable if durable.round > 0 else machine.START

    def _plan(self, spec: Json) -> machine.RoundPlan:
        return plan_of(spec, first_deadline_ms=self._first_deadline_ms, grace_ms=self._grace_ms)

    # the market

    def _poll(self, seen: str | int) -> None:
        while True:
            try:
                directive = self._door.directive(self._job, wait_s=POLL_S, seen=seen)
            except DoorAway:
                time.sleep(PAUSE_AWAY_S)
                continue
            if directive["version"] != seen:
                seen = directive["version"]
                self._set_directive(directive)

    def _set_directive(self, directive: Json) -> None:
        self._directive = directive
        self._directive_changed.set()

    def _tell_end(self, outbox: Outbox, halt: Halt, round: int, manifest: str | None) -> None:
        log.info("halted: %s, %s: %s", halt.state, halt.reason, halt.detail)
        outbox.put(
            "halted",
            {
                "state": halt.state,
                "reason": halt.reason,
                "detail": halt.detail[-4000:],
                "round": round,
                "manifest": manifest,
                "run": self._attempt,
            },
        )
        if not outbox.wait_empty(FLUSH_S):
            log.warning("the market has been away for %s s since the end; the run is repeated", FLUSH_S)
            os._exit(1)

    def _blob(self, source: Json) -> bytes | None:
        digest = source.get("digest")
        if digest is None:
            return None
        return self._patiently(lambda: self._door.read_blob(digest))

    def _workdir(self, source: Json) -> bytes | None:
        """The tar, of its parts where it has some."""
        content = self._blob(source)
        if content is None or "parts" not in source:
            return content
        return Parts.decode(content).join(lambda digest: self._patiently(lambda: self._door.read_blob(digest)))

    def _patiently(self, question: Callable[[], Found]) -> Found:
        while True:
            try:
                return question()
            except DoorAway:
                time.sleep(PAUSE_AWAY_S)
            except DoorRefused:
                log.exception("the market refuses")
                raise


def _refused(report: Report, keepers: Sequence[Keeper]) -> None:
    """A checkpoint that the market declined is no base for what follows."""
    if report.kind == "checkpoint":
        for keeper in keepers:
            keeper.rebase()


def _save_refused(report: Report, code: str, courses: Sequence[BatchCourse]) -> None:
    """What the market did not take is not what the next machine gets."""
    if report.kind == "save":
        for course in courses:
            course.save_refused(code)


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _worker(lease: Json, handle: Any) -> Worker:
    return Worker(
        lease=lease["id"],
        epoch=lease["epoch"],
        slot=lease["slot"],
        provider=lease["provider"],
        name=lease["worker"],
        handle=handle,
        meter_key=lease.get("meter_key", ""),
    )


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("trainers")
    root.handlers = [handler]
    root.setLevel(logging.INFO)


def _crash(ended: threading.ExceptHookArgs) -> None:
    """A thread that ends by a bug ends the process, so that Ray starts the run again instead of leaving it deaf."""
    log.critical("the run crashed; it is restarted", exc_info=ended.exc_value)
    time.sleep(CRASH_PAUSE_S)
    os._exit(1)
