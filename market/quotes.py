"""The plan of a job before it is submitted: who would train it, for how long, for how much, or why nobody can.

The time is an estimate: from earlier runs of the same work, else from the measured speed of the offers, always with a range
(market/estimates.py); where nothing is known the plan says so with None. How the job stands against one machine alone is
said of language models only, from what was measured of such (market/renting.py). The fields are in docs/API.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from market.advice import advice
from market.book import OrderBook
from market.clearing import clear, explain
from market.command_checking import is_command
from market.estimates import alternatives, estimate_of
from market.experience import Experience
from market.explaining import why_view
from market.feasibility import cheapest_minute_nanos, never_fits
from market.orders import Bid, BookSnapshot, Offer
from market.outcomes import Json, Refusal
from market.renting import against_alone, sentence
from market.speeds import expected_step_s, parameters_of, tokens_per_step
from market.traffic import format_speed, needed_bits_per_second, sent_bytes_of_round
from storage.units import MS_PER_HOUR, format_duration
from trainers.options import DEFAULT_STRATEGY


@dataclass(frozen=True, slots=True)
class Means:
    """What its customer may do now: money that a hold can take, what each spending limit leaves (market/spending.py), and
    what the market would refuse the job for if it were submitted."""

    wallet_nanos: int
    limits: tuple[Json, ...] = ()
    refusal: Refusal | None = None


def make_plan(
    spec: Json, bid: Bid, offers: Sequence[Offer], measured: Mapping[str, Mapping[str, float]], means: Means,
    experience: Experience, customer: str,
) -> Json:  # fmt: skip
    """The plan of a valid spec on the book of now. `measured` maps offers to what their providers measured."""
    clearing = clear(BookSnapshot(tuple(offers), (bid,)))
    by_id = {offer.id: offer.seen_by(bid.customer) for offer in offers}
    seats = [by_id[offer] for offer in clearing.matches[0].offers] if clearing.matches else []
    reason, detail, relaxations = _why_not(bid, offers, seats, means.refusal)
    why = {} if seats else why_view(offers, bid)
    prices = [seat.price_nanos_per_gpu_hour for seat in seats]
    rate = sum(prices) * bid.requires.gpus
    estimate = estimate_of(spec, seats, measured, experience, customer)
    expected_ms = None if estimate is None else estimate["middle_ms"]
    cost = None if estimate is None else estimate["middle_nanos"]
    budget = spec["limits"]["budget_nanos"]
    sent = expected_sent_bytes(spec, len(seats))
    step_s = expected_step_s(spec, seats, measured)
    needed = None if sent is None or step_s is None else needed_bits_per_second(spec["strategy"], sent, step_s)
    versus = expected_against_alone(spec, len(seats))
    return {
        "feasible": reason is None,
        "reason": reason,
        "detail": detail,
        "relaxations": list(relaxations),
        "steps": why.get("steps", []),
        "price_short": why.get("price_short"),
        "helps": why.get("helps", []),
        "would_help": why.get("would_help"),
        "workers": len(seats),
        "workers_min": bid.workers_min,
        "workers_max": bid.workers_max,
        "price_nanos_per_hour": rate,
        "price_nanos_per_gpu_hour": max(prices, default=None),
        "expected_s": None if expected_ms is None else expected_ms / 1_000,
        "expected_cost_nanos": None if cost is None else min(cost, budget),
        "estimate": estimate,
        "alternatives": alternatives(spec, bid, offers, measured, experience, customer, len(seats)),
        "calibration": experience.calibration(),
        "strategy": None if is_command(spec) else spec["strategy"].get("name", DEFAULT_STRATEGY),
        "sent_bytes_per_worker_round": sent,
        "sent_bytes_per_worker_hour": None
        if sent is None or expected_ms is None
        else round(sent * spec["rounds"] * MS_PER_HOUR / expected_ms),
        "needed_bits_per_second": needed,
        "against_alone": versus,
        "budget_lasts_s": budget * 3_600 // rate if rate else None,
        "budget_covers": None if cost is None else cost <= budget,
        "max_cost_nanos": budget,
        "wallet_nanos": means.wallet_nanos,
        "limits": list(means.limits),
        "refusal": None if means.refusal is None else asdict(means.refusal),
        "candidates": [_candidate(seat, bid) for seat in seats],
        "advice": _on_leaving(spec, seats, estimate)
        + ([] if is_command(spec) else advice(spec) + _on_renting(spec, versus, expected_ms, needed)),
    }


def expected_against_alone(spec: Json, workers: int) -> Json | None:
    """How so many workers stand against one machine alone; None where that was not measured, or of no language model."""
    parameters, tokens = parameters_of(spec), tokens_per_step(spec)
    if parameters is None or tokens is None:
        return None
    return against_alone(spec["strategy"].get("name", DEFAULT_STRATEGY), workers, parameters, tokens)


def _on_renting(spec: Json, versus: Json | None, expected_ms: int | None, needed: int | None) -> list[str]:
    if versus is None:
        return []
    link = None if needed is None else format_speed(needed)
    strategy = spec["strategy"].get("name", DEFAULT_STRATEGY)
    return [sentence(versus, strategy, int(spec["steps"]), expected_ms, link)]


def _candidate(seat: Offer, bid: Bid) -> Json:
    return {
        "offer": seat.id,
        "provider": seat.provider,
        "gpu": seat.gpu,
        "gpus": bid.requires.gpus,
        "vram_gib": seat.vram_gib,
        "region": seat.region,
        "reliability": seat.reliability,
        "isolation": seat.isolation,
        "price_nanos_per_gpu_hour": seat.price_nanos_per_gpu_hour,
        "until_ms": seat.terms.until_ms,
    }


def _on_leaving(spec: Json, seats: Sequence[Offer], estimate: Json | None) -> list[str]:
    """Of machines that may go before the job is over: by what is expected, else by the command's timeout.

    Neither is known well enough to refuse such a machine: a timeout is an upper bound, and what is saved moves on.
    """
    timeout_ms = spec["command"]["timeout_ms"] if is_command(spec) else None
    expected_ms = None if estimate is None else estimate["high_ms"]
    bounds: list[tuple[int | None, str]] = [(timeout_ms, "its timeout"), (expected_ms, "as expected")]
    may_take_ms, why = min(((ms, told) for ms, told in bounds if ms is not None), default=(0, ""))
    going = {seat.id: seat for seat in seats if seat.stays_ms is not None and seat.stays_ms < may_take_ms}
    hours = -(-may_take_ms * 100 // MS_PER_HOUR) / 100
    return [
        f"{seat.provider} lets its machine for {format_duration(seat.stays_ms or 0)} from now on, and the job may take "
        f"{format_duration(may_take_ms)} ({why}): it would go on elsewhere from its last save; workers.available_hours "
        f"{hours:g} asks for machines that stay"
        for seat in going.values()
    ]


def _why_not(
    bid: Bid, offers: Sequence[Offer], seats: Sequence[Offer], refusal: Refusal | None
) -> tuple[str | None, str, tuple[str, ...]]:
    """Reason, sentence and single changes that would help; None if the job would start now."""
    never = never_fits(offers, bid)
    if never is not None:
        return str(never.reason), never.detail, never.relaxations
    if not seats:
        why = explain(offers, bid)
        minute = cheapest_minute_nanos(OrderBook(offers), bid)
        waits = minute is not None and minute <= bid.spendable_nanos
        return str(why.reason), why.detail + ("; it would wait" if waits else ""), why.relaxations
    if refusal is not None:
        return refusal.code, refusal.message, () if refusal.remedy is None else (refusal.remedy,)
    return None, "", ()


def expected_sent_bytes(spec: Json, workers: int) -> int | None:
    """What each worker sends in a round, or None where the model's size is not known."""
    parameters = parameters_of(spec)
    return None if parameters is None else sent_bytes_of_round(spec["strategy"], parameters, workers)
