"""A book as flat arrays in an order of its own, so that the order of the rows decides nothing.

Offers stand in buckets, one for each (region, model), buckets by name and offers in a bucket by ask, then id. A job
sees its offers as a list of buckets, each cheapest first; jobs that name the same models and regions share the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from market.engine.columns import Jobs, Offers

Reals = npt.NDArray[np.float64]
Wholes = npt.NDArray[np.int64]
BLOCK = 32
Bytes = npt.NDArray[np.int8]


class Arrays(NamedTuple):
    """What the compiled loops read; n offers, m jobs, b buckets, s signatures of jobs.

    Money in nano-dollars and time in nano-hours, as float64: both are below 2**53 and so exact. `first` (b + 1) gives
    each bucket's offers; `lists` and `list_first` (s + 1) the buckets of each signature, by region; `signature` (m).
    """

    price: Reals
    gpus: Wholes
    reliability: Reals
    max_hours: Reals
    available: Reals
    interconnect: Bytes
    first: Wholes
    region_of: Wholes
    lists: Wholes
    list_first: Wholes
    signature: Wholes
    least: Wholes
    most: Wholes
    reliability_min: Reals
    limit: Reals
    hours: Reals
    deadline: Reals
    interconnect_min: Bytes
    same_region: Bytes
    block_first: Wholes
    blocks: Wholes
    block_of: Wholes
    block_gpus: Wholes
    block_reliability: Reals
    block_hours: Reals
    block_available: Reals
    block_interconnect: Bytes


@dataclass(frozen=True, slots=True)
class Book:
    """`offer_rows` and `job_rows` say which row of the tables stands at each place of the arrays."""

    offers: Offers
    jobs: Jobs
    arrays: Arrays
    offer_rows: Wholes
    job_rows: Wholes
    buckets: tuple[tuple[str, str], ...]


def book_of(offers: Offers, jobs: Jobs) -> Book:
    """The arrays of these offers and jobs."""
    keys = list(zip(offers.region, offers.gpu, offers.price_nanos, offers.ids, strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    buckets: list[tuple[str, str]] = []
    first: list[int] = []
    for place, row in enumerate(order):
        if not buckets or buckets[-1] != keys[row][:2]:
            buckets.append(keys[row][:2])
            first.append(place)
    first.append(len(order))
    regions = {name: place for place, name in enumerate(sorted({region for region, _ in buckets}))}
    job_order = sorted(range(len(jobs.ids)), key=jobs.ids.__getitem__)
    signatures: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
    signature = [signatures.setdefault((jobs.gpu[row], jobs.regions[row]), len(signatures)) for row in job_order]
    lists: list[int] = []
    list_first = [0]
    for models, wanted in signatures:
        named, places = frozenset(models), frozenset(wanted)
        lists.extend(
            place
            for place, (region, gpu) in enumerate(buckets)
            if (not named or gpu in named) and (not places or region in places)
        )
        list_first.append(len(lists))

    def reals(values: list[int] | list[float], rows: list[int]) -> Reals:
        return np.asarray(values, dtype=np.float64)[rows] if rows else np.zeros(0)

    def wholes(values: list[int], rows: list[int]) -> Wholes:
        return np.asarray(values, dtype=np.int64)[rows] if rows else np.zeros(0, dtype=np.int64)

    gang = np.asarray(jobs.gang, dtype=bool)[job_order] if job_order else np.zeros(0, dtype=bool)
    plain: dict[str, Any] = {
        "price": reals(offers.price_nanos, order),
        "gpus": wholes(offers.gpus, order),
        "reliability": reals(offers.reliability, order),
        "max_hours": reals(offers.max_hours, order),
        "available": reals(offers.available_in, order),
        "interconnect": wholes(offers.interconnect, order).astype(np.int8),
        "first": np.asarray(first, dtype=np.int64),
        "region_of": np.asarray([regions[region] for region, _ in buckets], dtype=np.int64),
        "lists": np.asarray(lists, dtype=np.int64),
        "list_first": np.asarray(list_first, dtype=np.int64),
        "signature": np.asarray(signature, dtype=np.int64),
        "least": np.where(gang, wholes(jobs.gpus_min, job_order), 1),
        "most": wholes(jobs.gpus_max, job_order),
        "reliability_min": reals(jobs.reliability_min, job_order),
        "limit": reals(jobs.limit_nanos, job_order),
        "hours": reals(jobs.hours, job_order),
        "deadline": reals(jobs.deadline, job_order),
        "interconnect_min": wholes(jobs.interconnect_min, job_order).astype(np.int8),
        "same_region": wholes([int(one) for one in jobs.same_region], job_order).astype(np.int8),
    }
    arrays = Arrays(**plain, **_blocks(plain, BLOCK))
    rows = np.asarray(order, dtype=np.int64), np.asarray(job_order, dtype=np.int64)
    return Book(offers, jobs, arrays, *rows, tuple(buckets))


def _blocks(plain: dict[str, Any], size: int) -> dict[str, Any]:
    """Runs of at most `size` offers of one bucket, and the best that each has of everything."""
    first, offers = plain["first"], len(plain["price"])
    counts = -(-np.diff(first) // size)
    block_first = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts)))
    number = np.arange(block_first[-1]) - np.repeat(block_first[:-1], counts)
    blocks = np.append(np.repeat(first[:-1], counts) + number * size, offers)
    starts = blocks[:-1]

    def best(merge: np.ufunc, name: str) -> Any:
        return merge.reduceat(plain[name], starts) if offers else plain[name]

    return {
        "block_first": block_first, "blocks": blocks, "block_of": np.repeat(np.arange(len(starts)), np.diff(blocks)),
        "block_gpus": best(np.add, "gpus"), "block_reliability": best(np.maximum, "reliability"),
        "block_hours": best(np.maximum, "max_hours"), "block_available": best(np.minimum, "available"),
        "block_interconnect": best(np.maximum, "interconnect"),
    }  # fmt: skip
