"""How long a job takes and what it costs, as a range: from earlier runs, else from measured hardware, else nothing. Pure.

The rule. Each earlier run of the same work (market/experience.py) foretells one time for the job at hand; with n of them the
range is the prediction interval for one more on a logarithmic scale that holds CLAIMED of all: their geometric mean times or
over exp(t · s · √(1 + 1/n)), where s² = (PRIOR_RUNS · σ² + Σ(ln xᵢ − mean)²) / (PRIOR_RUNS + n − 1) and t is Student's
quantile with as many degrees of freedom. σ is how far runs are taken to scatter before there are any to see it by: 15 % of
the same work on the same hardware, 40 % across hardware and from floating-point operations alone. While fewer estimates
come true than is claimed, ranges are widened (`Experience.widening`). Waiting for machines is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Final

from market.book import OrderBook
from market.clearing import clear
from market.command_checking import is_command
from market.constraints import CONSTRAINTS
from market.experience import CLAIMED, Experience, Run, Score, work_of
from market.orders import Bid, BookSnapshot, Offer
from market.outcomes import Json
from market.renting import against_alone
from market.speeds import expected_job_ms, flops_per_second, parameters_of, tokens_per_step
from storage.units import MS_PER_HOUR
from trainers.options import DEFAULT_STRATEGY
from trainers.round_lengths import round_lengths

SAME_HARDWARE: Final = 0.15
OTHER_HARDWARE: Final = 0.40
PRIOR_RUNS: Final = 2
NUMBERS: Final[Sequence[int]] = (1, 2, 4, 8)
OTHER_GPUS: Final = 3
ANY_TIME_MS: Final = 2**62
QUANTILE: Final = NormalDist().inv_cdf(0.5 + CLAIMED / 2)

Measured = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Range:
    """`middle` is as likely too high as too low; CLAIMED of all are within. `half`: ln(high ÷ middle) before widening."""

    low: float
    middle: float
    high: float
    half: float


def range_of(samples: Sequence[float], prior: float, widened: float = 1.0) -> Range:
    """The range for one more of what gave these positive samples, by the rule above; at least one sample."""
    logs = [math.log(sample) for sample in samples]
    mean = math.fsum(logs) / len(logs)
    freedom = PRIOR_RUNS + len(logs) - 1
    variance = (PRIOR_RUNS * prior**2 + math.fsum((one - mean) ** 2 for one in logs)) / freedom
    half = student(freedom) * math.sqrt(variance * (1 + 1 / len(logs)))
    wide = half * widened
    return Range(math.exp(mean - wide), math.exp(mean), math.exp(mean + wide), half)


def student(freedom: int) -> float:
    """Quantile of Student's t that CLAIMED lies within on both sides; to 0.3 % from 2 degrees on (Cornish and Fisher)."""
    z = QUANTILE
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def estimate_of(
    spec: Json, seats: Sequence[Offer], measured: Measured, experience: Experience, customer: str
) -> Json | None:
    """Time from the first lease to the end, and price, on these seats; None where nothing is known.

    {basis, runs, gpu, workers, low_ms, middle_ms, high_ms, low_nanos, middle_nanos, high_nanos, half, widened, claimed}.
    `basis`: `runs` on this GPU, `other_gpu` (runs on others, by measured speeds), or `hardware` (measured speed alone).
    """
    found = _samples(spec, seats, measured, experience.runs.get(work_of(spec, customer), []))
    if found is None:
        return None
    basis, samples = found
    widened = experience.widening()
    prior = SAME_HARDWARE if basis == "runs" else OTHER_HARDWARE
    rate = sum(seat.price_nanos_per_gpu_hour for seat in seats) * int(spec["workers"]["gpus"])
    time = range_of([takes_ms for takes_ms, _ in samples], prior, widened)
    work = range_of([max(1.0, takes_ms * charged) for takes_ms, charged in samples], prior, widened)
    whole = {name: round(getattr(time, name)) for name in ("low", "middle", "high")}
    price = {name: round(rate * getattr(work, name) / MS_PER_HOUR) for name in ("low", "middle", "high")}
    return {
        "basis": basis,
        "runs": 0 if basis == "hardware" else len(samples),
        "gpu": seats[0].gpu,
        "workers": len(seats),
        **{f"{name}_ms": value for name, value in whole.items()},
        **{f"{name}_nanos": value for name, value in price.items()},
        "half": round(time.half, 6),
        "widened": round(widened, 4),
        "claimed": CLAIMED,
    }


def may_be_estimated(spec: Json, experience: Experience, customer: str) -> bool:
    """False where `estimate_of` has nothing to go by, whatever the seats: a command that nobody has run yet."""
    return not is_command(spec) or work_of(spec, customer) in experience.runs


def _samples(
    spec: Json, seats: Sequence[Offer], measured: Measured, runs: Sequence[Run]
) -> tuple[str, list[tuple[float, float]]] | None:
    """What the time is foretold from: a basis, and (milliseconds, share of them that is charged) of each run."""
    if not seats:
        return None
    steps, rounds = (1, 0) if is_command(spec) else (int(spec["steps"]), int(spec["rounds"]))
    gpus = {seat.gpu for seat in seats}
    speeds = [flops_per_second(measured.get(seat.id, {}), seat.gpus) for seat in seats]
    slowest = None if None in speeds else min(speed for speed in speeds if speed is not None)
    same = _of_as_many([run for run in runs if {run.gpu} == gpus], len(seats))
    if same:
        return "runs", [(run.takes_ms(steps, rounds, _slower(run, slowest)), run.charged) for run in same]
    others = _of_as_many([run for run in runs if run.flops_per_second and slowest], len(seats))
    if others:
        return "other_gpu", [(run.takes_ms(steps, rounds, _slower(run, slowest)), run.charged) for run in others]
    expected_ms = None if is_command(spec) else expected_job_ms(spec, seats, measured)
    return None if expected_ms is None else ("hardware", [(float(max(1, expected_ms)), 1.0)])


def _of_as_many(runs: list[Run], workers: int) -> list[Run]:
    """Those of as many workers, if there are any: what a round takes depends on it."""
    return [run for run in runs if run.workers == workers] or runs


def _slower(run: Run, now: float | None) -> float:
    return run.flops_per_second / now if run.flops_per_second and now else 1.0


def alternatives(
    spec: Json,
    bid: Bid,
    offers: Sequence[Offer],
    measured: Measured,
    experience: Experience,
    customer: str,
    workers: int,
) -> list[Json]:
    """What other numbers of workers, or another GPU, would take and cost now; only what the market could begin.

    {workers, gpu, same, estimate, time_ratio, price_ratio}, ratios to the plan. `same`: what is held equal: the `job`, the
    held-out `loss` (by studies of such jobs, market/renting.py), or where that was not measured the `data` read by all.
    """
    plan = estimate_of(spec, seats_for(bid, offers), measured, experience, customer)
    if plan is None or not workers:
        return []
    found = []
    for number in () if is_command(spec) else NUMBERS:
        seats = seats_for(replace(bid, workers_min=number, workers_max=number), offers)
        if number != workers and len(seats) == number:
            same, scaled = _as_good(spec, workers, number)
            found.append((number, same, estimate_of(scaled, seats, measured, experience, customer)))
    for gpu in _other_gpus(bid, offers, plan["gpu"]):
        asked = replace(bid, workers_min=workers, workers_max=workers, requires=replace(bid.requires, gpu=(gpu,)))
        seats = seats_for(asked, offers)
        if len(seats) == workers:
            found.append((workers, "job", estimate_of(spec, seats, measured, experience, customer)))
    return [
        {
            "workers": number,
            "gpu": estimate["gpu"],
            "same": same,
            "estimate": estimate,
            "time_ratio": round(estimate["middle_ms"] / max(1, plan["middle_ms"]), 4),
            "price_ratio": round(estimate["middle_nanos"] / max(1, plan["middle_nanos"]), 4),
        }
        for number, same, estimate in found
        if estimate is not None
    ]


def seats_for(bid: Bid, offers: Sequence[Offer]) -> list[Offer]:
    """Whom a bid would get if it were alone."""
    return seats_in(bid, OrderBook(offers))


def seats_in(bid: Bid, book: OrderBook) -> list[Offer]:
    """The same of offers that are indexed already."""
    matches = clear(BookSnapshot((), (bid,), book=book), reasons=False, forgone=False).matches
    found = [book.get(offer) for offer in matches[0].offers] if matches else []
    return [offer.seen_by(bid.customer) for offer in found if offer is not None]


def seats_of_any_time(bid: Bid, book: OrderBook) -> list[Offer]:
    """Where it would run, of machines that are let too if need be: by these its time is estimated, so that lease times and windows,
    which ask for that time, do not count yet."""
    timeless = replace(bid, expected_ms=ANY_TIME_MS, lasts_ms=bid.requires.stays_ms)
    return seats_in(timeless, book) or idle_seats(timeless, book)


def idle_seats(bid: Bid, book: OrderBook) -> list[Offer]:
    """The cheapest seats for its smallest gang, were nobody on them; empty where the listed machines do not have as many."""
    found: list[Offer] = []
    for offer in book.cheapest(bid.requires):
        if offer.price_nanos_per_gpu_hour > bid.max_price_nanos_per_gpu_hour:
            break
        idle = replace(offer, gpus_free=offer.gpus, units_of={}, unit_ms_of={}, closes_ms=None).seen_by(bid.customer)
        if all(test(idle, bid) for _, test in CONSTRAINTS):
            found += [idle] * (offer.gpus // bid.requires.gpus)
        if len(found) >= max(1, bid.workers_min):
            return found[: max(1, bid.workers_min)]
    return []


def _other_gpus(bid: Bid, offers: Sequence[Offer], gpu: str) -> list[str]:
    """The cheapest of the other models that are free."""
    prices: dict[str, int] = {}
    for offer in offers:
        if offer.gpu != gpu and offer.matchable and offer.gpus_free >= bid.requires.gpus:
            prices[offer.gpu] = min(
                prices.get(offer.gpu, offer.price_nanos_per_gpu_hour), offer.price_nanos_per_gpu_hour
            )
    return sorted(prices, key=lambda name: (prices[name], name))[:OTHER_GPUS]


def _as_good(spec: Json, workers: int, other: int) -> tuple[str, Json]:
    """The job for another number of workers, with steps for the same held-out loss or the same data."""
    shares = [_steps_share(spec, number) for number in (workers, other)]
    if None not in shares:
        (now, then), same = shares, "loss"
    else:
        now, then, same = 1 / workers, 1 / other, "data"
    assert now is not None
    assert then is not None
    steps = max(1, round(int(spec["steps"]) * then / now))
    rounds = round_lengths(spec["strategy"], steps).rounds_from(0)
    return same, {**spec, "steps": steps, "rounds": rounds}


def _steps_share(spec: Json, workers: int) -> float | None:
    """Steps that so many workers need to one worker's loss, by its steps; None where that was not measured of such jobs."""
    if workers == 1:
        return 1.0
    parameters, tokens = parameters_of(spec), tokens_per_step(spec)
    if parameters is None or tokens is None:
        return None
    found = against_alone(spec["strategy"].get("name", DEFAULT_STRATEGY), workers, parameters, tokens)
    if found is None or not found["alike"]:
        return None
    low, high = found["hours_ratio"]
    return math.sqrt(low * high)


def outcome_of(estimate: Mapping[str, Any], took_ms: int, cost_nanos: int) -> Json:
    """How an estimate came true: {took_ms, cost_nanos, within_time, within_cost, error_share}."""
    return {
        "took_ms": took_ms,
        "cost_nanos": cost_nanos,
        "within_time": estimate["low_ms"] <= took_ms <= estimate["high_ms"],
        "within_cost": estimate["low_nanos"] <= cost_nanos <= estimate["high_nanos"],
        "error_share": round(took_ms / max(1, estimate["middle_ms"]) - 1, 4),
    }


def score_of(job: str, estimate: Mapping[str, Any], took_ms: int, cost_nanos: int) -> Score:
    """The same for the market's calibration."""
    came = outcome_of(estimate, took_ms, cost_nanos)
    error = abs(math.log(max(1, took_ms) / max(1, estimate["middle_ms"])))
    return Score(job, came["within_time"] and came["within_cost"], round(error, 6), estimate["half"])
