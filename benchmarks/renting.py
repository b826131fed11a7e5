"""Where renting pays: hours and dollars to a held-out loss, for workers × strategy × link, one machine alone as the unit.

    python -m benchmarks.renting --workers 2 4 --strategy ddp diloco streaming_diloco --link none 20mbit 2mbit
    python -m benchmarks.renting --compute-s 0.25      as if a step took so long: a larger model, or a slower machine

What is learnt is simulated (`trainers.simulation`: production code in one process, the same bits as on a network). What a
step computes is measured here, on one core with nothing beside it. What a synchronisation takes is worked out:

    round = H · compute + max(0, bytes · 8 / link − overlap · compute)

with the bytes that the worker with most sends in a round, 4 % of framing, links with their speed in both directions;
`benchmarks.training --link` measures the same on real cables, docs/PROTOCOLS.md compares. Every job is trained to its end
at several lengths, because a learning rate's schedule makes a half-done run no short one; between two lengths time is
exponential in the loss (`benchmarks.frontier`). A worker costs the same everywhere, so dollars are hours times workers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from typing import Any

from benchmarks.cables import bits_per_second
from benchmarks.frontier import Point, seconds_for
from benchmarks.report import finish, parser, say
from benchmarks.simulated import simulated_trial
from benchmarks.training import add_job_arguments, options_for
from benchmarks.trials import Job, Place, Trial, comparator_trial, mean
from trainers.options import STRATEGIES, round_steps

FRAMING = 1.04
ALONE = "ddp"
COMPUTE_STEPS = 60


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
    add_job_arguments(made)
    made.add_argument("--compute-s", type=float, default=None, help="seconds of a step instead of the measured ones")
    made.add_argument("--processes", type=int, default=1, help="simulations at a time")
    return made


def jobs(chosen: argparse.Namespace) -> dict[tuple[str, int, int, int], Job]:
    """By (strategy, workers, steps, seed): the lone machine's and everybody else's."""
    found = {}
    for seed in range(1, chosen.seeds + 1):
        base = Job(
            size=chosen.size, context=chosen.context, batch=chosen.batch, lr=chosen.lr, steps=1,
            inner_steps=chosen.inner_steps, workers=1, seed=seed, link="none",
        )  # fmt: skip
        found[ALONE, 1, chosen.steps, seed] = replace(base, steps=chosen.steps)
        lengths = sorted({_whole(share * chosen.steps, chosen.inner_steps) for share in chosen.shares})
        for strategy, workers, steps in product(chosen.strategy, chosen.workers, lengths):
            found[strategy, workers, steps, seed] = replace(base, workers=workers, steps=steps)
    return found


def _whole(steps: float, inner_steps: int) -> int:
    """The nearest whole number of rounds, in steps."""
    return max(1, round(steps / inner_steps)) * inner_steps


def learn(place: Place, chosen: argparse.Namespace) -> dict[tuple[str, int, int, int], Trial]:
    """All simulations, some at a time."""
    wanted = jobs(chosen)
    found = {}
    with ProcessPoolExecutor(chosen.processes, mp_context=get_context("spawn")) as pool:
        started = {
            pool.submit(simulated_trial, place.folder / "data", job, key[0], options_for(key[0], chosen.set)): key
            for key, job in wanted.items()
        }
        for done in as_completed(started):
            key, trial = started[done], done.result()
            found[key] = trial
            say(chosen.json, f"{key[0]} × {key[1]}, {key[2]} steps, seed {key[3]}: held-out {trial.held_out:.4f}")
    return found


def round_seconds(options: Mapping[str, Any], sent_bytes: float, compute_s: float, bits_per_s: int | None) -> float:
    """One round's, of so many bytes sent by the worker with most. An exchange in every step hides behind nothing."""
    steps = round_steps(options)
    if bits_per_s is None:
        return steps * compute_s
    exchange_s = FRAMING * sent_bytes * 8 / bits_per_s
    return steps * compute_s + max(0.0, exchange_s - int(options.get("overlap_steps", 0)) * compute_s)


def seconds_of(trial: Trial, compute_s: float, link: str) -> float:
    """The whole run's, on that link."""
    assert trial.peak_round_bytes is not None
    rounds = trial.job.steps / round_steps(trial.set)
    return rounds * round_seconds(trial.set, trial.peak_round_bytes, compute_s, bits_per_second(link))


def frontier(
    trials: Mapping[tuple[str, int, int, int], Trial], chosen: argparse.Namespace, compute_s: float
) -> dict[str, float]:
    """Ratios to the lone machine's hours and dollars, means over seeds, `strategy.workers.link.name`."""
    found: dict[str, float] = {}
    seeds = range(1, chosen.seeds + 1)
    for strategy, workers, link in product(chosen.strategy, chosen.workers, chosen.link):
        ratios = [_ratio(trials, strategy, workers, link, seed, compute_s) for seed in seeds]
        hours = None if None in ratios else mean(ratios)
        if hours is not None:
            found[f"{strategy}.{workers}.{link}.hours_ratio"] = hours
            found[f"{strategy}.{workers}.{link}.dollars_ratio"] = hours * workers
    return found


def _ratio(
    trials: Mapping[tuple[str, int, int, int], Trial],
    strategy: str,
    workers: int,
    link: str,
    seed: int,
    compute_s: float,
) -> float | None:
    """None where no pair of lengths has the lone machine's last loss between them."""
    alone = _points(trials, ALONE, 1, "none", seed, compute_s)
    ours = _points(trials, strategy, workers, link, seed, compute_s)
    longest_s, wanted = max(alone)
    taken = seconds_for(ours, wanted)
    return None if taken is None else taken / longest_s


def _points(
    trials: Mapping[tuple[str, int, int, int], Trial],
    strategy: str,
    workers: int,
    link: str,
    seed: int,
    compute_s: float,
) -> Sequence[Point]:
    return [
        (seconds_of(trial, compute_s, link), trial.held_out)
        for (name, count, _, of), trial in trials.items()
        if (name, count, of) == (strategy, workers, seed)
    ]


def main() -> int:
    chosen = arguments().parse_args()
    try:
        for link in chosen.link:
            bits_per_second(link)
    except ValueError as error:
        sys.exit(str(error))
    with Place() as place:
        compute_s = chosen.compute_s or measured_compute_s(place, chosen)
        trials = learn(place, chosen)
    told = [one.told() for one in trials.values()]
    return finish({"compute_s": compute_s, **frontier(trials, chosen, compute_s)}, {}, chosen.json, {"trials": told})


def measured_compute_s(place: Place, chosen: argparse.Namespace) -> float:
    """One step's, without held-out evaluation, of the bare loop with nothing beside it."""
    job = Job(
        size=chosen.size, context=chosen.context, batch=chosen.batch, lr=chosen.lr, steps=COMPUTE_STEPS,
        inner_steps=COMPUTE_STEPS // 4, workers=1, seed=1, link="loopback",
    )  # fmt: skip
    trial = comparator_trial(place, job, "bare", 600.0)
    assert trial.pure_step_s is not None
    return trial.pure_step_s


if __name__ == "__main__":
    sys.exit(main())
