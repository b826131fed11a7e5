"""What trials say against data parallel training, the bare loop and each other: ratios, and whether they are as promised. Pure.

Ratios are ours over theirs: `loss_ratio_to_ddp` and `bytes_per_token_ratio_to_ddp` against torg's `ddp` in the same place
(workers, link, steps, seed), `speed_ratio_to_bare` against the lone machine's tokens/s. `fewer_bytes_than_ddp` is how many
times fewer bytes a token were sent. Means are over the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.report import Target
from benchmarks.trials import COMPARATORS, Trial, mean
from trainers.options import round_steps

BASELINES = frozenset({"ddp", *COMPARATORS})
LEAST_ROUNDS = 20
"""Bounds on losses are for runs of so many rounds and more: short ones flatter data parallel training."""
MOST_LOSS = {"diloco": 1.03, "sparseloco": 1.04, "demo": 1.04}
LEAST_FEWER_BYTES = {"diloco": 110.0, "sparseloco": 1500.0, "demo": 85.0}
LEAST_LOWER_PEAK = 4.0


def place_of(trial: Trial) -> tuple[int, str, int, int]:
    """What two trials must have in common to be compared."""
    return trial.job.workers, trial.job.link, trial.job.steps, trial.job.seed


def ratios_to_ddp(group: Sequence[Trial], trials: Sequence[Trial]) -> dict[str, float | None]:
    """Of one system's trials in one place."""
    ddp = {place_of(one): one for one in trials if one.system == "ddp"}
    pairs = [(one, ddp[place_of(one)]) for one in group if place_of(one) in ddp]
    losses = [ours.held_out / theirs.held_out for ours, theirs in pairs]
    sent = [
        ours.sent_bytes_per_step / theirs.sent_bytes_per_step
        for ours, theirs in pairs
        if ours.sent_bytes_per_step and theirs.sent_bytes_per_step
    ]
    return {
        "loss_ratio_to_ddp": mean(losses), "bytes_per_token_ratio_to_ddp": mean(sent),
        "fewer_bytes_than_ddp": mean([1 / ratio for ratio in sent]),
    }  # fmt: skip


def speed_ratio_to_bare(group: Sequence[Trial], alone: Sequence[Trial]) -> float | None:
    """Tokens/s of a worker over those of the lone machine."""
    bare = {one.job.seed: one.step_s for one in alone}
    return mean([bare[one.job.seed] / one.step_s for one in group if one.step_s and bare.get(one.job.seed)])  # type: ignore[operator]


def headline(found: Mapping[str, float], trials: Sequence[Trial]) -> dict[str, float]:
    """The ratios of the first strategy that was asked for and is no baseline, in its first place, under their plain names."""
    first = next((one for one in trials if one.system not in BASELINES), None)
    if first is None:
        return {}
    key = f"{first.system}.{first.job.workers}.{first.job.link}.{first.job.steps}"
    names = ("loss_ratio_to_ddp", "bytes_per_token_ratio_to_ddp", "fewer_bytes_than_ddp", "speed_ratio_to_bare")
    return {name: found[f"{key}.{name}"] for name in names if f"{key}.{name}" in found}


def promised(found: Mapping[str, float], trials: Sequence[Trial]) -> dict[str, Target]:
    """What is promised of these figures."""
    targets: dict[str, Target] = {}
    for trial in trials:
        system, job = trial.system, trial.job
        place = f"{job.workers}.{job.link}.{job.steps}"
        loss, fewer = f"{system}.{place}.loss_ratio_to_ddp", f"{system}.{place}.fewer_bytes_than_ddp"
        if system in MOST_LOSS and loss in found and job.steps >= LEAST_ROUNDS * round_steps(trial.set):
            targets[loss] = Target(found[loss], MOST_LOSS[system])
        if system in LEAST_FEWER_BYTES and fewer in found:
            targets[fewer] = Target(found[fewer], LEAST_FEWER_BYTES[system], at_most=False)
        peaks = [found.get(f"{name}.{place}.peak_round_bytes") for name in ("diloco", "streaming_diloco")]
        if system == "streaming_diloco" and all(peaks):
            name = f"{system}.{place}.peak_times_lower_than_diloco"
            targets[name] = Target(peaks[0] / peaks[1], LEAST_LOWER_PEAK, at_most=False)  # type: ignore[operator]
        speeds = [found.get(f"{name}.{place}.tokens_per_s") for name in ("ddp", "torch_ddp")]
        if system == "ddp" and all(speeds):
            name = f"ddp.{place}.speed_ratio_to_torch_ddp"
            targets[name] = Target(speeds[0] / speeds[1], 1.0, at_most=False)  # type: ignore[operator]
    return targets
