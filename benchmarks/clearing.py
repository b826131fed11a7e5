"""Every promise of the matching engine in one line: `torg clear` at each size and load, beside the baselines on the same books.

    python -m benchmarks.clearing --json
    python -m benchmarks.clearing --sizes 1000,10000 --loads 1 --highs 0 --no-new-bid

Each figure is of `torg clear` in a process of its own on files (benchmarks/clearing_books.py), with the compiled loops in numba's
cache on disk. `clear`: its `clear_ms`, from the tables in memory to the seats, from cold; `whole`: the process from its start to
its end, reading, loading and writing included. `again`: half a percent of offers and of jobs went and as many others came, from
the memory of the clearing before. Welfare is a share of the least Lagrangian bound that any run on the same book proved; no
clearing can have more, so it is a share of the optimum or less. One new bid: benchmarks/new_bid.py, with as many offers as the
largest book.

Targets are judged by the clock on the wall; `targets_by_cpu` judges the same by seconds of CPU (the engine has one thread), which
is what is left to say where other work runs beside it.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.clearing_baselines import akash, greedies, highs
from benchmarks.clearing_books import Rows, rows_of
from benchmarks.report import Target, finish, parser, say
from market.engine.book import book_of
from market.engine.columns import JOB_COLUMNS, OFFER_COLUMNS, jobs_of, offers_of

BEYOND_SECONDS = 3.0
"""How much longer than its clearing a whole process may take."""
NEW_BID_MS = 5.0


@dataclass(frozen=True, slots=True)
class Size:
    """How large a book is and what is promised of it.

    Args:
        cold: (budget in million looks, least share of the bound, most seconds); no share: better than every greedy order.
        bound_budget: of a longer run that only proves a bound; 0 for none.
        again: most seconds of a clearing from memory, which must reach 98 % of the bound; None: nothing is promised.
    """

    offers: int
    jobs: int
    cold: tuple[tuple[int, float | None, float], ...]
    bound_budget: int = 0
    again: float | None = None


SIZES = (
    Size(1_000, 300, ((7, 0.99, 0.3),), bound_budget=60),
    Size(10_000, 3_000, ((20, 0.965, 1.0), (179, 0.985, 10.0)), again=0.1),
    Size(100_000, 10_000, ((250, None, 10.0),), again=1.0),
)


def changed(before: Rows, fresh: Rows) -> Rows:
    """Half a percent of the rows went and as many others came, so that a percent of the book has changed."""
    count = len(before) // 200
    return [*before[count:], *(["new" + row[0], *row[1:]] for row in fresh[:count])]


class Files:
    """Tables in a folder, and `torg clear` on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, tables: Sequence[Rows]) -> None:
        for kind, columns, rows in zip(("offers", "jobs"), (OFFER_COLUMNS, JOB_COLUMNS), tables, strict=True):
            with (self.folder / f"{name}-{kind}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([columns, *rows])

    def clear(self, name: str, *options: str, runs: int = 1) -> dict[str, float]:
        """Median over `runs` processes of what each took, and the dollars that the last one reached."""
        each = [self._once(name, options) for _ in range(runs)]
        return {key: statistics.median(one[key] for one in each) for key in each[-1]}

    def _once(self, name: str, options: Sequence[str]) -> dict[str, float]:
        tables = [str(self.folder / f"{name}-{kind}.csv") for kind in ("offers", "jobs")]
        out = self.folder / "out.json"
        begun = time.perf_counter()
        with out.open("w") as file:
            started = subprocess.Popen([sys.executable, "-m", "cli", "clear", *tables, "--json", *options], stdout=file)
            _, status, used = os.wait4(started.pid, 0)
        whole = time.perf_counter() - begun
        started.returncode = os.waitstatus_to_exitcode(status)
        assert started.returncode == 0, f"torg clear ended with {started.returncode}"
        told = json.loads(out.read_text())
        return {
            "clear_seconds": told["clear_ms"] / 1000, "clear_cpu_seconds": told["clear_cpu_ms"] / 1000, "whole_seconds": whole,
            "whole_cpu_seconds": used.ru_utime + used.ru_stime, "load_seconds": told["load_ms"] / 1000,
            "read_seconds": told["read_ms"] / 1000, "welfare_usd": told["welfare_usd"], "bound_usd": told.get("bound_usd", 0.0),
        }  # fmt: skip


@dataclass
class Report:
    """Cases in the order in which they were measured, and what was promised of them."""

    cases: list[dict[str, Any]]
    targets: dict[str, Target]
    by_cpu: dict[str, Target]

    def promise(self, name: str, case: Mapping[str, Any], seconds: float, share: float | None) -> None:
        for into, kind in ((self.targets, ""), (self.by_cpu, "cpu_")):
            clear, whole = case[f"clear_{kind}seconds"], case[f"whole_{kind}seconds"]
            into[f"{name}_seconds"] = Target(clear, seconds)
            into[f"{name}_beyond_clear_seconds"] = Target(whole - clear, BEYOND_SECONDS)
            if share is not None:
                into[f"{name}_of_bound"] = Target(case["of_bound"], share, at_most=False)
            elif "greedy" in case:
                into[f"{name}_to_greedy"] = Target(case["of_bound"] / case["greedy"], 1.0, at_most=False)


def measure(files: Files, size: Size, load: float, seed: int, runs: int, highs_seconds: float, report: Report) -> None:
    """The cold clearings of one book, the baselines on it, and the clearing after one percent of it has changed."""
    before = rows_of(size.offers, size.jobs, load, seed)
    files.write("book", before)
    memory = files.folder / "memory.json"
    memory.unlink(missing_ok=True)
    name, about = f"{size.offers}x{size.jobs}_load{load:g}", {"offers": size.offers, "jobs": size.jobs, "load": load}
    budgets = [budget for budget, _, _ in size.cold]
    cold = [files.clear("book", "--bound", "--budget", str(budget), runs=runs) for budget in budgets]
    files.clear("book", "--budget", str(budgets[0]), "--memory", str(memory))
    bounds = [one["bound_usd"] for one in cold]
    if size.bound_budget:
        bounds.append(files.clear("book", "--bound", "--budget", str(size.bound_budget))["bound_usd"])
    made = book_of(offers_of(OFFER_COLUMNS, before[0]), jobs_of(JOB_COLUMNS, before[1]))
    orders = greedies(made)
    baselines = {"akash": akash(made, sorted(range(size.jobs), key=made.job_rows.__getitem__)), "greedy": max(orders.values())}
    baselines |= {f"greedy_by_{order}": dollars for order, dollars in orders.items()}
    if highs_seconds:
        baselines["highs"] = highs(made, highs_seconds)[0]
    shares = {key: dollars / min(bounds) for key, dollars in baselines.items()}
    for one, (budget, share, seconds) in zip(cold, size.cold, strict=True):
        case = about | {"from": "cold", "budget": budget} | one | {"of_bound": one["welfare_usd"] / min(bounds)} | shares
        report.cases.append(case)
        report.promise(f"{name}_budget{budget}", case, seconds, share)
    if size.again is not None:
        fresh = rows_of(size.offers, size.jobs, load, seed + 1)
        files.write("changed", [changed(old, new) for old, new in zip(before, fresh, strict=True)])
        kept = memory.read_text()
        each = []
        for _ in range(runs):
            memory.write_text(kept)
            each.append(files.clear("changed", "--budget", "0", "--memory", str(memory)))
        one = {key: statistics.median(every[key] for every in each) for key in each[0]}
        memory.write_text(kept)
        bound = files.clear("changed", "--bound", "--budget", str(budgets[0]), "--memory", str(memory))["bound_usd"]
        case = about | {"from": "memory", "budget": 0} | one | {"bound_usd": bound, "of_bound": one["welfare_usd"] / bound}
        report.cases.append(case)
        report.promise(f"{name}_again", case, size.again, 0.98)


def new_bid(offers: int, seed: int, report: Report) -> dict[str, float]:
    """The figures of benchmarks/new_bid.py."""
    line = [sys.executable, "-m", "benchmarks.new_bid", "--offers", str(offers), "--seed", str(seed), "--json"]
    ran = subprocess.run(line, stdout=subprocess.PIPE, check=False)
    figures: dict[str, float] = json.loads(ran.stdout)["figures"]
    for into, kind in ((report.targets, ""), (report.by_cpu, "cpu_")):
        into["new_bid_ms_p99"] = Target(figures[f"answer_{kind}ms_p99"], NEW_BID_MS)
    return figures


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--sizes", default="1000,10000,100000", help="offers of the books to clear")
    arguments.add_argument("--loads", default="1,3", help="GPUs wanted over GPUs offered")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--runs", type=int, default=3, help="processes of which the median counts")
    arguments.add_argument("--highs", type=float, default=60.0, help="seconds for HiGHS; 0 for none")
    arguments.add_argument("--highs-offers", type=int, default=1_000, help="the largest book that HiGHS gets: above this one it finds next to nothing in a minute")
    arguments.add_argument("--no-new-bid", action="store_true", help="do not measure one new bid")
    chosen = arguments.parse_args()
    wanted = {int(one) for one in chosen.sizes.split(",")}
    report = Report([], {}, {})
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        files.write("warm", rows_of(40, 20, 3.0, 1))
        files.clear("warm")  # the first run compiles
        for size in SIZES:
            for load in map(float, chosen.loads.split(",")):
                if size.offers in wanted:
                    measure(files, size, load, chosen.seed, chosen.runs, chosen.highs if size.offers <= chosen.highs_offers else 0.0, report)
                    say(chosen.json, f"{size.offers:,} × {size.jobs:,} at load {load:g} after {time.perf_counter() - begun:.0f} s")
    bid = {} if chosen.no_new_bid else new_bid(max(wanted), chosen.seed, report)
    figures = {f"new_bid_{name}": value for name, value in bid.items()}
    figures |= {name: target.value for name, target in report.targets.items()}
    by_cpu = {name: {"value": one.value, "target": one.bound, "ok": one.ok} for name, one in report.by_cpu.items()}
    load_average = list(os.getloadavg())
    also = {"cases": report.cases, "targets_by_cpu": by_cpu, "load_average": load_average, "cores": os.cpu_count()}
    return finish(figures, report.targets, chosen.json, also)


if __name__ == "__main__":
    raise SystemExit(main())
