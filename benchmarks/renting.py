"""Where renting pays: hours and dollars to a held-out loss, for workers × strategy × link, one machine alone as the unit.

    python -m benchmarks.renting --workers 2 4 --strategy ddp diloco streaming_diloco --link none 20mbit 2mbit
    python -m benchmarks.renting --rates 0.001 0.002 0.004 --batch 6 24 --inner-steps 10 30 --keep renting.jsonl
    python -m benchmarks.renting --compute-s 0.25      as if a step took so long: a larger model, or a slower machine

What is learnt is simulated (`trainers.simulation`: production code in one process, the same bits as on a network). What a
step computes is measured here, on one core with nothing beside it. What a synchronisation takes is worked out:

    round = H · compute + max(0, bytes · 8 / link − overlap · compute)

with the bytes that the worker with most sends in a round, 4 % of framing, links with their speed in both directions;
`benchmarks.training --link` measures the same on real cables, docs/PROTOCOLS.md compares. Every job is trained to its end
at several lengths, because a learning rate's schedule makes a half-done run no short one; between two lengths time is
exponential in the loss (`benchmarks.frontier`). A worker costs the same everywhere, so dollars are hours times workers.

With several `--rates` everybody is at its best one: the lone machine, and each strategy × workers × batch × H at each
length, the best by the mean over the seeds. Each `--batch` has a lone machine of its own as unit. `--keep FILE` keeps every
job that is done and runs none twice: a study may be killed, gone on with, and widened. Figures are called
`STRATEGY.WORKERS.bBATCH.hH.steps_ratio` (steps of each worker by those of the lone machine to its last loss; `_low` and
`_high` over the seeds) and `….LINK.hours_ratio`, `….LINK.dollars_ratio`.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.cables import bits_per_second
from benchmarks.frontier import round_seconds, undominated
from benchmarks.learnt import Learnt, NotKept, append, key_of, load
from benchmarks.ratios import Kind, at_best_rates, by_kind, steps_ratios
from benchmarks.report import finish, parser, say
from benchmarks.training import add_job_arguments, options_for
from benchmarks.trials import Job, Place, comparator_trial
from market.traffic import EACH_STEP
from trainers.options import STRATEGIES, round_steps, strategy_options

ALONE = "alone"
ALONE_STRATEGY = "ddp"
COMPUTE_STEPS = 60

Json = dict[str, Any]
Task = tuple[str, Job, Json]
"""(strategy, job, the strategy's options with all defaults)."""


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    made = parser(__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument(
        "--strategy", nargs="+", default=["ddp", "diloco", "streaming_diloco"], choices=sorted(STRATEGIES)
    )
    made.add_argument("--workers", nargs="+", type=int, default=[2, 4])
    made.add_argument("--link", nargs="+", default=["none", "20mbit", "2mbit"])
    made.add_argument("--steps", type=int, default=1200, help="of one machine alone, whose last loss is the goal")
    made.add_argument("--shares", nargs="+", type=float, default=[0.35, 0.6, 1.0], help="lengths of a job as shares of "
                      "the steps alone")  # fmt: skip
    add_job_arguments(made, grid=True)
    made.add_argument(
        "--rates", nargs="+", type=float, default=None, help="inner rates to choose from, in place of --lr"
    )
    made.add_argument("--compute-s", nargs="+", type=float, default=None, help="seconds of a step, one for each batch, "
                      "instead of the measured ones")  # fmt: skip
    made.add_argument("--processes", type=int, default=1, help="simulations at a time")
    made.add_argument(
        "--keep", type=Path, default=None, metavar="FILE", help="of finished jobs, which are not run again"
    )
    return made


def alone(chosen: argparse.Namespace) -> Iterator[Task]:
    """The lone machine's jobs: for each batch, seed and rate."""
    options = strategy_options({"name": ALONE_STRATEGY, "inner_steps": chosen.steps})
    for batch, seed, rate in product(chosen.batch, _seeds(chosen), chosen.rates or [chosen.lr]):
        yield ALONE_STRATEGY, _job(chosen, batch, seed, rate, 1, chosen.steps, chosen.steps), options


def together(chosen: argparse.Namespace) -> Iterator[Task]:
    """Everybody else's, short ones first. Raises ValueError for options that a strategy does not have."""
    places = product(sorted(chosen.shares), chosen.batch, chosen.strategy, chosen.workers, chosen.inner_steps)
    for share, batch, strategy, workers, inner_steps in places:
        if strategy in EACH_STEP and inner_steps != max(chosen.inner_steps):
            continue  # what it learns does not depend on how often it commits
        own = options_for(strategy, chosen.set)
        options = strategy_options({"name": strategy, "inner_steps": inner_steps, **own})
        steps = whole_rounds(share * chosen.steps, inner_steps)
        for seed, rate in product(_seeds(chosen), chosen.rates or [chosen.lr]):
            yield strategy, _job(chosen, batch, seed, rate, workers, steps, inner_steps), options


def _seeds(chosen: argparse.Namespace) -> range:
    return range(1, chosen.seeds + 1)


def _job(
    chosen: argparse.Namespace, batch: int, seed: int, rate: float | None, workers: int, steps: int, inner_steps: int
) -> Job:
    return Job(
        size=chosen.size, context=chosen.context, batch=batch, lr=rate, steps=steps, inner_steps=inner_steps,
        workers=workers, seed=seed, link="none", optimizer=chosen.optimizer,
    )  # fmt: skip


def whole_rounds(steps: float, inner_steps: int) -> int:
    """The nearest whole number of rounds, in steps."""
    return max(1, round(steps / inner_steps)) * inner_steps


def simulate(
    tasks: Sequence[Task],
    digest: str,
    keep: Path | None,
    run: Callable[[Sequence[Task]], Iterable[Learnt]],
    quiet: bool,
) -> list[Learnt]:
    """How each of the tasks ends, in their order; `run` is given those that the file does not keep yet.

    Raises NotKept for a file of something else.
    """
    kept = {} if keep is None else load(keep)
    keys = [key_of(strategy, job, options, digest) for strategy, job, options in tasks]
    missing = [task for key, task in dict(zip(keys, tasks, strict=True)).items() if key not in kept]
    say(quiet, f"{len(set(keys))} jobs, {len(set(keys)) - len(missing)} of them done before")
    for number, one in enumerate(run(missing), start=1):
        kept[one.key] = one
        if keep is not None:
            append(keep, one)
        ended = "diverged" if one.held_out is None else f"held-out {one.held_out:.4f}"
        rate = "" if one.job.lr is None else f", rate {one.job.lr:g}"
        where = f"{Kind.of(one)}, {one.job.steps} steps, seed {one.job.seed}{rate}"
        say(quiet, f"{number} of {len(missing)}: {where}: {ended}")
    return [kept[key] for key in keys]


def _run(data: Path, digest: str, processes: int, tasks: Sequence[Task]) -> Iterator[Learnt]:
    """As they end."""
    from benchmarks.simulated import learn

    if processes == 1:  # a pool would outlive us when we are killed
        yield from (learn(data, digest, job, strategy, options) for strategy, job, options in tasks)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        started = [pool.submit(learn, data, digest, job, strategy, options) for strategy, job, options in tasks]
        for done in as_completed(started):
            yield done.result()


def figures(
    lone: Sequence[Learnt], others: Sequence[Learnt], links: Sequence[str], compute_s: dict[int, float]
) -> tuple[Json, list[Json], list[Json]]:
    """(figures by name; for each batch and link what nothing beats; kinds whose lengths miss the lone machine's loss)."""
    goals = {kind.batch: at_best_rates(runs) for kind, runs in by_kind(lone).items()}
    found: Json = {}
    for batch, runs in goals.items():
        found |= {f"{ALONE}.b{batch}.compute_s": compute_s[batch]} | _ends(f"{ALONE}.b{batch}", runs)
    missed: list[Json] = []
    costs: dict[tuple[int, str], dict[str, tuple[float, float]]] = {
        place: {ALONE: (1.0, 1.0)} for place in product(goals, links)
    }
    for kind, tried in sorted(by_kind(others).items()):
        runs = at_best_rates(tried)
        ratios = steps_ratios(runs, goals[kind.batch]) if goals[kind.batch] else None
        found |= _ends(str(kind), runs)
        if ratios is None:
            missed.append({"what": str(kind), "ends": _losses(runs), "wanted": _losses(goals[kind.batch])})
            continue
        steps = statistics.fmean(ratios)
        found |= {f"{kind}.steps_ratio": steps, f"{kind}.steps_ratio_low": min(ratios), f"{kind}.steps_ratio_high": max(ratios)}  # fmt: skip
        for link in links:
            hours = steps * slowdown(runs, compute_s[kind.batch], link)
            found |= {f"{kind}.{link}.hours_ratio": hours, f"{kind}.{link}.dollars_ratio": hours * kind.workers}
            costs[kind.batch, link][str(kind)] = hours, hours * kind.workers
    return found, [_frontier(batch, link, own) for (batch, link), own in costs.items()], missed


def _losses(runs: Sequence[Learnt]) -> list[float]:
    """Mean held-out loss over the seeds of each length, ascending in length."""
    lengths = sorted({one.job.steps for one in runs})
    return [
        statistics.fmean(one.held_out for one in runs if one.job.steps == steps and one.held_out is not None)
        for steps in lengths
    ]


def _ends(name: str, runs: Sequence[Learnt]) -> Json:
    """Mean held-out loss of the longest runs, and the rate that was best for them."""
    if not runs:
        return {}
    rate = max(runs, key=lambda one: one.job.steps).job.lr
    return {f"{name}.held_out": _losses(runs)[-1]} | ({} if rate is None else {f"{name}.lr": rate})


def slowdown(runs: Sequence[Learnt], compute_s: float, link: str) -> float:
    """A round's seconds on that link by the seconds of its computing."""
    options = runs[0].set
    sent = max(one.peak_round_bytes or 0.0 for one in runs)
    return round_seconds(options, sent, compute_s, bits_per_second(link)) / (round_steps(options) * compute_s)


def _frontier(batch: int, link: str, costs: dict[str, tuple[float, float]]) -> Json:
    best = [
        {"what": name, "hours_ratio": costs[name][0], "dollars_ratio": costs[name][1]} for name in undominated(costs)
    ]
    return {"batch": batch, "link": link, "frontier": best}


def tell(quiet: bool, frontiers: Sequence[Json], missed: Sequence[Json]) -> None:
    """The frontier for people, on stderr."""
    for one in frontiers:
        say(
            quiet,
            f"batch {one['batch']}, link {one['link']}: nothing beats, in hours and dollars of one machine alone,",
        )
        for best in one["frontier"]:
            say(quiet, f"  {best['what']:<36} {best['hours_ratio']:.3f} h  {best['dollars_ratio']:.3f} $")
    for one in missed:
        ends, wanted = (" ".join(f"{loss:.4f}" for loss in one[name]) or "no number" for name in ("ends", "wanted"))
        say(
            quiet, f"{one['what']}: its lengths end with {ends}, the lone machine with {wanted}; ask for other --shares"
        )


def measured_compute_s(place: Place, chosen: argparse.Namespace, batch: int) -> float:
    """One step's, without held-out evaluation, of the bare loop with nothing beside it."""
    job = _job(chosen, batch, 1, chosen.lr, 1, COMPUTE_STEPS, COMPUTE_STEPS // 4)
    trial = comparator_trial(place, replace(job, link="loopback"), "bare", 600.0)
    assert trial.pure_step_s is not None
    return trial.pure_step_s


def checked(chosen: argparse.Namespace) -> tuple[list[Task], list[Task]]:
    """(the lone machine's jobs, the others'), or the end of the process with a sentence about what cannot be asked for."""
    if chosen.compute_s is not None and len(chosen.compute_s) != len(chosen.batch):
        sys.exit(f"--compute-s: {len(chosen.compute_s)} given for {len(chosen.batch)} of --batch")
    try:
        for link in chosen.link:
            bits_per_second(link)
        return list(alone(chosen)), list(together(chosen))
    except ValueError as error:
        sys.exit(str(error))


def main() -> int:
    chosen = arguments().parse_args()
    lone, others = checked(chosen)
    with Place() as place:
        if chosen.compute_s is not None:
            compute_s = dict(zip(chosen.batch, chosen.compute_s, strict=True))
        else:
            compute_s = {batch: measured_compute_s(place, chosen, batch) for batch in chosen.batch}
        digest = hashlib.sha256(place.archive).hexdigest()[:16]
        run = partial(_run, place.folder / "data", digest, chosen.processes)
        try:
            ended = simulate([*lone, *others], digest, chosen.keep, run, chosen.json)
        except NotKept as error:
            sys.exit(f"--keep {error}")
    found, frontiers, missed = figures(ended[: len(lone)], ended[len(lone) :], chosen.link, compute_s)
    tell(chosen.json, frontiers, missed)
    return finish(
        found, {}, chosen.json, {"frontier": frontiers, "missed": missed, "trials": [asdict(one) for one in ended]}
    )


if __name__ == "__main__":
    sys.exit(main())
