"""Protocols side by side: losses at equal tokens, bytes on the wire, speed, and time and dollars to a loss.

    python -m benchmarks.training --strategy ddp diloco noloco --workers 2 --link none 20mbit --steps 300 --seeds 3
    python -m benchmarks.training --strategy diloco torch_ddp hivemind --link 20mbit      comparators by their names
    python -m benchmarks.training --simulate --strategy ddp diloco sparseloco --workers 4   learning only, one process

Each of `--strategy` is a strategy of torg or one of bare, torch_ddp, torchft_diloco, torchft_local_sgd,
torchft_streaming, hivemind, hivemind_delayed. `--steps` are each worker's, `--tokens` all workers' together. `--set
diloco.outer_lr=0.5` sets an option of one strategy, `--set codec=fp4` of all of torg's.

One machine alone (the bare loop, as many tokens as all workers of a job together) is the unit: `hours_ratio` and
`dollars_ratio` are a job's time and price to the loss that the lone machine ends with, divided by the lone machine's. A
worker costs the same by the hour everywhere, so dollars are hours times workers. With several `--steps` the losses at the
ends of whole runs are compared (`benchmarks.frontier`); with one, when the run first had that loss.

The plain names `loss_ratio_to_ddp`, `bytes_per_token_ratio_to_ddp` and `speed_ratio_to_bare` are the first strategy's that is
no baseline (`benchmarks.headline`).

    python -m benchmarks.training --strategy diloco ddp --steps 200 400 800 --link none --speed-on 20mbit 2mbit

trains on the first links and measures only the speed on those of `--speed-on`: what is learnt does not depend on a cable.

`--simulate --retune 330:inner_steps=7` changes an option of every strategy on the way, as `torg retune` does for a job.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from typing import Any

from benchmarks.cables import bits_per_second, why_no_cables
from benchmarks.frontier import effort_to
from benchmarks.headline import headline, place_of, promised, ratios_to_ddp, speed_ratio_to_bare
from benchmarks.report import finish, parser, say
from benchmarks.trials import COMPARATORS, Job, Place, Trial, comparator_trial, mean, seconds_to, torg_trial
from trainers.options import STRATEGIES, strategy_options
from trainers.workloads.options import OPTIMIZERS

Json = dict[str, Any]
ALONE = "bare"
EVERY_STEP = frozenset({"ddp", "torch_ddp", "demo", "distro"})
SPEED_ROUNDS = 5
SLOW_INNER_STEPS = 6
MEANS = ("held_out", "tokens_per_s", "step_s", "cpu_s_per_step", "sent_bytes_per_step", "received_bytes_per_step", "peak_round_bytes",
         "stall_ms", "checkpoint_stall_ms")  # fmt: skip


def add_job_arguments(made: argparse.ArgumentParser, *, grid: bool = False) -> None:
    """What every kind of trial trains; with `grid`, several batches and lengths of rounds."""
    several: Json = {"nargs": "+"} if grid else {}
    made.add_argument("--seeds", type=int, default=1)
    made.add_argument("--size", default="1M")
    made.add_argument("--context", type=int, default=128)
    made.add_argument("--batch", type=int, default=[6] if grid else 6, **several)
    made.add_argument("--lr", type=float, default=None)
    made.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw", help="of inner steps; comparators have AdamW")
    made.add_argument("--inner-steps", type=int, default=[30] if grid else 30, **several)
    made.add_argument("--set", action="append", default=[], metavar="[STRATEGY.]OPTION=VALUE")


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    made = parser(__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--strategy", nargs="+", default=["ddp", "diloco"])
    made.add_argument("--workers", nargs="+", type=int, default=[2])
    made.add_argument("--link", nargs="+", default=["loopback"], help="loopback, none, 20mbit, 2mbit, …")
    length = made.add_mutually_exclusive_group()
    length.add_argument("--steps", nargs="+", type=int, default=[300])
    length.add_argument("--tokens", nargs="+", type=int, default=None)
    made.add_argument("--speed-on", nargs="+", default=[], metavar="LINK")
    add_job_arguments(made)
    made.add_argument("--loss", type=float, default=None, help="instead of the lone machine's last held-out loss")
    made.add_argument("--no-alone", action="store_true", help="do not train the lone machine")
    made.add_argument("--usd-per-hour", type=float, default=0.10, help="price of one worker")
    made.add_argument("--timeout", type=float, default=3600.0, help="seconds for one job")
    made.add_argument("--simulate", action="store_true")
    made.add_argument("--retune", action="append", default=[], metavar="STEP:OPTION=VALUE", help="with --simulate")
    made.add_argument("--processes", type=int, default=1, help="simulations at a time")
    return made


def options_for(strategy: str, given: Sequence[str]) -> Json:
    """This strategy's part of `--set`. Raises ValueError for what cannot be read."""
    found: Json = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise ValueError(f"--set {one}: give OPTION=VALUE or STRATEGY.OPTION=VALUE")
        of, dot, option = name.rpartition(".")
        if not dot or of == strategy:
            found[option] = _value(value)
    return found


def retunes_of(given: Sequence[str]) -> list[tuple[int, Json]]:
    """All of `--retune`, by step. Raises ValueError for what cannot be read."""
    found = []
    for one in given:
        step, colon, change = one.partition(":")
        name, equals, value = change.partition("=")
        if not (colon and equals and step.isdecimal()):
            raise ValueError(f"--retune {one}: give STEP:OPTION=VALUE")
        found.append((int(step), {name: _value(value)}))
    return sorted(found, key=lambda one: one[0])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def jobs(chosen: argparse.Namespace) -> list[Job]:
    """Every combination of seed, workers, link and length."""
    found = []
    lengths = chosen.tokens or chosen.steps
    for seed, workers, link, length in product(range(1, chosen.seeds + 1), chosen.workers, chosen.link, lengths):
        job = Job(
            size=chosen.size, context=chosen.context, batch=chosen.batch, lr=chosen.lr, steps=length,
            inner_steps=chosen.inner_steps, workers=workers, seed=seed, link=link, optimizer=chosen.optimizer,
        )  # fmt: skip
        if chosen.tokens is not None:
            job = replace(job, steps=max(1, length // (job.tokens_per_step * workers)))
        found.append(job)
    return found


def train(place: Place, chosen: argparse.Namespace, job: Job, system: str) -> Trial:
    """One trial."""
    if system in COMPARATORS:
        return comparator_trial(place, job, system, chosen.timeout)
    return torg_trial(place, job, system, options_for(system, chosen.set), chosen.timeout)


def simulate(place: Place, chosen: argparse.Namespace) -> list[Trial]:
    """All of them, some at a time."""
    from benchmarks.simulated import simulated_trial

    retunes = retunes_of(chosen.retune)
    with ProcessPoolExecutor(chosen.processes, mp_context=get_context("spawn")) as pool:
        started = [
            pool.submit(
                simulated_trial, place.folder / "data", job, system, options_for(system, chosen.set), retunes=retunes
            )
            for job in jobs(chosen)
            for system in chosen.strategy
        ]
        for done in as_completed(started):
            tell(chosen.json, done.result())
        return [one.result() for one in started]


def measure(place: Place, chosen: argparse.Namespace) -> tuple[list[Trial], list[Trial]]:
    """All of them one after the other, and the lone machine's."""
    trials: list[Trial] = []
    alone: dict[tuple[int, int], Trial] = {}
    speeds: dict[tuple[str, int, str], Trial] = {}
    for job in jobs(chosen):
        lone = replace(job, workers=1, steps=job.steps * job.workers, link="loopback")
        if not chosen.no_alone and (lone.seed, lone.steps) not in alone:
            alone[lone.seed, lone.steps] = comparator_trial(place, lone, ALONE, chosen.timeout)
            tell(chosen.json, alone[lone.seed, lone.steps])
        for system in chosen.strategy:
            trials.append(train(place, chosen, job, system))
            tell(chosen.json, trials[-1])
            if job.link == chosen.link[0]:
                trials += [moved(trials[-1], speed) for speed in elsewhere(place, chosen, job, system, speeds)]
    return trials, list(alone.values())


def elsewhere(
    place: Place, chosen: argparse.Namespace, job: Job, system: str, speeds: dict[tuple[str, int, str], Trial]
) -> list[Trial]:
    """A short run on each link of `--speed-on`; `speeds` are those that were made already."""
    inner = SLOW_INNER_STEPS if system in EVERY_STEP else chosen.inner_steps
    for link in chosen.speed_on:
        if (system, job.workers, link) not in speeds:
            short = replace(job, steps=SPEED_ROUNDS * inner, inner_steps=inner, link=link)
            speeds[system, job.workers, link] = train(place, chosen, short, system)
            tell(chosen.json, speeds[system, job.workers, link])
    return [speeds[system, job.workers, link] for link in chosen.speed_on]


def moved(learnt: Trial, speed: Trial) -> Trial:
    """The same learning at the speed that was measured on another link."""
    step_s = speed.step_s if speed.pure_step_s is None else speed.pure_step_s
    assert step_s is not None
    job = replace(learnt.job, link=speed.job.link)
    curve = [(step, loss, step * step_s) for step, loss, _ in learnt.curve]
    return replace(
        learnt, job=job, curve=curve, seconds=curve[-1][2], step_s=step_s, tokens_per_s=speed.tokens_per_s,
        pure_step_s=speed.pure_step_s, stall_ms=None, checkpoint_stall_ms=None, speed_only=True,
    )  # fmt: skip


def figures(trials: Sequence[Trial], alone: Sequence[Trial], chosen: argparse.Namespace) -> Json:
    """Means over the seeds, by `system.workers.link.steps.name`."""
    found: Json = {}
    groups: dict[tuple[str, int, str, int], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.system, trial.job.workers, trial.job.link, trial.job.steps), []).append(trial)
    for (system, workers, link, steps), group in groups.items():
        hours = [_hours_ratio(one, trials, alone, chosen.loss) for one in group]
        hours_ratio = None if None in hours else mean(hours)
        named = {
            **ratios_to_ddp(group, trials),
            "speed_ratio_to_bare": speed_ratio_to_bare(group, alone),
            **{name: mean([getattr(one, name) for one in group]) for name in MEANS},
            "hours_ratio": hours_ratio,
            "dollars_ratio": None if hours_ratio is None else workers * hours_ratio,
            "usd": mean([_usd(one, chosen.usd_per_hour) for one in group]),
        }
        key = f"{system}.{workers}.{link}.{steps}"
        found |= {f"{key}.{name}": value for name, value in named.items() if value is not None}
    return found


def _usd(trial: Trial, usd_per_hour: float) -> float | None:
    return None if trial.seconds is None else trial.seconds / 3600 * trial.job.workers * usd_per_hour


def _hours_ratio(trial: Trial, trials: Sequence[Trial], alone: Sequence[Trial], loss: float | None) -> float | None:
    """Of the lone machine that trained as many tokens, at its last loss or at `loss`."""
    lone = [one for one in alone if one.job.seed == trial.job.seed]
    equal = next((one for one in lone if one.job.steps == trial.job.steps * trial.job.workers), None)
    if equal is None or trial.seconds is None:
        return None
    wanted = equal.held_out if loss is None else loss
    same = [one for one in trials if (one.system, *place_of(one)[:2], one.job.seed) == (
        trial.system, *place_of(trial)[:2], trial.job.seed)]  # fmt: skip
    if len(same) > 1:
        ours = effort_to([(one.seconds, one.held_out) for one in same if one.seconds], wanted)
        theirs = effort_to([(one.seconds, one.held_out) for one in lone if one.seconds], wanted)
    else:
        ours, theirs = seconds_to(trial.curve, wanted), seconds_to(equal.curve, wanted)
    return None if ours is None or theirs is None else ours / theirs


def checked(chosen: argparse.Namespace) -> argparse.Namespace:
    """The same, or the end of the process with a sentence about what cannot be asked for."""
    unknown = sorted(set(chosen.strategy) - set(STRATEGIES) - set(COMPARATORS))
    if unknown:
        sys.exit(f"no strategy or comparator {', '.join(unknown)}; there are {', '.join([*STRATEGIES, *COMPARATORS])}")
    if chosen.optimizer != "adamw" and (set(chosen.strategy) & set(COMPARATORS) or not (chosen.no_alone or chosen.simulate)):
        sys.exit("the lone machine and all comparators have AdamW: with --optimizer give --no-alone and torg's strategies")
    if chosen.retune and not chosen.simulate:
        sys.exit("--retune is for --simulate")
    if chosen.simulate and set(chosen.strategy) - set(STRATEGIES):
        sys.exit("only torg's own strategies can be simulated")
    cables = [link for link in [*chosen.link, *chosen.speed_on] if link != "loopback"]
    if cables and (reason := why_no_cables()) is not None:
        sys.exit(f"--link {cables[0]}: {reason}")
    try:
        for link in cables:
            bits_per_second(link)
        retuned = [changes for _, changes in retunes_of(chosen.retune)]
        for system in sorted(set(chosen.strategy) & set(STRATEGIES)):
            options = {"name": system, "inner_steps": chosen.inner_steps, **options_for(system, chosen.set)}
            for changes in ({}, *retuned):
                strategy_options({**options, **changes})
    except ValueError as error:
        sys.exit(str(error))
    return chosen


def main() -> int:
    chosen = checked(arguments().parse_args())
    with Place() as place:
        trials, alone = (simulate(place, chosen), []) if chosen.simulate else measure(place, chosen)
    found = figures(trials, alone, chosen)
    targets = promised(found, trials)
    found |= headline(found, trials) | {name: target.value for name, target in targets.items()}
    return finish(found, targets, chosen.json, {"trials": [one.told() for one in [*alone, *trials]]})


def tell(quiet: bool, trial: Trial) -> None:
    """One line about a trial that is done."""
    job = trial.job
    sent = "" if trial.sent_bytes_per_step is None else f", {trial.sent_bytes_per_step:.0f} bytes sent a step"
    speed = "" if trial.tokens_per_s is None else f", {trial.tokens_per_s:.0f} tokens/s"
    speed += "" if trial.cpu_s_per_step is None else f", {trial.cpu_s_per_step:.3f} CPU s a step"
    say(
        quiet,
        f"{trial.system} × {job.workers} over {job.link}, seed {job.seed}: held-out {trial.held_out:.4f} after "
        f"{trial.curve[-1][0]} steps{speed}{sent}",
    )


if __name__ == "__main__":
    sys.exit(main())
