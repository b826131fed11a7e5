"""One training job, done once by torg or by a comparator, and what it came to, in the same words for all of them.

The job is byte_lm on the Python standard library's text. Seconds count from the first step; held-out evaluation, once in
`inner_steps` at one worker, is on everybody's clock. Bytes are those of a worker's network interface, all headers included.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.cables import Cables, bits_per_second
from benchmarks.comparators.launch import compare
from benchmarks.failures import Failure
from benchmarks.fleet import Fleet
from benchmarks.fleet_run import Driver, Record
from market.packing import pack_stdlib, unpack
from trainers.options import round_steps, strategy_options
from trainers.sandbox import isolation_level

COMPARATORS = {
    "bare": ("bare", {}),
    "torch_ddp": ("torch_ddp", {}),
    "torchft_diloco": ("torchft_local_update", {"method": "diloco"}),
    "torchft_local_sgd": ("torchft_local_update", {"method": "local_sgd"}),
    "torchft_streaming": (
        "torchft_local_update",
        {"method": "diloco", "fragments": 2, "overlap_steps": 5, "mixing": 0.5, "outer_lr": 0.4},
    ),
    "hivemind": ("hivemind_local_update", {}),
    "hivemind_delayed": ("hivemind_local_update", {"delayed": True}),
}
GRACE_MS = 5_000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained. `steps` are each worker's; `link` as in `cables.bits_per_second`, or loopback; `lr` of the inner
    optimiser (None: the workload's for its size).
    """

    size: str = "1M"
    context: int = 128
    batch: int = 6
    lr: float | None = None
    steps: int = 120
    inner_steps: int = 30
    workers: int = 2
    seed: int = 1
    link: str = "loopback"
    checkpoint_every: int | None = None
    optimizer: str = "adamw"

    @property
    def tokens_per_step(self) -> int:
        """Of one worker."""
        return self.context * self.batch

    def options(self) -> Json:
        """The workload's."""
        chosen: Json = {"size": self.size, "context": self.context, "batch": self.batch, "optimizer": self.optimizer}
        return chosen if self.lr is None else chosen | {"lr": self.lr}


@dataclass(slots=True)
class Trial:
    """What one run of a job came to.

    `curve`: [step, held-out loss, seconds since the first step] after every round. `tokens_per_s` of all workers together,
    without the first round; `pure_step_s` is `step_s` without held-out evaluation, where that is known. `sent_bytes_per_step` and `received_bytes_per_step`: the worker with most, without the first
    round; None where nobody counted. `cpu_s_per_step`: processor time of all workers together, without the first round. `stall_ms`: how long the worker with most waited for others, in all.
    `speed_only`: the seconds are another run's speed on this link.
    """

    system: str
    job: Job
    held_out: float
    curve: list[tuple[int, float, float]]
    tokens: int
    seconds: float | None = None
    tokens_per_s: float | None = None
    step_s: float | None = None
    pure_step_s: float | None = None
    cpu_s_per_step: float | None = None
    sent_bytes_per_step: float | None = None
    received_bytes_per_step: float | None = None
    peak_round_bytes: float | None = None
    stall_ms: float | None = None
    checkpoint_stall_ms: float | None = None
    speed_only: bool = False
    set: Json = field(default_factory=dict)

    def told(self) -> Json:
        """As one JSON object."""
        return asdict(self)


class Place:
    """Where trials run: one folder with the corpus, made once."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="torg-bench-")
        self.folder = Path(self._folder.name)
        pack_stdlib(self.folder / "corpus.tar")
        self.archive = (self.folder / "corpus.tar").read_bytes()
        with (self.folder / "corpus.tar").open("rb") as archive:
            unpack(archive, self.folder / "data")
        self._runs = 0

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def next_run(self) -> Path:
        """A new empty folder."""
        self._runs += 1
        made = self.folder / f"run-{self._runs}"
        made.mkdir()
        return made


def spec(job: Job, strategy: str, options: Mapping[str, Any]) -> Json:
    """The job as a normalised specification, as the market would hand it to a run."""
    chosen = strategy_options({"name": strategy, "inner_steps": job.inner_steps, **options})
    rounds = -(-job.steps // round_steps(chosen))
    return {
        "name": "benchmark", "workload": {"kind": "builtin", "name": "byte_lm"}, "options": job.options(),
        "data": {"kind": "none"}, "strategy": chosen, "steps": job.steps, "rounds": rounds, "seed": job.seed,
        "workers": {"min": job.workers, "max": job.workers},
        "checkpoint": {"every_rounds": job.checkpoint_every or rounds, "keep": 2, "base_every_rounds": 10},
        "evaluate": {"every_rounds": max(1, job.inner_steps // round_steps(chosen))},
    }  # fmt: skip


def run_torg(
    place: Place, job: Job, strategy: str, options: Mapping[str, Any], *, timeout_s: float,
    failures: Sequence[Failure] = (), spares: int = 0, pause_after_s: float | None = None,
) -> tuple[Json, Record]:  # fmt: skip
    """The job on a fleet of its own: (specification, record). With `pause_after_s` it ends with the round then under way."""
    made = spec(job, strategy, options)
    with ExitStack() as stack:
        cables = None if job.link == "loopback" else stack.enter_context(Cables(bits_per_second(job.link)))
        fleet = stack.enter_context(Fleet(place.next_run(), cables=cables, isolation=isolation_level()))
        driver = Driver(
            fleet, made, place.archive, workers=job.workers, spares=spares, seed=job.seed, grace_ms=GRACE_MS
        )
        return made, driver.drive(failures, timeout_s, pause_after_s)


def torg_trial(place: Place, job: Job, strategy: str, options: Mapping[str, Any], timeout_s: float) -> Trial:
    """One job done by torg's workers."""
    made, record = run_torg(place, job, strategy, options, timeout_s=timeout_s)
    rounds, first, last = record.rounds, record.rounds[0], record.rounds[-1]
    curve = [
        (one["step"], record.evaluated[one["round"]], one["at_s"] - record.began_s)
        for one in rounds
        if one["round"] in record.evaluated
    ]
    later = max(1e-9, last["at_s"] - first["at_s"])
    steps_later = max(1, last["step"] - first["step"])
    tokens_later = sum(member["tokens"] for one in rounds[1:] for member in one["members"])
    sent, received, peak = _fleet_bytes(rounds)
    stalls = [
        sum(member.get("stall_ms", 0) for one in rounds for member in one["members"] if member["slot"] == lease.slot)
        for lease in record.leases
    ]
    return Trial(
        system=strategy, job=job, held_out=curve[-1][1], curve=curve, seconds=record.ended_s - record.began_s,
        tokens=sum(member["tokens"] for one in rounds for member in one["members"]),
        tokens_per_s=tokens_later / later, step_s=later / steps_later,
        cpu_s_per_step=sum(used - first["cpu_s"].get(slot, used) for slot, used in last["cpu_s"].items()) / steps_later,
        sent_bytes_per_step=None if sent is None else sent / steps_later,
        received_bytes_per_step=None if received is None else received / steps_later, peak_round_bytes=peak,
        stall_ms=max(stalls, default=None), checkpoint_stall_ms=sum(one["stall_ms"] for one in record.checkpoints),
        set=dict(made["strategy"]),
    )  # fmt: skip


def comparator_trial(place: Place, job: Job, system: str, timeout_s: float) -> Trial:
    """One job done by another system."""
    name, own = COMPARATORS[system]
    told: Json = {
        "size": job.size, "context": job.context, "batch": job.batch, "lr": job.lr, "steps": job.steps,
        "every": job.inner_steps, "seed": job.seed, **own,
    }  # fmt: skip
    with ExitStack() as stack:
        cables = None if job.link == "loopback" else stack.enter_context(Cables(bits_per_second(job.link)))
        lines = compare(
            name, workers=job.workers, cables=cables, data=place.folder / "data", options=told, timeout_s=timeout_s
        )
    curve = [(line["step"], line["held_out"], line["seconds"]) for line in lines[0]]
    # The first round warms up; in the last one a worker may wait in vain for others that are done.
    first, last = lines[0][0], lines[0][-2] if len(curve) > 2 else lines[0][-1]
    steps = max(1, last["step"] - first["step"])
    step_s = (last["seconds"] - first["seconds"]) / steps
    return Trial(
        system=system, job=job, held_out=curve[-1][1], curve=curve, seconds=max(own[-1]["seconds"] for own in lines),
        tokens=sum(own[-1]["tokens"] for own in lines),
        tokens_per_s=job.workers * job.tokens_per_step / step_s if step_s else None, step_s=step_s,
        pure_step_s=step_s - (last["evaluate_s"] - first["evaluate_s"]) / steps,
        cpu_s_per_step=sum(_until(own, last)["cpu_s"] - own[0]["cpu_s"] for own in lines) / steps,
        sent_bytes_per_step=_line_bytes(lines, "sent_bytes"),
        received_bytes_per_step=_line_bytes(lines, "received_bytes"), set=dict(own),
    )  # fmt: skip


def _until(own: Sequence[Json], last: Json) -> Json:
    """A worker's line of the same round as `last`, another's."""
    return next(line for line in own if line["round"] == last["round"])


def seconds_to(curve: Sequence[tuple[int, float, float]], loss: float) -> float | None:
    """When a held-out loss was first reached, on the line between two evaluations; None if it never was."""
    before: tuple[int, float, float] | None = None
    for point in curve:
        if point[1] <= loss:
            if before is None or before[1] <= point[1]:
                return point[2]
            share = (before[1] - loss) / (before[1] - point[1])
            return before[2] + share * (point[2] - before[2])
        before = point
    return None


def _line_bytes(lines: Sequence[Sequence[Json]], name: str) -> float | None:
    """Per step, of the worker with most."""
    steps = max(1, lines[0][-1]["step"] - lines[0][0]["step"])
    counts = [own[-1][name] - own[0][name] for own in lines if own[0][name] is not None]
    return max(counts) / steps if counts else None


def _fleet_bytes(rounds: Sequence[Json]) -> tuple[float | None, float | None, float | None]:
    """(sent, received) after the first round by the worker with most, and the most that one sent between two commits."""
    slots = [slot for slot, wire in rounds[0]["wire"].items() if wire is not None and slot in rounds[-1]["wire"]]
    if slots:
        ends = [(rounds[0]["wire"][slot], rounds[-1]["wire"][slot]) for slot in slots]
        sent, received = (max(last[way] - first[way] for first, last in ends) for way in (0, 1))
        pairs = [(a["wire"][slot][0], b["wire"][slot][0]) for a, b in pairwise(rounds) for slot in slots]
        return sent, received, max((b - a for a, b in pairs), default=None)
    told = [member for one in rounds[1:] for member in one["members"] if "sent_bytes" in member]
    if not told:
        return None, None, None
    by_slot = {member["slot"] for member in told}
    sent, received = (
        max(sum(member[name] for member in told if member["slot"] == slot) for slot in by_slot)
        for name in ("sent_bytes", "received_bytes")
    )
    return sent, received, max(member["sent_bytes"] for member in told)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is there."""
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None
