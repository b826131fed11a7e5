"""A whole trace through the real exchange, in virtual time: the loop that lets players and exchange talk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from market.book import OrderBook
from market.clearing import clear
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
from market.exchange import Exchange, Settings
from market.outcomes import Refusal
from market.simulation import players
from market.simulation.churning import Seats, comings_and_goings
from market.simulation.clock import Clock
from market.simulation.players import PLANE, Held, Run, kind_of
from market.simulation.records import DONE, FAILED, GAVE_UP, REFUSED, UNFINISHED, Record, pieces
from market.simulation.supply import Machine
from market.simulation.trace import TraceJob
from market.simulation.waiting import Class, Places, Waiting
from storage.units import MS_PER_HOUR, MS_PER_MINUTE

TICK_MS: Final = 6 * MS_PER_HOUR
RESTART_MS: Final = MS_PER_MINUTE
DEPOSIT_NANOS: Final = 10_000_000 * 10**9
OPERATOR: Final = "operator"
CLEARING_WORK: Final = 1_000_000
IN_VAIN: Final = 3
"""After so many lists of bids that got nothing in a row, what is free stays so until something else comes free."""
_FOREVER_MS: Final = 10**15
_MANY: Final = 10**9
TOP_UP_AT: Final = 0.8

Progress = Callable[[int, int], None]
"""Told (jobs that came so far, virtual time)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a trace is played. `save_ms`: how often a running job makes its work durable; `clear_ms`: how often the market
    clears, when something has changed; `horizon_ms`: when the simulation ends, whatever is still open."""

    seed: int = 1
    fee_ppm: int = 50_000
    clear_ms: int = MS_PER_MINUTE
    save_ms: int = 6 * MS_PER_HOUR
    horizon_ms: int = _FOREVER_MS
    window_ms: int = 0
    price_rule: str = "ask"


class MarketRun:
    """Drives one exchange; `record` says what became of everything."""

    def __init__(self, machines: Sequence[Machine], terms: Terms, seats: Seats | None = None) -> None:
        self.terms = terms
        self.record = Record("market", terms.window_ms)
        # Nobody polls every few seconds for months: silence is no sign of death here, and machines say when they go.
        settings = Settings(
            fee_ppm=terms.fee_ppm, offer_timeout_ms=_FOREVER_MS, start_timeout_ms=_FOREVER_MS, silence_timeout_ms=_FOREVER_MS,
            run_silence_ms=_FOREVER_MS, pause_timeout_ms=_FOREVER_MS, max_members=_MANY, max_offers=_MANY,
            max_open_jobs=_MANY, max_open_jobs_per_customer=_MANY, max_live_leases=_MANY,
        )  # fmt: skip
        self.exchange = Exchange(settings, keep_history=False)
        self._machines = machines
        self._of = pieces(machines)
        self._seats = seats
        self._clock = Clock()
        self._places = Places((machine.gpu, machine.region, machine.vram_gib) for machine in machines)
        self._waiting = Waiting(self._places)
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

    # the loop

    def play(self, jobs: Iterable[TraceJob], progress: Progress = lambda _came, _now: None) -> Record:
        """Every job of the trace, in order of submission, to its end."""
        self._open()
        clock, came = self._clock, 0
        coming = iter(jobs)
        job = next(coming, None)
        if job is not None:
            clock.at(job.submitted_ms, "job", job)
        clock.at(TICK_MS, "tick")
        while len(clock):
            kind, about, version = clock.next()
            now = clock.now_ms
            if now > self.terms.horizon_ms:
                break
            if kind == "job":
                came += 1
                self._submit(about, came)
                job = next(coming, None)
                if job is not None:
                    clock.at(job.submitted_ms, "job", job)
                if came % 256 == 0:
                    progress(came, now)
            elif kind == "clear":
                self._clearing_planned = False
                self._clear()
            elif kind == "patience":
                self._lose_patience(about)
            elif kind == "churn":
                self._churn(*about)
            elif kind == "tick":
                self._say(Tick())
                if self._runs or job is not None:
                    clock.at(now + TICK_MS, "tick")
            else:
                run = self._runs.get(about)
                if run is not None and run.version == version:
                    self._go_on(run, kind)
            if not self._runs and job is None:
                break
        self._close()
        return self.record

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

    def _submit(self, job: TraceJob, order: int) -> None:
        record = self.record.submitted(job)
        if job.tenant not in self._deposits:
            self._deposits[job.tenant] = 0
            self._join(job.tenant, "customer")
            self._deposit(job.tenant)
        command = players.submit(job, self._shared)
        answer = self._say(command)
        if isinstance(answer, Refusal) and answer.code == "insufficient_funds":
            self._deposit(job.tenant)
            answer = self._say(command)
        if isinstance(answer, Refusal):
            self.record.ended(record, self._clock.now_ms, REFUSED, answer.code)
            return
        self._runs[job.id] = Run(job, order, job.gpu_ms, job.gpu_ms, players.budget_of(job))
        self._want(self._runs[job.id])
        if job.patience_ms is not None:
            self._clock.at(job.submitted_ms + job.patience_ms, "patience", job.id)

    def _deposit(self, tenant: str) -> None:
        self._deposits[tenant] += 1
        self._must(Deposit(f"{tenant}-{self._deposits[tenant]}", tenant, DEPOSIT_NANOS, OPERATOR))

    def _lose_patience(self, job: str) -> None:
        run = self._runs.get(job)
        if run is None or self.record.jobs[job].started_ms is not None:
            return
        self._must(CancelJob(job, run.job.tenant))
        self._end(run, GAVE_UP, self._why_not(run.job))

    def _why_not(self, job: TraceJob) -> str:
        """What stood in the way for good, of the machines of the whole supply; else that others had them."""
        fitting = [
            machine for machine in self._machines
            if machine.vram_gib >= job.vram_gib and (not job.models or machine.gpu in job.models)
            and (not job.regions or machine.region in job.regions)
        ]  # fmt: skip
        if sum(machine.gpus for machine in fitting) < job.gpus_min:
            return "gang_too_big"
        affordable = sum(machine.gpus for machine in fitting if machine.ask_nanos <= job.limit_nanos)
        return "price_too_low" if affordable < job.gpus_min else "busy"

    # runs

    def _go_on(self, run: Run, kind: str) -> None:
        now = self._clock.now_ms
        run.advance(now)
        if kind == "done":
            for command in players.finish(run, now):
                self._must(command)
            self._end(run, DONE)
        elif kind == "save":
            for command in players.save(run, now):
                self._must(command)
            run.durable_gpu_ms = run.left_gpu_ms
            self._plan(run)
        else:
            self._must(players.read(run, now))
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
        save_ms = run.since_ms + self.terms.save_ms
        room = max(0, int(TOP_UP_AT * run.budget_nanos) + 1 - run.spent_nanos)
        short_ms = run.since_ms + room * MS_PER_HOUR // max(1, run.rate_nanos()) + 1
        at_ms, kind = min((done_ms, "done"), (save_ms, "save"), (short_ms, "short"))
        self._clock.at(at_ms, kind, run.job.id, run.version)

    def _end(self, run: Run, state: str, reason: str = "") -> None:
        del self._runs[run.job.id]
        self._waiting.discard(run.job.id)
        assert not run.held, run
        self.record.ended(self.record.jobs[run.job.id], self._clock.now_ms, state, reason)
        if self._waiting.news:
            self._plan_clearing()

    def _want(self, run: Run) -> None:
        job, live = run.job, len(run.held)
        if live >= job.gpus_max:
            self._waiting.discard(job.id)
            return
        self._waiting.add(job.id, kind_of(job), job.gpus_min if not live else 1, job.limit_nanos, run.order)
        self._plan_clearing()

    # clearing

    def _plan_clearing(self) -> None:
        if not self._clearing_planned:
            self._clearing_planned = True
            step = self.terms.clear_ms
            at_ms = max(self._clock.now_ms, self._last_clearing_ms + 1)
            self._clock.at(-(-at_ms // step) * step, "clear")

    def _clear(self) -> None:
        self._last_clearing_ms = self._clock.now_ms
        if not self._waiting.news:
            return
        kept, in_vain = False, 0
        for names in self._waiting.rounds(self._free, self._units_of):
            clearing = clear(self.exchange.snapshot(names), CLEARING_WORK, reasons=False)
            self.record.clearings += 1
            kept |= clearing.kept_for is not None
            in_vain = 0 if clearing.matches else in_vain + 1
            if in_vain == IN_VAIN:
                break
            if clearing.matches:
                self._granted = {}
                self._must(ApplyClearing(clearing))
                for run in self._granted.values():
                    self._begin(run)
        if kept:
            self._waiting.remember()

    def _free(self, kind: Class) -> list[tuple[int, int]]:
        book: OrderBook = self.exchange.book()
        free, found = book.free_places(), []
        for place in self._places.of(kind):
            for ask, name in free.get(place, ()):
                offer = book.get(name)
                assert offer is not None
                if offer.vram_gib >= kind[2]:
                    found.append((ask, offer.gpus_free))
        return found

    def _units_of(self, machine: str) -> tuple[int, int, float]:
        offer = self.exchange.book().get(machine)
        return (0, 0, 0.0) if offer is None else (offer.price_nanos_per_gpu_hour, offer.gpus_free, offer.vram_gib)

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
        self.record.granted(now, self._of[event["offer"]].ask_nanos, price, 1)
        self._granted[run.job.id] = run

    def _hear_ended(self, event: Event) -> None:
        now, run = self._clock.now_ms, self._run_of_lease.pop(event["lease"])
        run.advance(now)
        held = run.held.pop(event["lease"])
        del self._leases_on[held.offer][held.id]
        self._returned(run, held, now)
        machine = self._of[held.offer]
        self._waiting.freed(machine.id, (machine.gpu, machine.region))
        if self._waiting:
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
            price_nanos_per_gpu_hour=machine.ask_nanos, floor_price_nanos_per_gpu_hour=None, isolation="process", measured={},
            shares=(), node=machine.id, versions={}, by=machine.provider,
        )  # fmt: skip
        self._must(offer)
        self._listed[machine.id] = self._clock.now_ms
        self._waiting.freed(machine.id, (machine.gpu, machine.region))
        if self._waiting:
            self._plan_clearing()

    def _plan_churn(self) -> None:
        move = next(self._moves, None)
        if move is not None:
            self._clock.at(move[0], "churn", move[1:])

    def _churn(self, comes: bool, index: int) -> None:
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
        self.record.supply.add(self._listed.pop(machine.id), now, machine.gpus)


_HEARS: Final[dict[str, Callable[[MarketRun, Event], None]]] = {
    "lease_granted": MarketRun._hear_granted,
    "lease_ended": MarketRun._hear_ended,
    "lease_charged": MarketRun._hear_charged,
    "transfer": MarketRun._hear_transfer,
    "job_state": MarketRun._hear_state,
}
