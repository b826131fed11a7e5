"""A whole trace through the real exchange, in virtual time: the loop that lets players and exchange talk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, Final

from market.clearing import Clearing, clear
from market.commands import (
    SYSTEM,
    AddMember,
    ApplyClearing,
    CancelJob,
    ChangeOffer,
    Command,
    Deposit,
    OpenMarket,
    PlaceOffer,
    SetPriceRule,
    Tick,
)
from market.events import Event
from market.exchange import Exchange
from market.outcomes import Refusal
from market.simulation import players
from market.simulation.churning import Seats, comings_and_goings
from market.simulation.clock import Clock
from market.simulation.driver import Progress, drive
from market.simulation.players import PLANE, Held, Run, kind_of
from market.simulation.queue import Queue, Wanted
from market.simulation.records import DONE, FAILED, GAVE_UP, REFUSED, UNFINISHED, Record, pieces
from market.simulation.supply import Machine, in_the_way
from market.simulation.terms import FOREVER_MS, RESTART_MS, Terms, settings_of
from market.simulation.trace import TraceJob
from storage.units import MS_PER_HOUR

TICK_MS: Final = 6 * MS_PER_HOUR
DEPOSIT_NANOS: Final = 10_000_000 * 10**9
OPERATOR: Final = "operator"
CLEARING_WORK: Final = 1_000_000
MOST_LISTS: Final = 3
"""So many lists of bids in one clearing; what is free after them stays so until something changes."""
TOP_UP_AT: Final = 0.8


class MarketRun:
    """Drives one exchange; `record` says what became of everything."""

    def __init__(self, machines: Sequence[Machine], terms: Terms, seats: Seats | None = None) -> None:
        self.terms = terms
        self.record = Record("market", terms.window_ms)
        self.exchange = Exchange(settings_of(terms), keep_history=False)
        self._machines = machines
        self._of = pieces(machines)
        self._seats = seats
        self._clock = Clock()
        self.waiting = Queue(machines)
        self._runs: dict[str, Run] = {}
        self._run_of_lease: dict[str, Run] = {}
        self._leases_on: dict[str, dict[str, None]] = {}
        self._deposits: dict[str, int] = {}
        self._shared: dict[Any, Any] = {}
        self._granted: dict[str, Run] = {}
        self._listed: dict[str, int] = {}
        self._moves: Iterator[tuple[int, bool, int]] = iter(())
        self._clearing_planned = False
        self._last_clearing_ms = -1

    def ledger_total_nanos(self) -> int:
        """The sum of all balances of the exchange's ledger: 0, or money was made or lost."""
        return sum(self.exchange.balances().values())

    def play(self, jobs: Iterable[TraceJob], progress: Progress = lambda _came, _now: None) -> Record:
        """Every job of the trace, in order of submission, to its end."""
        self._open()
        self._clock.at(TICK_MS, "tick")
        drive(self, self._clock, {kind: getattr(self, f"_at_{kind}") for kind in _KINDS}, jobs, self.terms.horizon_ms, progress)
        self._close()
        return self.record

    @property
    def idle(self) -> bool:
        """Whether no job is open."""
        return not self._runs

    def _at_tick(self, _about: None, _version: int) -> None:
        self._say(Tick())
        self._clock.at(self._clock.now_ms + TICK_MS, "tick")

    def _open(self) -> None:
        self._say(OpenMarket("simulation", "1"))
        for name, role in ((OPERATOR, "operator"), (PLANE, "plane")):
            self._join(name, role)
        self._must(SetPriceRule(self.terms.price_rule, OPERATOR))
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

    def _say(self, command: Command) -> tuple[Event, ...] | Refusal:
        outcome = self.exchange.step(command, self._clock.now_ms)
        self.record.commands += 1
        if isinstance(outcome.answer, Refusal):
            return outcome.answer
        for event in outcome.events:
            hear = _HEARS.get(event["type"])
            if hear is not None:
                hear(self, event)
        return outcome.events

    def _must(self, command: Command) -> tuple[Event, ...]:
        events = self._say(command)
        assert not isinstance(events, Refusal), (command, events)
        return events

    def _join(self, name: str, role: str) -> None:
        self._must(AddMember(name, role, sha256(f"{role} {name}".encode()).hexdigest(), SYSTEM))

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
        # What is never lost need not be saved.
        save_ms = run.since_ms + self.terms.save_ms if self._seats is not None else FOREVER_MS
        room = max(0, int(TOP_UP_AT * run.budget_nanos) + 1 - run.spent_nanos)
        short_ms = run.since_ms + room * MS_PER_HOUR // max(1, run.rate_nanos()) + 1
        at_ms, kind = min((done_ms, "done"), (save_ms, "save"), (short_ms, "short"))
        self._clock.at(at_ms, kind, run.job.id, run.version)

    def _end(self, run: Run, state: str, reason: str = "") -> None:
        del self._runs[run.job.id]
        self.waiting.discard(run.job.id)
        assert not run.held, run
        self.record.ended(self.record.jobs[run.job.id], self._clock.now_ms, state, reason)

    def _want(self, run: Run) -> None:
        job, live = run.job, len(run.held)
        if live >= job.gpus_max:
            self.waiting.discard(job.id)
            return
        whole = live >= job.gpus_min
        need, expected_ms = (1 if live else job.gpus_min), players.expected_ms(run)
        since_ms = run.waits_since_ms
        settles = not live and not self.record.jobs[job.id].lost
        self.waiting.add(Wanted(job.id, kind_of(job), need, job.limit_nanos, expected_ms, since_ms, not whole, bool(live), settles))
        self._plan_clearing()

    # clearing

    def _plan_clearing(self) -> None:
        """Something has changed: the next time that the market clears it may come to something."""
        if not self._clearing_planned:
            self._clearing_planned = True
            step = self.terms.clear_ms
            at_ms = max(self._clock.now_ms, self._last_clearing_ms + 1)
            self._clock.at(-(-at_ms // step) * step, "clear")

    def _at_clear(self, _about: None, _version: int) -> None:
        self._clearing_planned = False
        self._last_clearing_ms = self._clock.now_ms
        self.waiting.begin()
        for _ in range(MOST_LISTS):
            clearing = self._clear(self.waiting.shown(self._clock.now_ms))
            if clearing is None or not clearing.matches:
                return
            self._granted = {}
            self._must(ApplyClearing(clearing))
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

    def _hear_granted(self, event: Event) -> None:
        now, run = self._clock.now_ms, self._runs[event["job"]]
        run.advance(now)
        price = event["price_nanos_per_gpu_hour"]
        run.held[event["lease"]] = Held(event["lease"], event["epoch"], event["slot"], event["offer"], event["provider"], price, now)
        self._run_of_lease[event["lease"]] = run
        self._leases_on.setdefault(event["offer"], {})[event["lease"]] = None
        self.waiting.freed(event["offer"], -1)
        self.record.granted(now, self._of[event["offer"]].ask_nanos, price, 1)
        self._granted[run.job.id] = run

    def _hear_ended(self, event: Event) -> None:
        now, run = self._clock.now_ms, self._run_of_lease.pop(event["lease"])
        run.advance(now)
        if len(run.held) == run.job.gpus_min:
            run.waits_since_ms = now
        held = run.held.pop(event["lease"])
        del self._leases_on[held.offer][held.id]
        self._returned(run, held, now)
        self.waiting.freed(held.offer, 1)
        if len(self.waiting):
            self._plan_clearing()
        if event["fault"] == "provider":
            record = self.record.jobs[run.job.id]
            record.lost += 1
            record.preempted += event["reason"] == "preempted"

    def _returned(self, run: Run, held: Held, now_ms: int) -> None:
        record, machine = self.record.jobs[run.job.id], self._of[held.offer]
        self.record.returned(record, machine, held.granted_ms, now_ms, 1)

    def _hear_charged(self, event: Event) -> None:
        self.record.jobs[event["job"]].paid_nanos += event["amount_nanos"]
        self.record.fee_nanos += event["fee_nanos"]

    def _hear_transfer(self, event: Event) -> None:
        if event["kind"] == "charge":
            provider = event["credit"].partition(":")[2]
            revenue = self.record.revenue_nanos
            revenue[provider] = revenue.get(provider, 0) + event["amount_nanos"]

    def _hear_state(self, event: Event) -> None:
        if event["state"] == "failed" and event["job"] in self._runs:
            self._end(self._runs[event["job"]], FAILED, event["reason"])

    # machines

    def _list(self, machine: Machine) -> None:
        offer = PlaceOffer(
            id=machine.id, name=machine.id, gpu=machine.gpu, gpus=machine.gpus, vram_gib=machine.vram_gib, region=machine.region,
            price_nanos_per_gpu_hour=machine.ask_nanos, floor_price_nanos_per_gpu_hour=None, isolation="process", measured={"train_gflops": players.TRAIN_GFLOPS * machine.gpus},
            shares=(), node=machine.id, versions={}, by=machine.provider,
        )  # fmt: skip
        self._must(offer)
        self._listed[machine.id] = self._clock.now_ms
        self.waiting.listed(machine, machine.gpus)
        if len(self.waiting):
            self._plan_clearing()

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
            if not run.held:
                run.left_gpu_ms = run.durable_gpu_ms
            # What the lost worker had done since the last save is done again, and whoever comes starts up first.
            else:
                share = (run.durable_gpu_ms - run.left_gpu_ms) // (len(run.held) + 1)
                run.left_gpu_ms += max(0, share)
            run.left_gpu_ms += RESTART_MS
            self._want(run)
            self._plan(run)
        self._must(ChangeOffer(machine.id, "withdraw", machine.provider))
        self.waiting.listed(machine, -machine.gpus)
        self.record.supply.add(self._listed.pop(machine.id), now, machine.gpus)


_KINDS: Final = ("tick", "clear", "patience", "churn", "done", "save", "short")
_HEARS: Final[dict[str, Callable[[MarketRun, Event], None]]] = {
    "lease_granted": MarketRun._hear_granted,
    "lease_ended": MarketRun._hear_ended,
    "lease_charged": MarketRun._hear_charged,
    "transfer": MarketRun._hear_transfer,
    "job_state": MarketRun._hear_state,
}
