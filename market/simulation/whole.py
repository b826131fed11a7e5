"""A whole simulation: supply by load, the market, the baselines on the same trace, the bound, and what it all comes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from market.simulation.baselines import BASELINES, BaselineRun
from market.simulation.bound import welfare_bound_nanos
from market.simulation.churning import Seats
from market.simulation.enlarging import enlarged
from market.simulation.figures import run_figures, series, span_of, trace_figures
from market.simulation.market import MarketRun
from market.simulation.outlooks import calibration
from market.simulation.records import Record
from market.simulation.rule import interruptible, priced
from market.simulation.supply import Machine, gpus_of, scaled, with_providers
from market.simulation.terms import Terms
from market.simulation.trace import BareJob, TraceJob
from market.worth import DueRule
from storage.units import MS_PER_HOUR, MS_PER_MINUTE

MARKET: Final = "market"
LEAST_LOAD, MOST_LOAD = 0.01, 100.0

Tell = Callable[[str, int, int], None]
"""Told (which run, jobs that came so far, of how many)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`load` None: the offers as they are. `baselines`: names of market/simulation/baselines.py, in order. `outlook_every`: of
    every so many jobs one looks at its plan before it is submitted; 0: none. `interruptible`: the share of jobs that may be outbid.
    `times`: the trace is made so many times as large first. `due_rule`: of the market (market/worth.py)."""

    load: float | None = 0.9
    seed: int = 1
    fee_ppm: int = 50_000
    clear_ms: int = MS_PER_MINUTE
    save_ms: int = 6 * MS_PER_HOUR
    baselines: tuple[str, ...] = BASELINES
    price_rule: str = "ask"
    outlook_every: int = 0
    interruptible: float = 0.0
    times: int = 1
    due_rule: DueRule = field(default_factory=DueRule)


@dataclass(slots=True)
class Whole:
    """`told` is plain JSON; `records` hold the details of each run, by name."""

    told: dict[str, Any]
    records: dict[str, Record]
    ledger_nanos: int


class NothingToDo(ValueError):
    """No job, or no machine."""


def supply_for(jobs: Sequence[BareJob] | Sequence[TraceJob], listed: Sequence[Machine], plan: Plan, seats: Seats | None) -> list[Machine]:
    """As many machines as the load asks for: mean demand ÷ load ÷ the share of the time that they are there."""
    if plan.load is None:
        return with_providers(listed)
    demand = sum((job.gpus if isinstance(job, BareJob) else job.gpus_max) * job.duration_ms for job in jobs)
    there = 1.0 if seats is None else seats.share()
    return scaled(listed, max(1, round(demand / max(1, span_of(jobs)) / plan.load / there)), plan.seed)


def _stage(
    jobs: Sequence[BareJob] | Sequence[TraceJob], listed: Sequence[Machine], plan: Plan, seats: Seats | None
) -> tuple[list[TraceJob], list[Machine]]:
    """The jobs and machines that are played: as many times as large, by load, with prices, and some interruptible."""
    bare = enlarged([job for job in jobs if isinstance(job, BareJob)], plan.times, plan.seed)
    trace = enlarged([job for job in jobs if isinstance(job, TraceJob)], plan.times, plan.seed)
    machines = supply_for(bare or trace, listed, plan, seats)
    if bare:
        trace = list(priced(bare, machines, plan.seed))
    if plan.interruptible:
        trace = list(interruptible(trace, plan.interruptible, plan.seed))
    return trace, machines


def simulate(
    jobs: Sequence[BareJob] | Sequence[TraceJob], listed: Sequence[Machine], plan: Plan, seats: Seats | None = None,
    tell: Tell = lambda _run, _came, _all: None, *, keep: bool = True,
) -> Whole:  # fmt: skip
    """Play the trace; raises NothingToDo where there is no job or no machine. The same arguments give the same bits.

    Without `keep` the records say nothing of single jobs: those of one run at a time are in memory.
    """
    if not jobs:
        raise NothingToDo("the trace has no jobs")
    if not listed:
        raise NothingToDo("there are no offers")
    trace, machines = _stage(jobs, listed, plan, seats)
    window_ms = trace[-1].submitted_ms
    horizon_ms = window_ms + 2 * max(job.duration_ms for job in trace) + max(job.patience_ms or 0 for job in trace)
    terms = Terms(plan.seed, plan.fee_ppm, plan.clear_ms, plan.save_ms, horizon_ms, window_ms, plan.price_rule, plan.outlook_every, any(job.interruptible for job in trace), plan.due_rule)
    records: dict[str, Record] = {}
    runs: dict[str, Any] = {}
    welfare: dict[str, int] = {}
    outlooks = None

    def note(record: Record) -> None:
        records[record.name], runs[record.name] = record, run_figures(record)
        welfare[record.name] = record.welfare_nanos()
        if not keep:
            record.jobs.clear()

    market = MarketRun(machines, terms, seats)
    played = market.play(trace, lambda came, _now: tell(MARKET, came, len(trace)))
    ledger_nanos = market.ledger_total_nanos()
    del market
    if plan.outlook_every:
        outlooks = calibration(played.outlooks, played.jobs, plan.clear_ms)
    note(played)
    for name in plan.baselines:
        run = BaselineRun(name, machines, terms, seats)
        note(run.play(trace, lambda came, _now, name=name: tell(name, came, len(trace))))  # type: ignore[misc]
        del run
    end_ms = max(record.end_ms for record in records.values())
    tell("bound", 0, len(trace))
    bound = welfare_bound_nanos(trace, machines, end_ms, stretched=seats is not None)
    for name, figures in runs.items():
        figures["welfare_share_of_bound"] = round(welfare[name] / bound, 4) if bound else None
    told = {
        "trace": trace_figures(trace),
        "supply": {
            "machines": len(machines), "gpus": gpus_of(machines), "providers": len({machine.provider for machine in machines}),
            "models": len({machine.gpu for machine in machines}),
        },
        "plan": {
            "load": plan.load, "seed": plan.seed, "fee_ppm": plan.fee_ppm, "clear_ms": plan.clear_ms, "save_ms": plan.save_ms,
            "churn": seats is not None, "price_rule": plan.price_rule,
            "interruptible": plan.interruptible, "times": plan.times, "due_rule": asdict(plan.due_rule),
        },
        "bound_usd": round(bound / 10**9, 2),
        "end_days": round(end_ms / 86_400_000, 2),
        "money_conserved": ledger_nanos == 0,
        "runs": runs,
        "by_day": {name: series(record, end_ms) for name, record in records.items()},
    }  # fmt: skip
    if outlooks is not None:
        told["outlooks"] = outlooks
    return Whole(told, records, ledger_nanos)
