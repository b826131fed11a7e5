"""Offers and jobs of two tables as a book: their arrays, and what the objective adds to the plain welfare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from market.engine.arrays import (
    UNBOUNDED,
    Arrays,
    Group,
    Reals,
    Wholes,
    down,
    group_arrays,
    job_arrays,
    offer_arrays,
    ranks,
    reals,
    up,
    wholes,
)  # fmt: skip
from market.engine.columns import NANOS, Jobs, Offers


@dataclass(frozen=True, slots=True)
class Fairness:
    """What the objective adds: Σ weight · ((limit − ask) · hours + ageing · waited) · GPUs (docs/adr).

    `team_weights` in billionths; teams that are not named, and jobs of none, have a weight of one. `ageing_nanos` is
    nano-dollars for each GPU and hour that a job has waited.
    """

    team_weights: Mapping[str, int] = field(default_factory=dict)
    ageing_nanos: int = 0

    def weight(self, team: str) -> int:
        """Of this team's jobs, in billionths."""
        return self.team_weights.get(team, NANOS)

    @property
    def plain(self) -> bool:
        return not self.ageing_nanos and all(one == NANOS for one in self.team_weights.values())


PLAIN = Fairness()


@dataclass(frozen=True)
class Book:
    """`offer_rows` and `job_rows` say which row of the tables stands at each place of the arrays.

    `buckets` are (region, model, how many of the memories that jobs ask for it has).
    """

    offers: Offers
    jobs: Jobs
    arrays: Arrays
    offer_rows: Wholes
    job_rows: Wholes
    buckets: tuple[tuple[str, str, int], ...]
    fairness: Fairness = PLAIN

    @cached_property
    def offer_ids(self) -> list[str]:
        """At the places of the arrays."""
        return [self.offers.ids[row] for row in self.offer_rows.tolist()]

    @cached_property
    def job_ids(self) -> list[str]:
        """At the places of the arrays."""
        return [self.jobs.ids[row] for row in self.job_rows.tolist()]


def book_of(offers: Offers, jobs: Jobs, fairness: Fairness = PLAIN) -> Book:
    """The arrays of these offers and jobs."""
    memories = sorted({one for one in jobs.vram_gib_min if one > 0})
    bucket, buckets = _buckets(offers, memories)
    regions = {name: place for place, name in enumerate(sorted({one[0] for one in buckets}))}
    region_of = wholes([regions[one[0]] for one in buckets])
    columns: dict[str, Any] = {
        "price": reals(offers.price_nanos), "gpus": wholes(offers.gpus), "reliability": reals(offers.reliability),
        "max_hours": reals(offers.max_hours), "available": reals(offers.available_in),
        "interconnect": wholes(offers.interconnect),
    }  # fmt: skip
    order, of_offers = offer_arrays(bucket, region_of, ranks(offers.ids), columns)
    job_order = wholes(sorted(range(len(jobs.ids)), key=jobs.ids.__getitem__))
    signature, signatures = _signatures(jobs, job_order.tolist(), memories)
    by_model: dict[str, list[int]] = {}
    for place, (_, gpu, _) in enumerate(buckets):
        by_model.setdefault(gpu, []).append(place)
    of_groups, places = group_arrays([groups_of(buckets, by_model, one) for one in signatures])
    of_jobs, curves = _job_columns(jobs, job_order, fairness)
    arrays = Arrays(**of_offers, **of_groups, **job_arrays(signature, places, of_jobs, curves))
    return Book(offers, jobs, arrays, order, job_order, buckets, fairness)


def _buckets(offers: Offers, memories: list[float]) -> tuple[Wholes, tuple[tuple[str, str, int], ...]]:
    if memories:
        steps = np.searchsorted(memories, offers.vram_gib, side="right").tolist()
        keys = list(zip(offers.region, offers.gpu, steps, strict=True))
    else:
        keys = [(region, gpu, 0) for region, gpu in zip(offers.region, offers.gpu, strict=True)]
    buckets = tuple(sorted(set(keys)))
    places = {key: place for place, key in enumerate(buckets)}
    return wholes([places[key] for key in keys]), buckets


Signature = tuple[tuple[str, ...], tuple[str, ...], int, bool, tuple[str, ...]]


def _signatures(jobs: Jobs, rows: list[int], memories: list[float]) -> tuple[Wholes, list[Signature]]:
    """What each job asks of buckets: models, regions, memory, one region, and the models of its curve."""
    steps = {one: place + 1 for place, one in enumerate(memories)}
    known: dict[Signature, int] = {}
    found = []
    for row in rows:
        speeds = tuple(name for name, _ in jobs.speeds[row])
        key = (jobs.gpu[row], jobs.regions[row], steps.get(jobs.vram_gib_min[row], 0), jobs.same_region[row], speeds)
        found.append(known.setdefault(key, len(known)))
    return wholes(found), list(known)


def groups_of(
    buckets: tuple[tuple[str, str, int], ...], by_model: Mapping[str, Sequence[int]], signature: Signature
) -> list[Group]:
    """The groups of buckets of one signature: one, or one for each region, for each model that has a speed, or for both."""
    models, regions, memory, same_region, speeds = signature
    named, rows = frozenset(models or by_model), {name: row for row, name in enumerate(speeds)}
    if rows:
        named &= rows.keys()
    found: dict[tuple[str, int], list[int]] = {}
    for place in sorted(place for name in named for place in by_model.get(name, ())):
        region, gpu, has = buckets[place]
        if (not regions or region in regions) and has >= memory:
            found.setdefault((region if same_region else "", rows.get(gpu, 0)), []).append(place)
    return [Group(tuple(places), row) for (_, row), places in sorted(found.items())]


def _job_columns(jobs: Jobs, order: Wholes, fairness: Fairness) -> tuple[dict[str, Any], list[tuple[int, Reals]]]:
    def picked(values: list[int] | list[float] | list[bool], kind: Any = np.float64) -> Any:
        return np.asarray(values, dtype=kind)[order] if len(order) else np.zeros(0, dtype=kind)

    limit, hours = picked(jobs.limit_nanos), picked(jobs.hours)
    worth, slope = np.nextafter(limit * hours, np.inf), hours.copy()
    rate_max = np.full(len(order), UNBOUNDED, dtype=np.int64)
    curves: list[tuple[int, Reals]] = []
    for place, row in enumerate(order.tolist()):
        weight = fairness.weight(jobs.team[row])
        bonus = fairness.ageing_nanos * jobs.waited[row]
        if weight != NANOS or bonus:
            worth[place] = up(Fraction(weight * (jobs.limit_nanos[row] * jobs.hours[row] + bonus), NANOS))
            slope[place] = down(Fraction(weight * jobs.hours[row], NANOS))
        budget = jobs.budget_nanos[row]
        if budget is not None:
            rate_max[place] = min(budget * NANOS // jobs.hours[row], UNBOUNDED - 1)
        if jobs.goodput[row]:
            curves.append((place, _curve(jobs, row, weight, bonus)))
            worth[place] = float(curves[-1][1].max()) / jobs.gpus_max[row]
    least = np.where(picked(jobs.gang, bool), picked(jobs.gpus_min, np.int64), 1)
    names = {name: place for place, name in enumerate(sorted(set(jobs.team)))}
    return {
        "least": least, "most": picked(jobs.gpus_max, np.int64), "reliability_min": picked(jobs.reliability_min),
        "limit": limit, "hours": hours, "deadline": picked(jobs.deadline), "interconnect_min": picked(jobs.interconnect_min, np.int64),
        "worth": worth, "slope": slope, "rate_max": rate_max,
        "customer": picked([names[one] for one in jobs.team], np.int64),
    }, curves  # fmt: skip


def _curve(jobs: Jobs, row: int, weight: int, bonus: int) -> Reals:
    """What 0 to gpus_max GPUs of each model with a speed are worth, rounded up."""
    most, hours = jobs.gpus_max[row], jobs.hours[row]
    table = [
        [
            up(Fraction(weight * (rate_nanos(jobs, row, gpus, speed) * hours + bonus * gpus), NANOS))
            for gpus in range(most + 1)
        ]
        for speed in [speed for _, speed in jobs.speeds[row]] or [NANOS]
    ]
    return reals([value for line in table for value in line])


def rate_nanos(jobs: Jobs, row: int, gpus: int, speed: int) -> int:
    """Nano-dollars per hour that a job makes of so many GPUs of one speed, rounded down: steps × dollars per step."""
    steps_nanos = goodput_nanos(jobs.goodput[row], gpus)
    return steps_nanos * speed * jobs.usd_per_million_steps[row] * 3600 // (NANOS * NANOS * 1_000_000)


def goodput_nanos(curve: tuple[tuple[int, int], ...], gpus: int) -> int:
    """Billionths of steps per second of so many GPUs: straight lines between what is stated, from nothing at none; flat after
    the last."""
    before, made = 0, 0
    for at, speed in curve:
        if gpus <= at:
            return made + (speed - made) * (gpus - before) // (at - before)
        before, made = at, speed
    return made


def value_nanos(book: Book, job_row: int, seats: list[tuple[int, int]]) -> int:
    """What a job makes of (row of an offer, GPUs), less the asks, in nano-dollars × nano-hours: its plain welfare."""
    jobs, offers = book.jobs, book.offers
    gpus = sum(count for _, count in seats)
    paid = sum(offers.price_nanos[row] * count for row, count in seats)
    if not jobs.goodput[job_row]:
        return (jobs.limit_nanos[job_row] * gpus - paid) * jobs.hours[job_row]
    speeds = dict(jobs.speeds[job_row])
    speed = speeds[offers.gpu[seats[0][0]]] if speeds else NANOS
    return (rate_nanos(jobs, job_row, gpus, speed) - paid) * jobs.hours[job_row]


__all__ = [
    "PLAIN",
    "Arrays",
    "Book",
    "Fairness",
    "Reals",
    "Wholes",
    "book_of",
    "goodput_nanos",
    "groups_of",
    "rate_nanos",
    "value_nanos",
]
