"""What the engine is compared with on the same book: welfare in dollars of each baseline.

`akash`: jobs in order of arrival, each on the one cheapest offer that has room; `arrival`, `limit`, `value`: greedy, jobs by
arrival, by price limit, by limit × hours, each on the cheapest seats, of several offers if need be; `highs`: scipy's milp for
so many seconds.
"""

from __future__ import annotations

import numpy as np

from market.engine.book import Book
from market.engine.columns import NANOS
from market.engine.solve import by_value, greedy


def greedies(made: Book) -> dict[str, float]:
    """Dollars of welfare of each greedy order."""
    orders = {
        "arrival": np.argsort(made.job_rows), "limit": np.argsort(-made.arrays.job["limit"], kind="stable"),
        "value": by_value(made.arrays),
    }  # fmt: skip
    return {name: greedy(made, order).welfare_nanos / NANOS for name, order in orders.items()}


def akash(made: Book, order: list[int]) -> float:
    """Dollars of welfare where each job takes the one cheapest offer that has room for its least."""
    arrays, free, welfare = made.arrays, made.arrays.offer["gpus"].copy(), 0.0
    for job in order:
        places = candidates(made, job)
        places = places[free[places] >= arrays.job["least"][job]]
        if len(places):
            offer = places[np.argmin(arrays.offer["price"][places])]
            gpus = min(free[offer], arrays.job["most"][job])
            free[offer] -= gpus
            welfare += gpus * arrays.job["hours"][job] * (arrays.job["limit"][job] - arrays.offer["price"][offer])
    return welfare / NANOS**2


def candidates(made: Book, job: int) -> np.ndarray:
    """Places of the offers that a job may use."""
    wish, offer, buckets = made.arrays.job[job], made.arrays.offer, made.arrays.bucket
    own = buckets[made.arrays.lists["bucket"][wish["list_first"] : wish["list_last"]]]
    places = np.concatenate([np.zeros(0, dtype=np.int64)] + [np.arange(one["first"], one["last"]) for one in own])
    good = (
        (offer["price"][places] <= wish["limit"])
        & (offer["reliability"][places] >= wish["reliability_min"])
        & (offer["max_hours"][places] >= wish["hours"])
        & (offer["available"][places] + wish["hours"] <= wish["deadline"])
        & (offer["interconnect"][places] >= wish["interconnect_min"])
    )
    return places[good]


def highs(made: Book, seconds: float) -> tuple[float, float]:
    """(welfare in dollars, HiGHS' own bound) of scipy's milp: counts per pair, one or several choices of region per job."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    arrays = made.arrays
    region = arrays.bucket["region"][arrays.offer["bucket"]]
    worth: list[float] = []
    upper: list[float] = []
    cells: list[tuple[int, int, float]] = []
    row, tops = len(arrays.offer), [float(one) for one in arrays.offer["gpus"]]
    for job in range(len(arrays.job)):
        places = candidates(made, job)
        groups = (
            [places[region[places] == one] for one in np.unique(region[places])]
            if made.jobs.same_region[made.job_rows[job]]
            else [places]
        )
        choice = row
        row, tops = row + 1, [*tops, 1.0]
        for group in groups:
            if arrays.offer["gpus"][group].sum() < arrays.job["least"][job]:
                continue
            chosen = len(worth)
            worth.append(0.0)
            upper.append(1.0)
            cells += [
                (choice, chosen, 1.0),
                (row, chosen, -float(arrays.job["most"][job])),
                (row + 1, chosen, float(arrays.job["least"][job])),
            ]
            for offer in group:
                cells += [(int(offer), len(worth), 1.0), (row, len(worth), 1.0), (row + 1, len(worth), -1.0)]
                worth.append(
                    -arrays.job["hours"][job] * (arrays.job["limit"][job] - arrays.offer["price"][offer]) / NANOS**2
                )
                upper.append(float(min(arrays.offer["gpus"][offer], arrays.job["most"][job])))
            row, tops = row + 2, [*tops, 0.0, 0.0]
    rows, columns, values = zip(*cells, strict=True)
    matrix = csr_array((values, (rows, columns)), shape=(row, len(worth)))
    found = milp(
        worth, integrality=np.ones(len(worth)), bounds=Bounds(0, upper),
        constraints=LinearConstraint(matrix, -np.inf, tops), options={"time_limit": seconds},
    )  # fmt: skip
    bound = -found.mip_dual_bound if found.mip_dual_bound is not None else float("nan")
    return (-found.fun if found.x is not None else 0.0), bound
