"""What a simulated market knows, and what it learns of the exchange's events: who waits, who holds what, who has to leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any, Final

from market.commands import SYSTEM, AddMember, Command
from market.events import Event
from market.exchange import Exchange
from market.faults import NOTICED
from market.outcomes import Refusal
from market.simulation import players
from market.simulation.churning import Seats
from market.simulation.clock import Clock
from market.simulation.interrupting import Flexibles
from market.simulation.players import Held, Run, kind_of
from market.simulation.queue import Queue, Wanted
from market.simulation.records import FAILED, Record, pieces
from market.simulation.supply import Machine
from market.simulation.terms import Terms, settings_of


class Stage:
    """One exchange and everybody around it; `record` says what became of everything. Says a command, hears its events."""

    def __init__(self, machines: Sequence[Machine], terms: Terms, seats: Seats | None = None) -> None:
        self.terms = terms
        self.record = Record("market", terms.window_ms)
        self.exchange = Exchange(settings_of(terms), keep_history=False)
        self._machines = machines
        self._of = pieces(machines)
        self._seats = seats
        self._clock = Clock()
        self.waiting = Queue(machines, terms.due_rule)
        self.flexible = Flexibles(machines)
        self._runs: dict[str, Run] = {}
        self._run_of_lease: dict[str, Run] = {}
        self._leases_on: dict[str, dict[str, None]] = {}
        self._deposits: dict[str, int] = {}
        self._shared: dict[Any, Any] = {}
        self._granted: dict[str, Run] = {}
        self._unpromised: list[str] = []
        self._listed: dict[str, int] = {}
        self._moves: Iterator[tuple[int, bool, int]] = iter(())
        self._clearing_planned = False
        self._last_clearing_ms = -1

    def ledger_total_nanos(self) -> int:
        """The sum of all balances of the exchange's ledger: 0, or money was made or lost."""
        return sum(self.exchange.balances().values())

    @property
    def idle(self) -> bool:
        """Whether no job is open."""
        return not self._runs

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

    def _want(self, run: Run) -> None:
        job, live = run.job, len(run.held)
        if live >= job.gpus_max or job.id in self.flexible.promised:
            self._wants_nothing(job.id)
            return
        whole = live >= job.gpus_min
        need, since_ms = (1 if live else job.gpus_min), run.waits_since_ms
        record = self.record.jobs[job.id]
        settles = not live and not record.lost and not record.drained
        if job.interruptible:
            self.flexible.want(job, kind_of(job), need, settles=settles)
        else:
            self.waiting.add(
                Wanted(job.id, kind_of(job), need, job.limit_nanos, players.expected_ms(run), since_ms, not whole, bool(live), settles)
            )
        if whole:
            self.flexible.forget(job.id)
        elif self.terms.interruptible:
            self.flexible.look(job.id, self._clock.now_ms)
        self._plan_clearing()

    def _wants_nothing(self, job: str) -> None:
        for queue in (self.waiting, self.flexible.waiting):
            queue.discard(job)
        self.flexible.forget(job)

    def _plan_clearing(self) -> None:
        """Something has changed: the next time that the market clears it may come to something."""
        if not self._clearing_planned:
            self._clearing_planned = True
            step = self.terms.clear_ms
            at_ms = max(self._clock.now_ms, self._last_clearing_ms + 1)
            self._clock.at(-(-at_ms // step) * step, "clear")

    def _somebody_waits(self) -> None:
        if len(self.waiting) or len(self.flexible.waiting):
            self._plan_clearing()

    def _freed(self, offer: str, gpus: int) -> None:
        self.waiting.freed(offer, gpus)
        if self.terms.interruptible:
            self.flexible.waiting.freed(offer, gpus)

    def _there(self, machine: Machine, gpus: int) -> None:
        self.waiting.listed(machine, gpus)
        if self.terms.interruptible:
            self.flexible.waiting.listed(machine, gpus)

    def _end(self, run: Run, state: str, reason: str = "") -> None:
        del self._runs[run.job.id]
        self._wants_nothing(run.job.id)
        assert not run.held, run
        self.record.ended(self.record.jobs[run.job.id], self._clock.now_ms, state, reason)

    def _returned(self, run: Run, held: Held, now_ms: int) -> None:
        record, machine = self.record.jobs[run.job.id], self._of[held.offer]
        self.record.returned(record, machine, held.granted_ms, now_ms, 1)

    def _hear_granted(self, event: Event) -> None:
        now, run = self._clock.now_ms, self._runs[event["job"]]
        run.advance(now)
        price = event["price_nanos_per_gpu_hour"]
        run.held[event["lease"]] = Held(event["lease"], event["epoch"], event["slot"], event["offer"], event["provider"], price, now)
        self._run_of_lease[event["lease"]] = run
        self._leases_on.setdefault(event["offer"], {})[event["lease"]] = None
        self._freed(event["offer"], -1)
        if run.job.interruptible:
            self.flexible.held(run.job.limit_nanos, 1)
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
        self._freed(held.offer, 1)
        if run.job.interruptible:
            self.flexible.held(run.job.limit_nanos, -1)
        if run.leaving.pop(held.id, None) is not None or event["reason"] in NOTICED:
            self._clock.at(now, "promise")
        self._somebody_waits()
        self.record.lease_ended(event)

    def _hear_charged(self, event: Event) -> None:
        self.record.charged(event)

    def _hear_transfer(self, event: Event) -> None:
        self.record.transferred(event)

    def _hear_noticed(self, event: Event) -> None:
        run = self._run_of_lease[event["lease"]]
        if not run.leaving:
            self._clock.at(self._clock.now_ms + event["notice_ms"], "leave", run.job.id)
        run.leaving[event["lease"]] = event["reason"]

    def _hear_outbid(self, event: Event) -> None:
        self.flexible.promised[event["job"]] = tuple(event["offers"])
        self._wants_nothing(event["job"])
        for offer in event["offers"]:
            self._freed(offer, -1)

    def _hear_promise_ended(self, event: Event) -> None:
        for offer in self.flexible.promised.pop(event["job"]):
            self._freed(offer, 1)
        self._unpromised.append(event["job"])

    def _hear_state(self, event: Event) -> None:
        if event["state"] == "failed" and event["job"] in self._runs:
            self._end(self._runs[event["job"]], FAILED, event["reason"])


_HEARS: Final[dict[str, Callable[[Stage, Event], None]]] = {
    "lease_granted": Stage._hear_granted,
    "lease_ended": Stage._hear_ended,
    "lease_charged": Stage._hear_charged,
    "transfer": Stage._hear_transfer,
    "job_state": Stage._hear_state,
    "lease_noticed": Stage._hear_noticed,
    "outbid": Stage._hear_outbid,
    "promise_ended": Stage._hear_promise_ended,
}
