"""The matching engine beside the baselines, on the same book, in one process.

    python -m benchmarks.clearing --offers 1000 --jobs 300 --load 1 --highs 60 --json
    python -m benchmarks.clearing --offers 10000 --jobs 3000 --load 3 --json

Welfare as a share of the Lagrangian bound. `akash`: jobs in order of arrival, each on the one cheapest offer that has
room; `arrival`, `limit`, `value`: greedy, jobs by arrival, by price limit, by limit × hours, each on the cheapest
seats, of several offers if need be; `highs`: scipy's milp for so many seconds. Seconds are of clearing a book that is in
memory, with compiled loops in numba's cache, from cold: without prices of an earlier clearing. The engine has one
thread; CPU seconds say what it takes where other work runs beside it.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from benchmarks.clearing_books import book, rows_of
from benchmarks.report import Target, finish, parser
from market.engine.book import Book, book_of
from market.engine.columns import JOB_COLUMNS, NANOS, OFFER_COLUMNS, jobs_of, offers_of
from market.engine.memory import Memory
from market.engine.solve import by_value, default_budget, greedy, solve, warm_up


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


def again(chosen: argparse.Namespace, memory: Memory, budget: int) -> dict[str, float]:
    """Half a percent of the offers and of the jobs go and others come: what a clearing from memory takes and reaches."""
    before = rows_of(chosen.offers, chosen.jobs, chosen.load, chosen.seed)
    new = rows_of(chosen.offers, chosen.jobs, chosen.load, chosen.seed + 1)
    tables = [
        [*old[len(old) // 200 :], *(["new" + row[0], *row[1:]] for row in fresh[: len(old) // 200])]
        for old, fresh in zip(before, new, strict=True)
    ]
    offers, jobs = offers_of(OFFER_COLUMNS, tables[0]), jobs_of(JOB_COLUMNS, tables[1])
    begun, used = time.perf_counter(), time.process_time()
    changed = book_of(offers, jobs)
    done = solve(changed, budget=0, memory=memory)
    taken, cpu = time.perf_counter() - begun, time.process_time() - used
    bound = solve(changed, budget=budget, bound=True, memory=memory).bound_nanos or 1
    return {"again_seconds": taken, "again_cpu_seconds": cpu, "again_share": done.welfare_nanos / bound}


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--offers", type=int, default=1_000)
    arguments.add_argument("--jobs", type=int, default=300)
    arguments.add_argument("--load", type=float, default=1.0, help="GPUs wanted over GPUs offered")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--budget", type=int, action="append", help="million looks; may be given again")
    arguments.add_argument("--bound-budget", type=int, default=0, help="a longer run, for a better bound to divide by")
    arguments.add_argument("--highs", type=float, default=0.0, help="seconds for HiGHS; 0 for none")
    chosen = arguments.parse_args()
    warm_up()
    made = book(chosen.offers, chosen.jobs, chosen.load, chosen.seed)
    arrays = made.arrays
    figures: dict[str, float] = {"offers": chosen.offers, "jobs": chosen.jobs, "load": chosen.load, "seed": chosen.seed}
    figures |= {"gpus_offered": float(arrays.offer["gpus"].sum()), "gpus_wanted": float(arrays.job["most"].sum())}
    dollars: dict[str, float] = {}
    bounds: list[float] = []
    budgets = chosen.budget or [default_budget(arrays)]
    for budget in [*budgets, *([chosen.bound_budget] if chosen.bound_budget else [])]:
        begun, used = time.perf_counter(), time.process_time()
        done = solve(made, budget=budget, bound=True)
        figures[f"engine_{budget}_seconds"] = time.perf_counter() - begun
        figures[f"engine_{budget}_cpu_seconds"] = time.process_time() - used
        dollars[f"engine_{budget}"] = done.welfare_nanos / NANOS
        figures[f"bound_{budget}_usd"] = (done.bound_nanos or 0) / NANOS
        bounds.append((done.bound_nanos or 0) / NANOS)
    figures |= again(chosen, done.memory, budgets[0])
    arrival = np.argsort(made.job_rows)
    orders = {"arrival": arrival, "limit": np.argsort(-arrays.job["limit"], kind="stable"), "value": by_value(arrays)}
    for name, order in orders.items():
        begun = time.perf_counter()
        dollars[name] = greedy(made, order).welfare_nanos / NANOS
        figures[f"{name}_seconds"] = time.perf_counter() - begun
    begun = time.perf_counter()
    dollars["akash"] = akash(made, arrival.tolist())
    figures["akash_seconds"] = time.perf_counter() - begun
    if chosen.highs:
        begun = time.perf_counter()
        dollars["highs"], figures["highs_bound_usd"] = highs(made, chosen.highs)
        figures["highs_seconds"] = time.perf_counter() - begun
    bound = min(bounds)
    figures["bound_usd"] = bound
    for name, welfare in dollars.items():
        figures[f"{name}_usd"], figures[f"{name}_share"] = welfare, welfare / bound
    engine = dollars[f"engine_{budgets[0]}"]
    for name in ("akash", "arrival", "limit", "value", *(["highs"] if chosen.highs else [])):
        figures[f"engine_to_{name}"] = engine / dollars[name]
    targets = {"engine_to_value": Target(figures["engine_to_value"], 1.0, at_most=False)}
    if chosen.highs:
        targets["engine_to_highs"] = Target(figures["engine_to_highs"], 0.99, at_most=False)
    return finish(figures, targets, chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
