"""Drives one run: asks the pure machine in `trainers.rounds` what to do, does it, and tells it what came of it.

One thread. Everything that may take long is a call in progress; nothing here waits for one worker while others could go
on, but for two short things at a boundary: setting a snapshot aside and taking a donor's state.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from trainers import rounds as machine
from trainers.actors.calls import Calls
from trainers.actors.keeper import Keeper
from trainers.actors.outbox import Outbox
from trainers.actors.reports import market_reason, round_report
from trainers.actors.roster import Roster, Worker
from trainers.actors.transport import Call, CallFailed, Gone, Parcel, Transport

log = logging.getLogger(__name__)

Json = dict[str, Any]

LOOK_S = 0.2
BOUNDARY_S = 10.0
EVALUATE_S = 300.0
SAME_PLACE_DEATHS = 3
CUSTOMER_FAILURES = frozenset({"exception", "nan", "shape", "memory", "import"})


@dataclass(frozen=True, slots=True)
class Halt:
    """How a run ended: state done, paused or failed, with the market's reason."""

    state: str
    reason: str
    detail: str


class CustomerFailed(Exception):
    """The customer's code cannot go on; ends the run."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class Course:
    """One attempt at a job, from the state that it found until it halts. `clock`: monotonic seconds."""

    def __init__(
        self,
        *,
        job: str,
        spec: Json,
        source: bytes | None,
        data: bytes | None,
        transport: Transport,
        outbox: Outbox,
        roster: Roster,
        keeper: Keeper,
        rounds: machine.Rounds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job = job
        self._spec = spec
        self._transport = transport
        self._outbox = outbox
        self._roster = roster
        self._keeper = keeper
        self._rounds = rounds
        self._clock = clock
        self._source = transport.parcel(source) if source is not None else None
        self._data = transport.parcel(data) if data is not None else None
        self._calls = Calls(transport, clock)
        self._orders: dict[int, Json] = {}
        self._checkpoint: tuple[int, bytes] | None = None
        self._deaths: dict[int, set[int]] = defaultdict(set)
        self._void_round = 0
        self._over: machine.Finished | machine.Halted | None = None
        self._met: dict[int, Worker] = {}
        self._reached = False

    def resume(self, workers: Iterable[Worker]) -> None:
        """Take over workers that have loaded the job already (a predecessor's)."""
        for worker in workers:
            worker.phase = "ready"
            self._meet(worker)
        members = [machine.Member(one.slot, one.epoch, one.name, one.at_round) for one in self._roster.all()]
        self._do(self._rounds.resume(members, self._now_ms()))

    def welcome(self, worker: Worker) -> None:
        """A newcomer loads the job while the others go on, and joins at a boundary."""
        self._meet(worker)
        self._calls.ask("load", worker, self._spec, self._source, self._data)

    def slots(self) -> list[int]:
        """Slots of everybody who is alive as far as is known."""
        return [worker.slot for worker in self._roster.all()]

    def knows(self, slot: int) -> bool:
        """Whether this slot's worker has been met, living or not."""
        return slot in self._met

    def leave(self, slot: int, reason: str) -> None:
        """The market has ended this lease."""
        worker = self._roster.remove(slot)
        if worker is not None:
            self._forget(worker, Gone(reason, "the market ended the lease"))

    def give_up(self, worker: Worker, reason: str, detail: str) -> None:
        """This lease's worker was never met and will not be."""
        self._met[worker.slot] = worker
        self._report_lost(worker, reason, detail)

    def pause(self, why: str) -> None:
        """Finish the round in progress, make it durable, halt."""
        self._do(self._rounds.stop(why, self._now_ms()))

    def advance(self) -> Halt | None:
        """Do what is due, waiting a little when nothing is; the end of the run once it is there."""
        try:
            for worker, gone in self._roster.take_losses():
                self._report_lost(worker, gone.reason, gone.detail)
                self._forget(worker, gone)
            self._take_answers()
            self._rounds.durable(self._keeper.durable_round)
            self._look_at_loss()
            self._do(self._rounds.tick(self._now_ms()))
            return self._conclude() if self._over is not None else None
        except CustomerFailed as failed:
            return Halt("failed", failed.reason, failed.detail)

    def _look_at_loss(self) -> None:
        wanted, reached = self._spec.get("until_loss"), self._roster.lowest_loss
        if wanted is not None and reached is not None and reached <= wanted and not self._reached:
            self._reached = True
            self.pause(f"the held-out loss is {reached:.4f}, and {wanted} was wanted")

    # answers of workers

    def _take_answers(self) -> None:
        self._calls.start_repeats()
        if not self._calls:
            self._roster.changed.wait(LOOK_S)
            return
        for kind, slot, answer in self._calls.take(LOOK_S):
            worker = self._roster.get(slot)
            if worker is None:
                continue
            if isinstance(answer, Gone) and answer.reason == "network_cut":
                # Perhaps the call arrived and perhaps not; calls may be repeated. The roster says when to give up.
                self._calls.repeat(kind, slot)
            elif isinstance(answer, Gone):
                self._lose(worker, answer.reason, answer.detail)
            elif isinstance(answer, CallFailed):
                self._call_failed(kind, worker, answer)
            elif not answer["ok"]:
                self._failed(worker, answer)
            else:
                self._answered(kind, worker, answer)

    def _answered(self, kind: str, worker: Worker, answer: Json) -> None:
        now_ms, slot, epoch, number = self._now_ms(), worker.slot, worker.epoch, self._rounds.round + 1
        if kind == "load":
            worker.phase, worker.at_round = "ready", answer["round"]
            self._join(worker)
        elif kind == "restore":
            self._calls.train(worker, self._orders[slot])
        elif kind == "train":
            worker.info = answer
            self._do(self._rounds.contributed(slot, epoch, answer["round"], now_ms))
        elif kind == "hold":
            self._do(self._rounds.held(slot, epoch, number, answer["slots"], now_ms))
        else:
            assert kind == "commit"
            worker.info = {**worker.info, "leased_ms": answer["leased_ms"], "total_trained_ms": answer["trained_ms"]}
            self._do(self._rounds.committed(slot, epoch, answer["round"], answer["digest"], now_ms))

    def _call_failed(self, kind: str, worker: Worker, failure: CallFailed) -> None:
        if kind == "hold":
            # A contribution went with its maker's node: the machine is about to hear of that and will pass the rest.
            log.info("%s could not hold everything: %s", worker.name, failure)
            return
        log.error("%s of %s failed: %s", kind, worker.name, failure)
        self._lose(worker, "worker_lost", str(failure)[-300:])

    def _failed(self, worker: Worker, answer: Json) -> None:
        kind, place = answer["kind"], self._rounds.round + 1
        detail = f"{answer['message']}\n{answer['traceback']}".strip()
        if kind in CUSTOMER_FAILURES:
            raise CustomerFailed(kind, f"slot {worker.slot}, round {place}: {detail}")
        if kind in {"died", "hang"}:
            self._deaths[place].add(worker.epoch)
            alone = len(self._rounds.members) <= 1 and kind == "hang"
            if len(self._deaths[place]) >= SAME_PLACE_DEATHS or alone:
                reason = "hang" if kind == "hang" else "exception"
                raise CustomerFailed(reason, f"{len(self._deaths[place])} workers ended in round {place}: {detail}")
        reasons = {"died": "worker_killed", "hang": "worker_slow", "drained": "drained", "stale": "stale"}
        self._lose(worker, reasons[kind], detail)

    def _meet(self, worker: Worker) -> None:
        self._met[worker.slot] = worker
        self._roster.add(worker)

    def _join(self, worker: Worker) -> None:
        member = machine.Member(worker.slot, worker.epoch, worker.name, worker.at_round)
        self._do(self._rounds.join(member, self._now_ms()))

    def _lose(self, worker: Worker, reason: str, detail: str) -> None:
        self._roster.remove(worker.slot)
        self._report_lost(worker, reason, detail)
        self._forget(worker, Gone(reason, detail))

    def _forget(self, worker: Worker, gone: Gone) -> None:
        self._calls.forget(worker.slot)
        self._do(self._rounds.lost(worker.slot, worker.epoch, gone.reason, gone.detail, self._now_ms()))

    def _report_lost(self, worker: Worker, reason: str, detail: str) -> None:
        log.info("lost %s: %s, %s", worker.name, reason, detail)
        body = {"lease": worker.lease, "epoch": worker.epoch, "reason": reason, "detail": detail[:2000]}
        self._outbox.put_readings(lost=[body])

    # decisions of the machine

    def _do(self, decisions: tuple[machine.Decision, ...]) -> None:
        for decision in decisions:
            log.info("%s", decision.why)
            if isinstance(decision, machine.StartRound):
                self._start_round(decision)
            elif isinstance(decision, machine.PassContributions):
                payloads = [self._calls.payloads[slot] for slot in decision.contributions]
                self._ask_all("hold", decision.to, decision.round, list(decision.contributions), *payloads)
            elif isinstance(decision, machine.CommitRound):
                self._ask_all("commit", decision.to, decision.round, list(decision.accepted))
            elif isinstance(decision, machine.RoundCommitted):
                self._committed(decision)
            elif isinstance(decision, machine.MemberLost):
                worker = self._roster.remove(decision.lost.slot)
                if worker is not None:  # the machine's own finding; others were reported when they were found
                    self._report_lost(worker, market_reason(decision.lost.reason), decision.lost.detail)
            elif isinstance(decision, machine.VoidRound):
                self._void_round = decision.round
                self._calls.forget_round()
            elif isinstance(decision, machine.Finished | machine.Halted):
                self._over = decision

    def _start_round(self, start: machine.StartRound) -> None:
        self._calls.payloads.clear()
        states = self._donated({entry.slot: entry.donor for entry in start.joining})
        for slot, deadline_ms in zip(start.slots, start.deadlines_ms, strict=True):
            worker = self._roster.get(slot)
            if worker is None:
                continue
            timeout_s = max(1.0, (deadline_ms - self._now_ms()) / 1000 - 0.5)
            self._orders[slot] = {
                "round": start.round,
                "first_step": start.first_step,
                "steps": start.steps,
                "evaluate": slot == start.evaluator,
                "timeout_s": timeout_s,
                "fresh": start.round == self._void_round,
            }
            if slot in states:
                self._calls.ask("restore", worker, states[slot])
            else:
                self._calls.train(worker, self._orders[slot])

    def _donated(self, donors: dict[int, int | None]) -> dict[int, Parcel]:
        """A state for every newcomer. Donors give theirs before they train on, so this waits for them, shortly."""
        exports: dict[int, Call] = {}
        for donor in {donor for donor in donors.values() if donor is not None}:
            worker = self._roster.get(donor)
            if worker is not None:
                exports[donor] = self._transport.ask(worker.handle, "export")
        waiting, until = dict(exports), self._clock() + BOUNDARY_S
        while waiting and self._clock() < until:
            for donor in self._transport.answers(waiting, until - self._clock()):
                del waiting[donor]
        return {slot: exports[donor] if donor in exports else self._durable_state() for slot, donor in donors.items()}

    def _durable_state(self) -> Parcel:
        if self._checkpoint is None or self._checkpoint[0] != self._keeper.durable_round:
            self._checkpoint = (self._keeper.durable_round, self._keeper.state())
        return self._transport.parcel(self._checkpoint[1])

    def _ask_all(self, method: str, to: tuple[int, ...], *arguments: Any) -> None:
        for slot in to:
            worker = self._roster.get(slot)
            if worker is not None:
                self._calls.ask(method, worker, *arguments)

    def _committed(self, done: machine.RoundCommitted) -> None:
        self._outbox.put("round", round_report(self._job, done, self._met))
        every = int(self._spec["checkpoint"]["every_rounds"])
        if (done.round % every == 0 or done.round >= self._rounds.plan.rounds) and not self._keeper.busy:
            self._snapshot(done.holders)

    # durability and the end

    def _snapshot(self, holders: Iterable[int]) -> bool:
        """Set the state aside at the first holder that answers, and begin to make it durable."""
        for slot in holders:
            worker = self._roster.get(slot)
            if worker is None:
                continue
            found = self._transport.answers({0: self._transport.ask(worker.handle, "snapshot")}, BOUNDARY_S).get(0)
            if isinstance(found, dict):
                staged = self._transport.ask(worker.handle, "staged", found["round"])
                self._keeper.keep(found, staged)
                return True
        return False

    def _conclude(self) -> Halt | None:
        """Everything that must be true before the run says that it has halted."""
        over = self._over
        assert over is not None
        if isinstance(over, machine.Halted) and over.failed:
            return Halt("failed", "diverged", over.why)
        if isinstance(over, machine.Finished):
            self._evaluate_last()
        if not self._make_durable(over.round):
            return None
        if isinstance(over, machine.Finished) or self._reached:
            return Halt("done", "done", over.why)
        return Halt("paused", "paused", over.why)

    def _make_durable(self, round: int) -> bool:
        """Whether the last round is durable, or as far as it can be with nobody left; False to try again."""
        self._keeper.wait(EVALUATE_S)
        if self._keeper.durable_round >= round:
            return True
        slots = [worker.slot for worker in self._roster.all() if worker.phase == "ready"]
        if not slots and isinstance(self._over, machine.Halted):
            return True
        if not slots:
            # Everybody went with the last rounds before these were durable: what is missing is trained again.
            durable = self._keeper.durable_round
            self._rounds = machine.Rounds(self._rounds.plan, round=durable, durable_round=durable)
            self._over = None
            return False
        if self._snapshot(slots):
            self._keeper.wait(EVALUATE_S)
        if self._keeper.durable_round >= round:
            return True
        time.sleep(LOOK_S)
        return False

    def _evaluate_last(self) -> None:
        """The held-out loss of the final parameters; whoever answers first in slot order."""
        for worker in self._roster.all():
            if worker.phase != "ready":
                continue
            call = self._transport.ask(worker.handle, "evaluate", EVALUATE_S)
            found = self._transport.answers({0: call}, EVALUATE_S).get(0)
            if isinstance(found, dict) and found["ok"]:
                return

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
