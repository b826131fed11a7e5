"""The market in virtual time: how long a trace takes, and what the market makes of it beside the baselines.

    python -m benchmarks.simulate --trace philly-jobs.csv.gz --offers listed-asks.csv --load 0.9 --json
    python -m benchmarks.simulate --synthetic 82247 --gpus 416 --json

`--synthetic N` makes N jobs of the Philly trace's shape (sizes and times by its quantiles, bursts of a tenant at a time), so
that no file is needed; `--gpus` is then the supply that its mean demand is scaled to. One thread; CPU seconds say what it
takes where other work runs beside it. Ratios are of welfare: to the proven bound, and to each baseline of the same run.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
import resource
import time
from bisect import bisect_right
from pathlib import Path

from benchmarks.report import parser
from market.simulation.baselines import BASELINES
from market.simulation.supply import Machine, machines_of
from market.simulation.trace import BareJob, philly_jobs
from market.simulation.whole import MARKET, Plan, simulate

SIZES = ((1, 0.9317), (2, 0.9538), (4, 0.9765), (8, 0.9965), (16, 0.9989), (32, 0.9997), (64, 1.0))
"""Shares of the Philly trace's jobs up to each size."""
SECONDS = ((0.0, 1), (0.01, 17), (0.1, 61), (0.25, 115), (0.5, 1_144), (0.75, 2_932), (0.9, 11_266), (0.99, 254_884), (0.999, 1_186_475), (1.0, 2_000_000))
"""Quantiles of its durations."""
DAY_MS = 86_400_000
MODELS = (("RTX3060", 12, 0.15), ("RTX3090", 24, 0.17), ("RTX4090", 24, 0.38), ("RTX5090", 32, 0.46), ("A100", 40, 0.75), ("L40S", 48, 0.6), ("H100", 80, 2.0), ("H200", 141, 2.6))


def synthetic(jobs: int, seed: int, days: float) -> list[BareJob]:
    """Jobs of the trace's shape, in bursts: a tenant sends several of one size and about one duration within an hour."""
    source, found = random.Random(seed), []
    tenants = [f"tenant-{number}" for number in range(15)]
    while len(found) < jobs:
        begin, tenant = int(source.random() * days * DAY_MS), tenants[int(15 * source.random() ** 3)]
        middle = source.random()
        for _ in range(min(jobs - len(found), 1 + int(source.expovariate(1 / 20)))):
            draw = source.random()
            size = next(size for size, up_to in SIZES if draw <= up_to)
            seconds = _duration(min(1.0, max(0.0, middle + source.gauss(0, 0.1))))
            found.append(BareJob("", tenant, begin + int(source.random() * 3_600_000), max(1_000, int(seconds * 1_000)), size))
    found.sort(key=lambda job: (job.submitted_ms, job.duration_ms, job.gpus))
    first = found[0].submitted_ms
    return [BareJob(f"job-{n}", one.tenant, one.submitted_ms - first, one.duration_ms, one.gpus) for n, one in enumerate(found, 1)]


def _duration(share: float) -> float:
    place = min(len(SECONDS) - 1, bisect_right([at for at, _ in SECONDS], share))
    (low, less), (high, more) = SECONDS[place - 1], SECONDS[place]
    return float(less * (more / less) ** ((share - low) / (high - low)))


def machines(seed: int) -> list[Machine]:
    """A list of machines to repeat: eight models, three regions, one to eight GPUs."""
    source, found = random.Random(seed), []
    for number in range(60):
        model, vram, usd = MODELS[number % len(MODELS)]
        ask = int(usd * (0.9 + 0.3 * source.random()) * 100) * 10_000_000
        found.append(Machine(f"m{number}", "", model, source.choice((1, 2, 4, 8)), float(vram), source.choice(("eu", "na", "as")), ask))
    return found


def main() -> None:
    """Play, and print one line."""
    options = parser(__doc__ or "")
    options.add_argument("--trace", type=Path)
    options.add_argument("--offers", type=Path)
    options.add_argument("--synthetic", type=int, default=5_000)
    options.add_argument("--days", type=float, default=109.0)
    options.add_argument("--gpus", type=int, default=0, help="supply of a synthetic trace; 0: by --load")
    options.add_argument("--load", type=float, default=0.9)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--times", type=int, default=1, help="the trace so many times as large, of the same shape")
    options.add_argument("--interruptible", type=float, default=0.0, help="the share of jobs that may be outbid")
    options.add_argument("--no-baselines", action="store_true")
    asked = options.parse_args()
    begun, begun_cpu = time.perf_counter(), time.process_time()
    if asked.trace is not None:
        packed = asked.trace.read_bytes()
        text = (gzip.decompress(packed) if asked.trace.suffix == ".gz" else packed).decode()
        rows = (cells for cells in csv.reader(text.splitlines()) if cells)
        jobs = philly_jobs(next(rows), rows)
    else:
        jobs = synthetic(asked.synthetic, asked.seed, asked.days)
    listed = machines(asked.seed)
    if asked.offers is not None:
        with asked.offers.open() as file:
            rows = (cells for cells in csv.reader(file) if cells)
            listed = machines_of(next(rows), rows)
    load = asked.load
    if asked.gpus:  # of the trace as it is; --times keeps the load
        span = max(job.submitted_ms + job.duration_ms for job in jobs)
        load = sum(job.gpus * job.duration_ms for job in jobs) / span / asked.gpus
    plan = Plan(load=load, seed=asked.seed, times=asked.times, interruptible=asked.interruptible, baselines=() if asked.no_baselines else BASELINES)
    told = simulate(jobs, listed, plan).told
    runs = told["runs"]
    market = runs[MARKET]
    line = {
        "benchmark": "simulate", **told["trace"], **told["supply"], "load": round(load, 4),
        "seconds": round(time.perf_counter() - begun, 1), "cpu_seconds": round(time.process_time() - begun_cpu, 1),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "commands": market["commands"], "clearings": market["clearings"], "money_conserved": told["money_conserved"],
        "preemptions": market["preemptions"], "market_gpu_hours": market["gpu_hours"],
        "welfare_to_bound": market["welfare_share_of_bound"],
        **{f"welfare_to_{name}": round(market["welfare_usd"] / one["welfare_usd"], 4) for name, one in runs.items() if name != MARKET and one["welfare_usd"] > 0},
        "wait_p50_s": market["wait_s"]["p50"], "wait_p99_s": market["wait_s"]["p99"], "fairness": market["fairness"], "utilisation": market["utilisation"],
    }  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()
