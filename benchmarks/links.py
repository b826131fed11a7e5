"""What slow links cost: the same job without synchronising, by torch DDP, by others and by torg, over cables of each speed.

Every worker is a machine of its own (a network namespace) on a switch; `tc tbf` limits both directions of its cable.
`ring_ratio` is DDP's time a step over what a perfect ring all-reduce needs: the time of a step without synchronising, or
2(N−1)/N × 4 bytes × parameters at the cable's speed where that is longer. Needs root.

    sudo python -m benchmarks.links --system torch_ddp torchft_diloco hivemind diloco streaming_diloco --link 20mbit 2mbit
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from benchmarks.cables import bits_per_second, why_no_cables
from benchmarks.report import Target, finish, parser, say
from benchmarks.training import options_for
from benchmarks.trials import COMPARATORS, Job, Place, Trial, comparator_trial, torg_trial
from trainers.options import STRATEGIES, round_steps, strategy_options

ROUNDS = 5
LEAST_SPEED = {"20mbit": 0.90, "2mbit": 0.85}
OURS_TO_HOLD = "streaming_diloco"
SLOW_STEPS = 6
SLOWEST = 10_000_000


def ring_seconds(parameters: int, workers: int, link: str) -> float:
    """One all-reduce of float32 by a ring that never waits."""
    speed = bits_per_second(link)
    return 0.0 if speed is None else 2 * (workers - 1) / workers * 4 * parameters * 8 / speed


def job_for(system: str, link: str, chosen) -> Job:
    """The same job for all, as long as it takes to see its speed: `ROUNDS` rounds, few steps where each one is slow."""
    inner = chosen.inner_steps
    job = Job(
        size=chosen.size, batch=chosen.batch, steps=ROUNDS * inner, inner_steps=inner, workers=chosen.workers, link=link
    )  # fmt: skip
    speed = bits_per_second(link)
    if system in ("torch_ddp", "ddp") and speed is not None:
        few = SLOW_STEPS if speed >= SLOWEST else SLOW_STEPS // 3
        return replace(job, steps=ROUNDS * few, inner_steps=few)
    if system in STRATEGIES:
        steps = round_steps(strategy_options({"name": system, "inner_steps": inner, **options_for(system, chosen.set)}))
        return replace(job, steps=max(job.steps, ROUNDS * steps))
    return job


def parameters_of(place: Place, size: str) -> int:
    """How many the model of that size has."""
    from trainers.workloads.byte_lm import ByteLM

    model = ByteLM({"size": size}, place.folder / "data", 1).model()
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--link", nargs="+", default=["none", "20mbit", "2mbit"])
    arguments.add_argument("--system", nargs="+", default=["torch_ddp"])
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--size", default="1M")
    arguments.add_argument("--batch", type=int, default=6)
    arguments.add_argument("--inner-steps", type=int, default=30)
    arguments.add_argument("--set", action="append", default=[], metavar="[STRATEGY.]OPTION=VALUE")
    arguments.add_argument("--timeout", type=float, default=1800.0)
    chosen = arguments.parse_args()
    reason = why_no_cables()
    if reason is not None:
        sys.exit(reason)
    unknown = sorted(set(chosen.system) - set(STRATEGIES) - set(COMPARATORS))
    if unknown:
        sys.exit(f"no strategy or comparator {', '.join(unknown)}; there are {', '.join([*STRATEGIES, *COMPARATORS])}")
    figures: dict[str, float] = {}
    trials: list[Trial] = []
    with Place() as place:
        figures["parameters"] = float(parameters_of(place, chosen.size))
        for link in chosen.link:
            before = bare_of(place, chosen)
            for system in chosen.system:
                job = job_for(system, link, chosen)
                made = (
                    comparator_trial(place, job, system, chosen.timeout)
                    if system in COMPARATORS
                    else torg_trial(place, job, system, options_for(system, chosen.set), chosen.timeout)
                )
                after = bare_of(place, chosen)
                trials.append(made)
                figures |= seen(made, (before, after), figures)
                ratio = figures[f"{system}.{link}.speed_ratio_to_bare"]
                bare = f"the bare loop {before.step_s:.3f} just before and {after.step_s:.3f} just after"
                say(chosen.json, f"{system} over {link}: {made.step_s:.3f} s a step, {bare}: {ratio:.2f} of its speed")
                before = after
    return finish(figures, targets(figures), chosen.json, {"trials": [one.told() for one in trials]})


def bare_of(place: Place, chosen) -> Trial:
    """The job without synchronising, as many workers side by side."""
    return comparator_trial(place, job_for("bare", "none", chosen), "bare", chosen.timeout)


def seen(trial: Trial, bares: Sequence[Trial], figures: Mapping[str, float]) -> dict[str, float]:
    """The figures of one trial beside the bare loop just before and just after it, so that a machine's moods do not count.

    Evaluations are on both clocks, but for DDP, which has its own rhythm on slow cables.
    """
    assert trial.step_s is not None
    bare_s = [one.step_s for one in bares if one.step_s is not None]
    pure_s = [one.pure_step_s for one in bares if one.pure_step_s is not None]
    assert len(bare_s) == len(pure_s) == len(bares)
    step_s, pure_step_s = fmean(bare_s), fmean(pure_s)
    link, named = trial.job.link, {"step_s": trial.step_s, "speed_ratio_to_bare": step_s / trial.step_s}
    named |= {"bare_step_s": step_s, "bare_drift": max(bare_s) / min(bare_s)}
    if trial.system == "torch_ddp":
        assert trial.pure_step_s is not None
        bound = max(pure_step_s, ring_seconds(int(figures["parameters"]), trial.job.workers, link))
        named["speed_ratio_to_bare"] = pure_step_s / trial.pure_step_s
        named |= {"slowdown": trial.pure_step_s / pure_step_s, "ring_ratio": trial.pure_step_s / bound}
    if trial.sent_bytes_per_step is not None:
        named["sent_bytes_per_step"] = trial.sent_bytes_per_step
    return {f"{trial.system}.{link}.{name}": value for name, value in named.items()}


def targets(figures: Mapping[str, float]) -> dict[str, Target]:
    """The least speed of ours over each link, and ahead of the others' local-update methods."""
    found = {}
    for link, least in LEAST_SPEED.items():
        name = f"{OURS_TO_HOLD}.{link}.speed_ratio_to_bare"
        if name in figures:
            others = [
                value
                for other, value in figures.items()
                if other.endswith(f".{link}.speed_ratio_to_bare") and other.split(".")[0] in COMPARATORS
            ]
            found[name] = Target(figures[name], max([least, *others]), at_most=False)
    return found


if __name__ == "__main__":
    sys.exit(main())
