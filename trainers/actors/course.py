"""Drives one run: asks the pure machine in `trainers.rounds` what to do, does it, and tells it what came of it.

One thread. Everything that may take long is a call in progress; nothing here waits for one worker while others could go
on, but for one short thing at a boundary: setting a snapshot aside. Contributions do not pass through here.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from trainers import rounds as machine
from trainers.actors.calls import Calls
from trainers.actors.durability import Durability
from trainers.actors.failures import REMEDY, CustomerFailed, Failures, Halt, detail_of
from trainers.actors.keeper import Keeper
from trainers.actors.leaving import LEAVING
from trainers.actors.orders import Began, base_of, merge_order, prepare_order, train_order
from trainers.actors.outbox import Outbox
from trainers.actors.reports import market_reason, round_report
from trainers.actors.roster import Roster, Worker, heirs
from trainers.actors.transport import Gone, Transport
from trainers.evaluating import HeldOut
from trainers.restoring import NothingRestorable

__all__ = ["Course", "Halt"]

log = logging.getLogger(__name__)

Json = dict[str, Any]

LOOK_S = 0.2


class Course:
    """One attempt at a job, from the state that it found until it halts.

    Args:
        tuning: which of the job's strategies `spec` has. secret: 32 bytes by which this run's workers know each other.
        plan: makes a round plan of a spec. clock: monotonic seconds.
    """

    def __init__(
        self, *, job: str, spec: Json, tuning: int = 0, source: bytes | None, data: bytes | None, secret: bytes,
        transport: Transport, outbox: Outbox, roster: Roster, keeper: Keeper, rounds: machine.Rounds,
        plan: Callable[[Json], machine.RoundPlan], clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._job, self._spec, self._tuning, self._secret, self._plan = job, spec, tuning, secret, plan
        self._transport, self._outbox, self._roster = transport, outbox, roster
        self._rounds, self._clock = rounds, clock
        self._source, self._data = (None if one is None else transport.parcel(one) for one in (source, data))
        self._calls = Calls(transport, clock)
        self._durability = Durability(spec, transport, roster, keeper)
        self._orders: dict[int, Json] = {}
        self._strategy: Json = spec["strategy"]
        self._strategy_before = self._strategy
        self._resuming: set[int] = set()
        self._digest: str | None = None
        self._members: list[list[Any]] = []
        self._failures = Failures()
        self._void_round = 0
        self._voided: set[int] = set()  # whose last share is of a round that came to nothing
        self._accepted: list[int] = []
        self._run = hashlib.sha256(secret).hexdigest()[:16]
        self._start = 0  # which try of which round; numbers of rounds are used again after a void one
        self._held_out = HeldOut(spec)
        roster.on_loss = self._held_out.hear
        self._evaluated_round = -1
        self._over: machine.Finished | machine.Halted | None = None
        self._met: dict[int, Worker] = {}
        self._reached = False

    def resume(self, workers: Iterable[Worker]) -> None:
        """Take over workers that have loaded the job already (a predecessor's): they join this run's mesh, then all
        begin together.
        """
        for worker in workers:
            if worker.strategy is not None and worker.strategy != self._strategy:
                self._strategy = worker.strategy
                self._rounds.change(self._rounds.plan, alike=True)
            self._met[worker.slot] = worker
            self._roster.add(worker)
            self._resuming.add(worker.slot)
            self._calls.ask("connect", worker, self._secret)
        if not self._resuming:
            self._do(self._rounds.resume([], self._now_ms()))

    def welcome(self, worker: Worker) -> None:
        """A newcomer loads the job while the others go on, and joins at a boundary."""
        self._met[worker.slot] = worker
        self._roster.add(worker)
        self._calls.ask("load", worker, self._spec, self._source, self._data)

    def retune(self, spec: Json, tuning: int) -> None:
        """Another strategy from the next round on."""
        if tuning == self._tuning:
            return
        log.info("Deciding to go on with %s since the job was retuned", spec["strategy"])
        before, self._spec, self._tuning = self._rounds.plan, spec, tuning
        self._durability.follow(spec)
        plan = self._plan(spec)
        self._rounds.change(plan, alike=plan.every_step or not before.agrees)

    def slots(self) -> list[int]:
        """Slots of everybody who is alive as far as is known."""
        return [worker.slot for worker in self._roster.all()]

    def knows(self, slot: int) -> bool:
        """Whether this slot's worker has been met, living or not."""
        return slot in self._met

    def leave(self, slot: int, reason: str, detail: str) -> None:
        """The market has ended this lease."""
        worker = self._roster.remove(slot)
        if worker is not None:
            self._forget(worker, Gone(reason, detail))

    def give_up(self, worker: Worker, reason: str, detail: str) -> None:
        """This lease's worker was never met and will not be."""
        self._met[worker.slot] = worker
        self._report_lost(worker, reason, detail)

    def pause(self, why: str) -> None:
        """Finish the round in progress, make it durable, halt."""
        self._do(self._rounds.stop(why, self._now_ms()))

    @property
    def round(self) -> int:
        """Committed rounds."""
        return self._rounds.round

    def advance(self) -> Halt | None:
        """Do what is due, waiting a little when nothing is; the end of the run once it is there."""
        try:
            for worker, gone in self._roster.take_losses():
                self._report_lost(worker, gone.reason, gone.detail)
                self._forget(worker, gone)
            self._take_answers()
            self._durability.tell(self._rounds)
            self._look_at_loss()
            self._look_at_exchange()
            self._do(self._rounds.tick(self._now_ms()))
            halt = self._conclude() if self._over is not None else None
            return None if self._roster.changed.is_set() else halt  # who was lost meanwhile is told of first
        except CustomerFailed as failed:
            return Halt("failed", failed.reason, failed.detail)
        except NothingRestorable as lost:
            return Halt("failed", "checkpoint_lost", f"no checkpoint can be restored: {lost}")

    def _look_at_loss(self) -> None:
        if self._reached or (loss := self._held_out.reached({one.provider for one in self._roster.all()})) is None:
            return
        self._reached = True
        self.pause(f"the held-out loss is {loss:.4f}, and {self._spec['until_loss']} was wanted")

    def _look_at_exchange(self) -> None:
        """Whose bytes move has time; whom nobody reaches is found by those who wait for it."""
        now_ms, number = self._now_ms(), self._rounds.round + 1
        for worker in self._roster.all():
            if worker.has_moved():
                self._rounds.progressed(worker.slot, now_ms)
            elif worker.unreachable:
                missing, worker.unreachable = worker.unreachable, ()
                self._do(self._rounds.cannot_reach(worker.slot, worker.epoch, number, missing, now_ms))

    # answers of workers

    def _take_answers(self) -> None:
        for kind, worker, answer in self._calls.heard(self._roster, LOOK_S):
            if isinstance(answer, Gone):
                self._lose(worker, answer.reason, answer.detail)
            elif answer["ok"]:
                self._answered(kind, worker, answer)
            else:
                self._failed(kind, worker, answer)

    def _answered(self, kind: str, worker: Worker, answer: Json) -> None:
        now_ms, slot, epoch = self._now_ms(), worker.slot, worker.epoch
        if kind == "load":
            worker.at, worker.digest = machine.Standing(answer["round"], answer["step"], answer["position"]), None
            self._calls.ask("connect", worker, self._secret)
        elif kind == "connect":
            worker.phase, worker.address = "ready", answer["address"]
            self._prepare(worker)
        elif kind == "prepare":
            worker.at = machine.Standing(answer["round"], answer["step"], answer["position"])
            self._join(worker)
        elif kind == "recall" and not answer["found"]:
            self._calls.ask("restore", worker, *self._durability.restoration(slot, [one[0] for one in self._members]))
        elif kind in {"recall", "restore"}:
            self._ask_for_round(worker)
        elif kind == "train":
            worker.info = answer
            self._do(self._rounds.contributed(slot, epoch, answer["round"], now_ms))
        elif answer.get("left"):
            if answer["spoiled"]:
                self._spoiled(worker, answer["spoiled"])
            elif answer["why"] and worker.info:  # it trained, and could not merge
                self._do(self._rounds.skipped(slot, epoch, self._rounds.round + 1, answer["why"], now_ms))
        else:
            assert kind == "merge"
            worker.merged = answer
            worker.info = worker.info or answer["info"]  # what `train` answers may come after the round is committed
            refused = {int(other): why for other, why in answer["refused"].items()}
            self._do(
                self._rounds.merged(slot, epoch, answer["round"], answer["digest"], answer["accepted"], refused, now_ms)
            )

    def _spoiled(self, worker: Worker, what: str) -> None:
        number = self._orders[worker.slot]["round"]
        self._do(self._rounds.spoiled(worker.slot, worker.epoch, number, what[:500], self._now_ms()))

    def _failed(self, call: str, worker: Worker, answer: Json) -> None:
        place, kind = self._rounds.round + 1, answer["kind"]
        if kind == "nan" and call == "train":
            self._spoiled(worker, answer["message"])
        elif call == "prepare" and kind in {"no_donor", "stale"}:
            self._join(worker)  # it takes the state over at the boundary, as the others wait for it
        elif kind == "no_donor":
            self._do(self._rounds.skipped(worker.slot, worker.epoch, place, detail_of(answer), self._now_ms()))
        else:
            others = len(set(self._rounds.members) - {worker.slot})
            if kind in LEAVING:
                self._durability.see_off(worker, base_of(self._rounds.round, self._digest), alone=not others)
            self._lose(worker, self._failures.reason(worker, answer, place, others), detail_of(answer))

    def _prepare(self, worker: Worker) -> None:
        """A newcomer takes the newest state over while the others train on; where that cannot be, it joins at once."""
        rounds = self._rounds
        donors = self._members_of(slot for slot in rounds.members if slot != worker.slot)
        if (
            donors
            and not self._resuming
            and self._digest is not None
            and rounds.round > 0
            and not rounds.plan.every_step
        ):
            self._calls.ask("prepare", worker, prepare_order(rounds.round, self._digest, donors))
        else:
            self._join(worker)

    def _members_of(self, slots: Iterable[int]) -> list[list[Any]]:
        workers = [worker for worker in map(self._roster.get, slots) if worker is not None]
        return [[worker.slot, worker.epoch, worker.address] for worker in workers]

    def _join(self, worker: Worker) -> None:
        if worker.slot in self._resuming:
            self._arrive(worker.slot)
        elif not self._resuming:  # else it begins with a predecessor's workers: alone, it would lack their state
            member = machine.Member(worker.slot, worker.epoch, worker.name, worker.at)
            self._do(self._rounds.join(member, self._now_ms()))

    def _arrive(self, slot: int) -> None:
        """One less to wait for before a predecessor's workers go on, ready or gone."""
        self._resuming -= {slot}
        if self._resuming:
            return
        ready = [worker for worker in self._roster.all() if worker.phase == "ready"]
        self._digest, members = heirs(ready, self._rounds.at, self._rounds.plan.agrees)
        self._do(self._rounds.resume(members, self._now_ms()))

    def _lose(self, worker: Worker, reason: str, detail: str) -> None:
        self._roster.remove(worker.slot)
        self._report_lost(worker, reason, detail)
        self._forget(worker, Gone(reason, detail))

    def _forget(self, worker: Worker, gone: Gone) -> None:
        self._calls.forget(worker.slot)
        if worker.slot in self._resuming:
            self._arrive(worker.slot)
        else:
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
            elif isinstance(decision, machine.MergeAgain):
                members = [one for one in self._members if one[0] in decision.slots]
                self._ask_to_merge(decision.round, decision.attempt, members)
            elif isinstance(decision, machine.RoundCommitted):
                self._committed(decision)
            elif isinstance(decision, machine.MemberLost):
                worker = self._roster.remove(decision.lost.slot)
                if worker is not None:  # the machine's own finding; others were reported when they were found
                    self._calls.forget(worker.slot)
                    self._report_lost(worker, market_reason(decision.lost.reason), decision.lost.detail)
            elif isinstance(decision, machine.VoidRound):
                self._void_round = decision.round
                self._strategy = self._strategy_before  # the round that goes over to another one begins again
                self._voided = set(self._orders)
                self._calls.forget_round(late=self._rounds.late)
            elif isinstance(decision, machine.Rewind):
                self._digest = None
                self._durability.undo()
            elif isinstance(decision, machine.Finished | machine.Halted):
                self._over = decision

    def _start_round(self, start: machine.StartRound) -> None:
        restored = None
        # A checkpoint on its way may have arrived after the machine decided how far to go back.
        behind = self._durability.round > self._rounds.round
        if behind or any(share.donors == () for share in start.shares):
            restored = self._durability.restore()
            if restored is None or restored.at != self._rounds.at:
                self._start_over(restored.at if restored is not None else machine.START)
                return
            self._digest = None
        switched, self._strategy_before = self._spec["strategy"] != self._strategy, self._strategy
        self._strategy = self._spec["strategy"]
        self._start += 1
        self._members = self._members_of(start.slots)
        evaluator = self._evaluator(start)
        began = Began([self._run, self._start], self._members, self._digest, self._strategy, self._accepted, switched)
        for share, worker in [(share, self._roster.get(share.slot)) for share in start.shares]:
            if worker is None:
                continue
            fresh = start.round == self._void_round or share.slot in self._voided
            self._voided.discard(share.slot)
            self._orders[share.slot] = train_order(start, share, began, evaluate=share.slot == evaluator, fresh=fresh)
            if share.donors == () and restored is not None:
                self._calls.ask("recall", worker, restored.at.round, restored.digest, restored.inner_digest)
            else:
                self._ask_for_round(worker)

    def _evaluator(self, start: machine.StartRound) -> int | None:
        holders_first = sorted(start.shares, key=lambda share: share.donors is not None)
        workers = [self._roster.get(share.slot) for share in holders_first]
        able = [(worker.slot, worker.provider) for worker in workers if worker is not None]
        return self._held_out.evaluator(able, start.round - 1, self._now_ms())

    def _ask_for_round(self, worker: Worker) -> None:
        order, worker.info, worker.merged = self._orders[worker.slot], {}, {}
        self._calls.ask("train", worker, order)
        self._calls.ask("merge", worker, merge_order(order["round"], order["start"], 0, self._members))

    def _ask_to_merge(self, number: int, attempt: int, members: list[list[Any]]) -> None:
        for worker in filter(None, (self._roster.get(slot) for slot, _, _ in members)):
            self._calls.ask("merge", worker, merge_order(number, [self._run, self._start], attempt, members))

    def _start_over(self, at: machine.Standing) -> None:
        """From what can be restored, when that is not what was thought; without anything, by newcomers alone."""
        log.info("Deciding to start over at round %s since that is what can be restored", at.round)
        self._calls.forget_round()
        self._durability.undo()
        self._voided, self._digest, self._evaluated_round = set(self._orders), None, -1
        self._rounds.start_over(at)
        ready = [worker for worker in self._roster.all() if worker.phase == "ready"]
        fresh = [one for one in ready if one.at == machine.START and one.slot not in self._orders]
        for worker in [one for one in ready if at == machine.START and one not in fresh]:
            self._lose(worker, "stale", "no checkpoint can be restored, and its state is not the initial one")
            ready.remove(worker)
        stand = {worker.slot: machine.START if worker in fresh else machine.NOWHERE for worker in ready}
        members = [machine.Member(one.slot, one.epoch, one.name, stand[one.slot]) for one in ready]
        self._do(self._rounds.resume(members, self._now_ms()))

    def _committed(self, done: machine.RoundCommitted) -> None:
        self._digest = done.digest if self._rounds.plan.agrees else None
        self._accepted = list(done.contributors)
        self._void_round = 0  # a rewind may come to that number again, with a state worth keeping
        contributors = [slot for slot in done.contributors if slot in self._met and self._met[slot].info]
        told = self._spec["strategy"]["name"], self._tuning
        self._outbox.put("round", round_report(self._job, done, contributors, self._met, *told))
        last = done.step >= self._rounds.plan.total_steps
        self._durability.committed(done, base_of(done.round, self._digest), last=last)

    # the end

    def _conclude(self) -> Halt | None:
        """Everything that must be true before the run says that it has halted."""
        over = self._over
        assert over is not None
        if isinstance(over, machine.Halted) and over.failed:
            return Halt("failed", over.failed, f"{over.why}. {REMEDY}" if over.failed == "nan" else over.why)
        base = base_of(over.round, self._digest)
        if isinstance(over, machine.Finished) and self._evaluated_round < over.round:
            self._durability.evaluate(base)
            self._evaluated_round = over.round
        durable = self._durability.make_durable(base, self._rounds.holders, isinstance(over, machine.Halted))
        if durable is None:
            # Everybody went with the last rounds before these were durable: what is missing is trained again.
            self._over, restored = None, self._durability.restore()
            self._start_over(restored.at if restored is not None else machine.START)
            return None
        if not durable:
            return None
        if isinstance(over, machine.Finished) or self._reached:
            return Halt("done", "done", over.why)
        return Halt("paused", "paused", over.why)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
