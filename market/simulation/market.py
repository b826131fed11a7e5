"""A whole trace through the real exchange, in virtual time: the loop that lets players and exchange talk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from market.clearing import Clearing, clear
from market.commands import (
    ApplyClearing,
    CancelJob,
    ChangeOffer,
    Command,
    Deposit,
    Flexible,
    OpenMarket,
    PlaceOffer,
    SetDueRule,
    SetPriceRule,
    Tick,
)
from market.outcomes import Refusal
from market.simulation import players
from market.simulation.churning import comings_and_goings
from market.simulation.driver import Progress, drive
from market.simulation.players import PLANE, Run
from market.simulation.records import DONE, GAVE_UP, REFUSED, UNFINISHED, Record
from market.simulation.stage import Stage
from market.simulation.supply import Machine, in_the_way
from market.simulation.terms import FOREVER_MS, INTERRUPTIBLE_SAVE_MS, RESTART_MS
from market.simulation.trace import TraceJob
from storage.units import MS_PER_HOUR

TICK_MS: Final = 24 * MS_PER_HOUR
DEPOSIT_NANOS: Final = 10_000_000 * 10**9
OPERATOR: Final = "operator"
CLEARING_WORK: Final = 1_000_000
MOST_LISTS: Final = 3
"""So many lists of bids in one clearing; what is free after them stays so until something changes."""
TOP_UP_AT: Final = 0.8
NOBODY: Final = Flexible((), (), False)


class MarketRun(Stage):
    """Drives one exchange; `record` says what became of everything."""

    def play(self, jobs: Iterable[TraceJob], progress: Progress = lambda _came, _now: None) -> Record:
        """Every job of the trace, in order of submission, to its end."""
        self._open()
        self._clock.at(TICK_MS, "tick")
        drive(self, self._clock, {kind: getattr(self, f"_at_{kind}") for kind in _KINDS}, jobs, self.terms.horizon_ms, progress)
        self._close()
        return self.record

    def _at_tick(self, _about: None, _version: int) -> None:
        self._pass_time()
        self._clock.at(self._clock.now_ms + TICK_MS, "tick")

    def _open(self) -> None:
        self._say(OpenMarket("simulation", "1"))
        for name, role in ((OPERATOR, "operator"), (PLANE, "plane")):
            self._join(name, role)
        self._must(SetPriceRule(self.terms.price_rule, OPERATOR))
        if (rule := self.terms.due_rule) != self.exchange.state.due_rule:
            self._must(SetDueRule(rule.patience, rule.most_ms, OPERATOR))
        for provider in dict.fromkeys(machine.provider for machine in self._machines):
            self._join(provider, "provider")
        if self._seats is None:
            for machine in self._machines:
                self._list(machine)
        else:
            self._moves = comings_and_goings(self._seats, len(self._machines), self.terms.seed, self.terms.horizon_ms)
            self._plan_churn()

    def _close(self) -> None:
        now = self._clock.now_ms
        for run in self._runs.values():
            record = self.record.jobs[run.job.id]
            for held in run.held.values():
                self._returned(run, held, now)
            self.record.ended(record, now, UNFINISHED, "waits" if not run.held else "runs")
        for machine, since in list(self._listed.items()):
            self.record.supply.add(since, now, self._of[machine].gpus)
        self.record.end_ms = max(self.record.end_ms, 1)

    # customers

    def submit(self, job: TraceJob, order: int) -> None:
        """Its customer sends it."""
        record = self.record.submitted(job)
        if job.tenant not in self._deposits:
            self._deposits[job.tenant] = 0
            self._join(job.tenant, "customer")
            self._deposit(job.tenant)
        command = players.submit(job, order, self._shared)
        if self.terms.outlook_every and order % self.terms.outlook_every == 0:
            self.record.told(job, self.exchange.quote(command.spec, job.tenant, self._clock.now_ms))
        answer = self._say(command)
        if isinstance(answer, Refusal) and answer.code == "insufficient_funds":
            self._deposit(job.tenant)
            answer = self._say(command)
        if isinstance(answer, Refusal):
            self.record.ended(record, self._clock.now_ms, REFUSED, answer.code)
            return
        run = self._runs[job.id] = Run(job, order, job.gpu_ms, job.gpu_ms, players.budget_of(job), waits_since_ms=self._clock.now_ms)
        self._want(run)
        if job.patience_ms is not None:
            self._clock.at(job.submitted_ms + job.patience_ms, "patience", job.id)

    def _deposit(self, tenant: str) -> None:
        self._deposits[tenant] += 1
        self._must(Deposit(f"{tenant}-{self._deposits[tenant]}", tenant, DEPOSIT_NANOS, OPERATOR))

    def _at_patience(self, job: str, _version: int) -> None:
        run = self._runs.get(job)
        if run is None or self.record.jobs[job].started_ms is not None:
            return
        self._must(CancelJob(job, run.job.tenant))
        self._end(run, GAVE_UP, in_the_way(run.job, self._machines))

    # runs

    def _run_of(self, job: str, version: int) -> Run | None:
        """The run, if what was planned for it still holds; its work is done up to now."""
        run = self._runs.get(job)
        if run is None or run.version != version:
            return None
        run.advance(self._clock.now_ms)
        return run

    def _at_done(self, job: str, version: int) -> None:
        run = self._run_of(job, version)
        if run is not None:
            for command in players.finish(run, self._clock.now_ms):
                self._must(command)
            self._end(run, DONE)

    def _at_save(self, job: str, version: int) -> None:
        run = self._run_of(job, version)
        if run is not None:
            for command in players.save(run, self._clock.now_ms):
                self._must(command)
            run.durable_gpu_ms = run.left_gpu_ms
            self._plan(run)

    def _at_short(self, job: str, version: int) -> None:
        run = self._run_of(job, version)
        if run is not None:
            self._must(players.read(run, self._clock.now_ms))
            self._top_up(run)
            self._plan(run)

    def _top_up(self, run: Run) -> None:
        while run.spent_nanos >= TOP_UP_AT * run.budget_nanos:
            added = self._say(players.more_budget(run))
            if isinstance(added, Refusal):
                assert added.code == "insufficient_funds", added
                run.added -= 1
                run.budget_nanos -= players.budget_of(run.job)
                self._deposit(run.job.tenant)

    def _plan(self, run: Run) -> None:
        """What the run does next, if nothing happens before: everything planned before is void."""
        run.version += 1
        if not run.held:
            return
        done_ms = run.done_ms()
        save_ms = run.since_ms + self._save_ms(run)
        room = max(0, int(TOP_UP_AT * run.budget_nanos) + 1 - run.spent_nanos)
        short_ms = run.since_ms + room * MS_PER_HOUR // max(1, run.rate_nanos()) + 1
        at_ms, kind = min((done_ms, "done"), (save_ms, "save"), (short_ms, "short"))
        self._clock.at(at_ms, kind, run.job.id, run.version)

    def _save_ms(self, run: Run) -> int:
        """How long until it next makes its work durable; what is never lost need not be."""
        if run.job.interruptible:
            first = run.gang and not run.rounds
            return RESTART_MS if first else min(self.terms.save_ms, INTERRUPTIBLE_SAVE_MS)
        return self.terms.save_ms if self._seats is not None else FOREVER_MS

    # clearing

    def _at_clear(self, _about: None, _version: int) -> None:
        self._clearing_planned = False
        self._last_clearing_ms = self._clock.now_ms
        self.waiting.begin()
        for _ in range(MOST_LISTS):
            clearing = self._clear(self.waiting.shown(self._clock.now_ms))
            if clearing is None or not clearing.matches:
                break
            self._grant(ApplyClearing(clearing, flexible=NOBODY))
        if self.terms.interruptible:
            self._clear_flexible()

    def _clear_flexible(self) -> None:
        now, kept_for = self._clock.now_ms, self.waiting.kept_for
        asked = self.flexible.asked(lambda job: self._runs[job].job, kept_for, now)
        if asked is not None:
            self._grant(ApplyClearing(Clearing((), (), price_rule=self.terms.price_rule, kept_for=kept_for), flexible=asked))
            self.flexible.served(asked, now)

    def _grant(self, command: Command) -> None:
        """Whoever gets leases by it begins to work on them."""
        self._granted = {}
        self._must(command)
        for run in self._granted.values():
            self._begin(run)

    def _clear(self, shown: list[str]) -> Clearing | None:
        """As if everybody who is shown was cleared, and looking only at whom it could come to."""
        now = self._clock.now_ms
        asked = self.waiting.unsettled(shown, now)
        if not asked:
            return None
        clearing = self._cleared(asked)
        if len(asked) < len(shown) and clearing.kept_for != self.waiting.kept_for:
            asked, clearing = shown, self._cleared(shown)
        if clearing.maximal:
            matched = {match.job for match in clearing.matches}
            self.waiting.note((job for job in asked if job not in matched), clearing.kept_for, now)
        return clearing

    def _cleared(self, jobs: list[str]) -> Clearing:
        self.record.clearings += 1
        return clear(self.exchange.snapshot(jobs), CLEARING_WORK, reasons=False, forgone=False)

    def _begin(self, run: Run) -> None:
        now = self._clock.now_ms
        record = self.record.jobs[run.job.id]
        if record.started_ms is None:
            record.started_ms = now
        for held in run.held.values():
            if held.granted_ms == now:
                self._must(players.start(held))
        self._want(run)
        self._plan(run)

    # what the exchange says

    def _at_leave(self, job: str, _version: int) -> None:
        run = self._runs.get(job)
        if run is None or not run.leaving:
            return
        run.advance(self._clock.now_ms)
        leaving = len(run.leaving)
        for command in players.leave(run, self._clock.now_ms):
            self._must(command)
        run.durable_gpu_ms = run.left_gpu_ms
        self._restart(run, leaving, 0)

    def _restart(self, run: Run, workers: int, redone_gpu_ms: int) -> None:
        """So many of its workers are gone, and so much work with them; whoever comes starts up first."""
        record = self.record.jobs[run.job.id]
        record.redone_gpu_ms += max(0, redone_gpu_ms)
        record.restarting_gpu_ms += workers * RESTART_MS
        run.left_gpu_ms += redone_gpu_ms + workers * RESTART_MS
        self._want(run)
        self._plan(run)

    def _at_promise(self, _about: None, _version: int) -> None:
        """Those who had notice have left: the exchange grants what it has promised, by its next tick."""
        if self.flexible.promised:
            self._pass_time()

    def _pass_time(self) -> None:
        self._unpromised.clear()
        self._grant(Tick())
        for job in self._unpromised:
            if job in self._runs and job not in self._granted:
                self._want(self._runs[job])

    # machines

    def _list(self, machine: Machine) -> None:
        offer = PlaceOffer(
            id=machine.id, name=machine.id, gpu=machine.gpu, gpus=machine.gpus, vram_gib=machine.vram_gib, region=machine.region,
            price_nanos_per_gpu_hour=machine.ask_nanos, floor_price_nanos_per_gpu_hour=None, isolation="process", measured={"train_gflops": players.TRAIN_GFLOPS * machine.gpus},
            shares=(), node=machine.id, versions={}, by=machine.provider,
        )  # fmt: skip
        self._must(offer)
        self._listed[machine.id] = self._clock.now_ms
        self._there(machine, machine.gpus)
        self._somebody_waits()

    def _plan_churn(self) -> None:
        move = next(self._moves, None)
        if move is not None:
            self._clock.at(move[0], "churn", move[1:])

    def _at_churn(self, move: tuple[bool, int], _version: int) -> None:
        comes, index = move
        machine = self._machines[index]
        if comes:
            self._list(machine)
        else:
            self._take_away(machine)
        self._plan_churn()

    def _take_away(self, machine: Machine) -> None:
        """It is gone at once; the runs say so, and the offer is withdrawn."""
        now = self._clock.now_ms
        for lease in list(self._leases_on.get(machine.id, ())):
            run = self._run_of_lease[lease]
            run.advance(now)
            self._must(players.lose(run, run.held[lease], now))
            # What the lost worker had done since the last save is done again; who has lost everybody begins at that save.
            unsaved = run.durable_gpu_ms - run.left_gpu_ms
            self._restart(run, 1, max(0, unsaved // (len(run.held) + 1)) if run.held else unsaved)
        self._must(ChangeOffer(machine.id, "withdraw", machine.provider))
        self._there(machine, -machine.gpus)
        self.record.supply.add(self._listed.pop(machine.id), now, machine.gpus)


_KINDS: Final = ("tick", "clear", "patience", "churn", "done", "save", "short", "leave", "promise")
