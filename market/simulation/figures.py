"""What a record comes to: waits, completion, fairness, utilisation, welfare, prices, refusals. Plain values, ready for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from market.simulation.records import BIN_MS, DONE, GAVE_UP, REFUSED, JobRecord, Record
from market.simulation.trace import TraceJob
from market.waits import GANGS, gang_name
from storage.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_SECOND

Json = dict[str, Any]
DAY_BINS: Final = MS_PER_DAY // BIN_MS
MOST_NAMED: Final = 40


def trace_figures(jobs: Sequence[TraceJob]) -> Json:
    """Sizes of a trace: mean demand is GPU-time over the time from the first submission to the last end, were nobody to wait."""
    span_ms = span_of(jobs)
    gpu_ms = sum(job.gpu_ms for job in jobs)
    large = sum(job.gpu_ms for job in jobs if job.gpus_max > 8)
    return {
        "jobs": len(jobs),
        "tenants": len({job.tenant for job in jobs}),
        "gpu_hours": round(gpu_ms / MS_PER_HOUR, 1),
        "mean_gpus": round(gpu_ms / span_ms, 1) if span_ms else 0.0,
        "days": round(span_ms / MS_PER_DAY, 1),
        "share_of_gpu_hours_above_8": round(large / gpu_ms, 4) if gpu_ms else 0.0,
    }


def span_of(jobs: Iterable[Any]) -> int:
    """From the first submission to the last end of a trace, were nobody to wait: milliseconds."""
    first, last = None, 0
    for job in jobs:
        first = job.submitted_ms if first is None else min(first, job.submitted_ms)
        last = max(last, job.submitted_ms + job.duration_ms)
    return 0 if first is None else last - first


def run_figures(record: Record) -> Json:
    """One run; money is in dollars, times are in seconds. Its share of the bound is filled in when that is known."""
    jobs = list(record.jobs.values())
    started = [one for one in jobs if one.started_ms is not None]
    done = [one for one in jobs if one.state == DONE]
    firm, flexible = ([one for one in jobs if one.job.interruptible is wanted] for wanted in (False, True))
    welfare = record.welfare_nanos()
    window = record.window_ms or record.end_ms
    used, there = record.used.bins(window), record.supply.bins(window)
    return {
        "jobs": len(jobs),
        "states": dict(sorted(Counter(one.state for one in jobs).items())),
        "not_served": dict(Counter(f"{one.state}: {one.reason}" for one in jobs if one.state != DONE).most_common()),
        "completion_s": spread(_seconds(one.ended_ms - one.job.submitted_ms) for one in done if one.ended_ms is not None),
        "wait_s": _waits(started),
        "wait_by_gang": _by(jobs, lambda one: gang_name(one.job.gpus_max), [gang_name(low) for low, _ in GANGS]),
        "wait_by_tenant": _by(jobs, lambda one: one.job.tenant),
        "fairness": round(jain(_received(jobs, window)), 4),
        "utilisation": round(sum(used) / sum(there), 4) if sum(there) else 0.0,
        "welfare_usd": _usd(welfare),
        "welfare_share_of_bound": None,
        "value_usd": _usd(sum(one.value_nanos for one in jobs)),
        "asked_usd": _usd(sum(one.cost_nanos for one in jobs)),
        "paid_usd": _usd(sum(one.paid_nanos for one in jobs)),
        "fee_usd": _usd(record.fee_nanos),
        "workers_lost": sum(one.lost for one in jobs),
        "preemptions": {
            "churn": sum(one.lost for one in jobs), "outbid": sum(one.outbid for one in jobs), "drain": sum(one.drained for one in jobs),
        },
        "gpu_hours": {
            "let": _hours(one.leased_gpu_ms for one in jobs),
            "useful": _hours(one.job.gpu_ms for one in done),
            "paid": _hours(one.paid_gpu_ms for one in jobs) if record.commands else None,
            "redone": _hours(one.redone_gpu_ms for one in jobs),
            "restarting": _hours(one.restarting_gpu_ms for one in jobs),
        },
        "by_terms": {
            name: _terms(own) for name, own in (("firm", firm), ("interruptible", flexible)) if own and flexible
        },
        "revenue_usd": _largest(record.revenue_nanos),
        "mean_ask_usd_per_gpu_hour": _mean_price(record),
        "clearings": record.clearings,
        "commands": record.commands,
    }


def _terms(own: Sequence[JobRecord]) -> Json:
    """What became of the jobs that may be outbid, or of the others."""
    done = [one for one in own if one.state == DONE]
    return {
        "jobs": len(own), "done": len(done), "never": sum(one.state in (GAVE_UP, REFUSED) for one in own),
        "wait_s": _waits(own),
        "completion_s": spread(_seconds(one.ended_ms - one.job.submitted_ms) for one in done if one.ended_ms is not None),
        "welfare_usd": _usd(sum(one.value_nanos - one.cost_nanos for one in own)),
        "outbid": sum(one.outbid for one in own),
    }  # fmt: skip


def _hours(gpu_ms: Iterable[int]) -> float:
    return round(sum(gpu_ms) / MS_PER_HOUR, 1)


def series(record: Record, end_ms: int) -> Json:
    """By day: GPUs let, GPUs there, GPUs waited for (means), and the mean ask of what was let."""
    used, there, waiting = (sums.bins(end_ms) for sums in (record.used, record.supply, record.waiting))
    days = range(0, len(used), DAY_BINS)
    whole = DAY_BINS * BIN_MS
    prices = []
    for first in days:
        gpus = sum(record.price_gpus.get(place, 0) for place in range(first, first + DAY_BINS))
        asks = sum(record.price_sum.get(place, 0) for place in range(first, first + DAY_BINS))
        prices.append(round(asks / gpus / 10**9, 4) if gpus else None)
    return {
        "gpus_used": [round(sum(used[first : first + DAY_BINS]) / whole, 2) for first in days],
        "gpus_there": [round(sum(there[first : first + DAY_BINS]) / whole, 2) for first in days],
        "gpus_waited_for": [round(sum(waiting[first : first + DAY_BINS]) / whole, 2) for first in days],
        "ask_usd_per_gpu_hour": prices,
    }


def jain(shares: Sequence[float]) -> float:
    """Jain's index: 1 if all have the same share, 1/n if one has everything. (Jain, Chiu and Hawe, 1984)."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def spread(values: Iterable[float]) -> Json:
    """{count, mean, p50, p90, p99}; of nothing, None."""
    ordered = sorted(values)
    if not ordered:
        return {"count": 0, "mean": None, "p50": None, "p90": None, "p99": None}
    mean = round(sum(ordered) / len(ordered), 1)
    return {"count": len(ordered), "mean": mean, **{f"p{percent}": quantile(ordered, percent) for percent in (50, 90, 99)}}


def quantile(ordered: Sequence[float], percent: int) -> float:
    """The least value that `percent` of all do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _waits(records: Iterable[JobRecord]) -> Json:
    return spread(_seconds(one.wait_ms) for one in records if one.wait_ms is not None)


def _by(jobs: Iterable[JobRecord], name: Callable[[JobRecord], str], order: Sequence[str] | None = None) -> Json:
    found: dict[str, list[JobRecord]] = {key: [] for key in order or ()}
    for one in jobs:
        found.setdefault(name(one), []).append(one)
    kept = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_NAMED] if order is None else found.items()
    return {
        key: {"jobs": len(own), "never": sum(one.state in (GAVE_UP, REFUSED) for one in own), **_waits(own)} for key, own in kept if own
    }


def _received(jobs: Iterable[JobRecord], window_ms: int) -> list[float]:
    """Of each tenant: GPU-time that it had while jobs still came, of what it would have had, were nobody to wait."""
    asked: dict[str, int] = {}
    had: dict[str, int] = {}
    for one in jobs:
        job = one.job
        running_ms = max(0, min(job.duration_ms, window_ms - job.submitted_ms))
        asked[job.tenant] = asked.get(job.tenant, 0) + running_ms * job.gpus_max
        had[job.tenant] = had.get(job.tenant, 0) + one.within_gpu_ms
    return [had[tenant] / wanted for tenant, wanted in sorted(asked.items()) if wanted]


def _mean_price(record: Record) -> float | None:
    gpus = sum(record.price_gpus.values())
    return round(sum(record.price_sum.values()) / gpus / 10**9, 4) if gpus else None


def _largest(nanos: Mapping[str, int]) -> Json:
    return {name: _usd(own) for name, own in sorted(nanos.items(), key=lambda item: (-item[1], item[0]))}


def _seconds(ms: int) -> float:
    return ms / MS_PER_SECOND


def _usd(nanos: int) -> float:
    return round(nanos / 10**9, 2)
