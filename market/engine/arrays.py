"""A book as flat arrays in an order of its own, so that the order of the rows decides nothing.

Offers stand in buckets of equals (one region, model and whatever else all of them share), in a bucket by ask, then id. A job
sees its offers as groups of buckets, one of which serves its whole gang; jobs that ask for the same share the list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
Wholes = npt.NDArray[np.int64]
BLOCK = 32
UNBOUNDED = 2**62
OUTWARD_RENTS = 2.0**-50
"""Eight times the relative error of one rounding."""
FAR = 4e14
"""More nano-hours than anybody may write, and than any sum of two."""


OFFER = np.dtype([
    ("price", "f8"), ("reliability", "f8"), ("max_hours", "f8"), ("available", "f8"), ("gpus", "i8"), ("cap", "i8"),
    ("interconnect", "i4"), ("bucket", "i4"), ("block", "i4"), ("held_first", "i4"), ("held_last", "i4"), ("unused", "i4"),
])  # fmt: skip
"""An offer: GPUs that are free, of which one customer may have `cap`; `held` from held_first on says what customers have."""

BLOCK_OF_OFFERS = np.dtype([
    ("reliability", "f8"), ("hours", "f8"), ("available", "f8"), ("interconnect", "i8"), ("begin", "i8"), ("end", "i8"),
    ("next", "i8"),
])  # fmt: skip
"""A run of offers of one bucket and the best that it has of everything; the next one that was added later, or −1."""

BUCKET = np.dtype([
    ("first", "i8"), ("last", "i8"), ("block_first", "i8"), ("block_last", "i8"), ("added", "i8"), ("region", "i8"),
])  # fmt: skip
"""Its offers and blocks, and the first block that was added later, or −1."""

JOB = np.dtype([
    ("limit", "f8"), ("worth", "f8"), ("slope", "f8"), ("ceiling", "f8"), ("hours", "f8"), ("deadline", "f8"),
    ("reliability_min", "f8"), ("rank", "f8"), ("least", "i8"), ("most", "i8"), ("chunk", "i8"), ("rate_max", "i8"),
    ("interconnect_min", "i8"), ("group_first", "i8"), ("group_last", "i8"), ("list_first", "i8"), ("list_last", "i8"),
    ("curve_first", "i8"), ("customer", "i8"), ("team", "i8"), ("shut_first", "i8"), ("shut_last", "i8"), ("stays", "i8"),
])  # fmt: skip
"""A job: least and most GPUs, in whole workers of `chunk`; what an offer must meet; hours until the seats are left.

`worth` is of one GPU before its price, rounded up; `slope` what a nano-dollar of ask per hour costs, rounded down; `ceiling`
the most that one more GPU can be worth; `rank` the order of service. `rate_max` are the nano-dollars per hour that all seats
together may ask, UNBOUNDED where there is no budget. `curve_first` is −1 without a curve, `team` −1 without one. `shut` from
shut_first on are offers that it may not have, sorted. `stays` is 1 for a job that nobody may lift.
"""

ENTRY = np.dtype([("bucket", "i8"), ("owned", "i8")])
"""A bucket as a job sees it; `owned` is 1 where it costs the job nothing."""

GROUP = np.dtype([("begin", "i8"), ("end", "i8"), ("row", "i8")])
"""Entries that may serve a gang together, and the row of the job's curve that holds there."""

HELD = np.dtype([("customer", "i8"), ("gpus", "i8")])
Records = npt.NDArray[np.void]


class Arrays(NamedTuple):
    """What the compiled loops read: records, so that what is looked at together lies together.

    Money in nano-dollars and time in nano-hours, as float64: both are below 2**53 and so exact. What a seat is worth is
    nano-dollars × nano-hours. `curve` has for each row of a job's the worth of 0 to most GPUs; `team_gpus` how many GPUs each
    team may get; `caps` is 1 where any owner limits what one customer may have.
    """

    offer: Records
    block: Records
    block_gpus: Wholes
    bucket: Records
    lists: Records
    group: Records
    job: Records
    curve: Reals
    shut: Wholes
    held: Records
    team_gpus: Wholes
    unbounded: int
    caps: int


@dataclass(frozen=True, slots=True)
class Group:
    """Buckets that may serve a gang together. `row` is that of the job's curve; `owned` of the buckets cost it nothing."""

    buckets: tuple[int, ...]
    row: int = 0
    owned: frozenset[int] = frozenset()


def wholes(values: Sequence[int]) -> Wholes:
    return np.asarray(values, dtype=np.int64)


def reals(values: Sequence[float] | Sequence[int]) -> Reals:
    return np.asarray(values, dtype=np.float64)


def ranks(names: Sequence[str]) -> Wholes:
    """The place of each name among all, sorted."""
    found = np.zeros(len(names), dtype=np.int64)
    found[wholes(sorted(range(len(names)), key=names.__getitem__))] = np.arange(len(names))
    return found


def up(value: Fraction | int) -> float:
    """The least float64 that is not below the value."""
    found = float(value)
    return found if found >= value else math.nextafter(found, math.inf)


def down(value: Fraction | int) -> float:
    """The largest float64 that is not above the value."""
    found = float(value)
    return found if found <= value else math.nextafter(found, -math.inf)


def offer_arrays(
    bucket: Wholes, region_of: Wholes, id_rank: Wholes, columns: dict[str, Any]
) -> tuple[Wholes, dict[str, Any]]:
    """(order of the rows, the arrays of offers). `columns` are price, gpus, reliability, max_hours, available and
    interconnect of each row; cap may be with them."""
    order = np.lexsort((id_rank, columns["price"], bucket))
    offer = np.zeros(len(order), dtype=OFFER)
    for name, values in columns.items():
        offer[name] = values[order]
    if "cap" not in columns:
        offer["cap"] = UNBOUNDED
    counts = np.bincount(bucket, minlength=len(region_of))
    made = np.zeros(len(region_of), dtype=BUCKET)
    made["last"] = np.cumsum(counts)
    made["first"] = made["last"] - counts
    made["region"], made["added"] = region_of, -1
    offer["bucket"] = bucket[order]
    block, gpus = _blocks_of(offer, made)
    held = np.zeros(0, dtype=HELD)
    return order, {
        "offer": offer, "bucket": made, "block": block, "block_gpus": gpus, "held": held, "caps": int("cap" in columns),
    }  # fmt: skip


def _blocks_of(offer: Records, bucket: Records) -> tuple[Records, Wholes]:
    """Runs of at most BLOCK offers of one bucket, and the best that each has of everything."""
    counts = -(-(bucket["last"] - bucket["first"]) // BLOCK)
    bucket["block_last"] = np.cumsum(counts)
    bucket["block_first"] = bucket["block_last"] - counts
    block = np.zeros(int(counts.sum()), dtype=BLOCK_OF_OFFERS)
    number = np.arange(len(block)) - np.repeat(bucket["block_first"], counts)
    starts = np.repeat(bucket["first"], counts) + number * BLOCK
    block["begin"], block["next"] = starts, -1
    block["end"] = np.append(starts[1:], len(offer)) if len(block) else starts
    offer["block"] = np.repeat(np.arange(len(block)), block["end"] - block["begin"])
    if not len(block):
        return block, np.zeros(0, dtype=np.int64)
    for merge, to, name in (
        (np.maximum, "reliability", "reliability"), (np.maximum, "hours", "max_hours"), (np.minimum, "available", "available"),
        (np.maximum, "interconnect", "interconnect"),
    ):  # fmt: skip
        block[to] = merge.reduceat(offer[name], starts)
    return block, np.add.reduceat(offer["gpus"], starts)


def group_arrays(signatures: Sequence[Sequence[Group]]) -> tuple[dict[str, Any], Records]:
    """The groups of each signature, and for each signature the fields of JOB that say where they are."""
    lists: list[tuple[int, int]] = []
    group: list[tuple[int, int, int]] = []
    found = np.zeros(len(signatures), dtype=[(name, "i8") for name in PLACES])
    for place, groups in enumerate(signatures):
        begin, first = len(lists), len(group)
        for one in groups:
            at = len(lists)
            lists.extend((bucket, int(bucket in one.owned)) for bucket in one.buckets)
            group.append((at, len(lists), one.row))
        found[place] = (first, len(group), begin, len(lists))
    return {"lists": np.array(lists, dtype=ENTRY), "group": np.array(group, dtype=GROUP)}, found


PLACES = ("group_first", "group_last", "list_first", "list_last")


def job_arrays(
    signature: Wholes, places: Records, columns: dict[str, Any], curves: Sequence[tuple[int, Reals]]
) -> dict[str, Any]:
    """The arrays of jobs. `columns` are least, most, limit, worth and slope of each; the rest may be with them.
    `curves` are (job, its table by row and GPUs) of those that have one."""
    job = np.zeros(len(signature), dtype=JOB)
    job["chunk"], job["deadline"], job["rate_max"], job["team"], job["curve_first"] = 1, FAR, UNBOUNDED, -1, -1
    for name in PLACES:
        job[name] = places[name][signature]
    for name, values in columns.items():
        job[name] = values
    job["ceiling"], job["rank"], at = job["worth"], job["worth"], 0
    for place, flat in curves:
        least, most = int(job["least"][place]), int(job["most"][place])
        table = flat.reshape(-1, most + 1)
        job["curve_first"][place], at = at, at + table.size
        steps = np.diff(table[:, max(0, least - 1) :], axis=1)
        job["ceiling"][place] = max(float(steps.max()), float(table[:, least].max()) / least) * (1.0 + 2.0**-40)
        job["rank"][place] = float(table.max()) / most
    none = np.zeros(0, dtype=np.int64)
    curve = np.concatenate([np.zeros(0), *(table.ravel() for _, table in curves)])
    return {"job": job, "curve": curve, "shut": none, "team_gpus": none, "unbounded": UNBOUNDED}
