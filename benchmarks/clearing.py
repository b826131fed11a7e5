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

import time

import numpy as np

from benchmarks.clearing_books import book
from benchmarks.report import Target, finish, parser
from market.engine.book import Book
from market.engine.columns import NANOS
from market.engine.solve import by_value, default_budget, greedy, solve, warm_up


def akash(made: Book, order: list[int]) -> float:
    """Dollars of welfare where each job takes the one cheapest offer that has room for its least."""
    arrays, free, welfare = made.arrays, made.arrays.gpus.copy(), 0.0
    for job in order:
        places = candidates(made, job)
        places = places[free[places] >= arrays.least[job]]
        if len(places):
            offer = places[np.argmin(arrays.price[places])]
            gpus = min(free[offer], arrays.most[job])
            free[offer] -= gpus
            welfare += gpus * arrays.hours[job] * (arrays.limit[job] - arrays.price[offer])
    return welfare / NANOS**2


def candidates(made: Book, job: int) -> np.ndarray:
    """Places of the offers that a job may use."""
    arrays, signature = made.arrays, made.arrays.signature[job]
    buckets = arrays.lists[arrays.list_first[signature] : arrays.list_first[signature + 1]]
    places = np.concatenate([np.zeros(0, dtype=np.int64)] + [np.arange(arrays.first[one], arrays.first[one + 1]) for one in buckets])  # fmt: skip
    good = (
        (arrays.price[places] <= arrays.limit[job])
        & (arrays.reliability[places] >= arrays.reliability_min[job])
        & (arrays.max_hours[places] >= arrays.hours[job])
        & (arrays.available[places] + arrays.hours[job] <= arrays.deadline[job])
        & (arrays.interconnect[places] >= arrays.interconnect_min[job])
    )
    return places[good]


def highs(made: Book, seconds: float) -> tuple[float, float]:
    """(welfare in dollars, HiGHS' own bound) of scipy's milp: counts per pair, one or several choices of region per job."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    arrays = made.arrays
    bucket_of = np.repeat(np.arange(len(arrays.region_of)), np.diff(arrays.first))
    region = arrays.region_of[bucket_of] if len(bucket_of) else bucket_of
    worth: list[float] = []
    upper: list[float] = []
    cells: list[tuple[int, int, float]] = []
    row, tops = len(arrays.price), [float(one) for one in arrays.gpus]
    for job in range(len(arrays.limit)):
        places = candidates(made, job)
        groups = (
            [places[region[places] == one] for one in np.unique(region[places])]
            if arrays.same_region[job]
            else [places]
        )
        choice = row
        row, tops = row + 1, [*tops, 1.0]
        for group in groups:
            if arrays.gpus[group].sum() < arrays.least[job]:
                continue
            chosen = len(worth)
            worth.append(0.0)
            upper.append(1.0)
            cells += [
                (choice, chosen, 1.0),
                (row, chosen, -float(arrays.most[job])),
                (row + 1, chosen, float(arrays.least[job])),
            ]
            for offer in group:
                cells += [(int(offer), len(worth), 1.0), (row, len(worth), 1.0), (row + 1, len(worth), -1.0)]
                worth.append(-arrays.hours[job] * (arrays.limit[job] - arrays.price[offer]) / NANOS**2)
                upper.append(float(min(arrays.gpus[offer], arrays.most[job])))
            row, tops = row + 2, [*tops, 0.0, 0.0]
    rows, columns, values = zip(*cells, strict=True)
    matrix = csr_array((values, (rows, columns)), shape=(row, len(worth)))
    found = milp(
        worth, integrality=np.ones(len(worth)), bounds=Bounds(0, upper),
        constraints=LinearConstraint(matrix, -np.inf, tops), options={"time_limit": seconds},
    )  # fmt: skip
    bound = -found.mip_dual_bound if found.mip_dual_bound is not None else float("nan")
    return (-found.fun if found.x is not None else 0.0), bound


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
    figures |= {"gpus_offered": float(arrays.gpus.sum()), "gpus_wanted": float(arrays.most.sum())}
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
    arrival = np.argsort(made.job_rows)
    orders = {"arrival": arrival, "limit": np.argsort(-arrays.limit, kind="stable"), "value": by_value(arrays)}
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
