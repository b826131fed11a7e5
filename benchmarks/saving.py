"""What a batch job's script pays for having what it saves made durable; see `benchmarks.batch`."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process_cpu import ProcessCpu
from benchmarks.report import say
from benchmarks.square import Square, open_square
from market.homes import Home

SAVER = """
import os, pathlib, statistics, sys, time
import numpy
folders = [pathlib.Path(os.environ[name]) for name in ("TMPDIR", "TORG_CHECKPOINT_DIR")]
pairs, saves, part_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
draw = numpy.random.default_rng(0)
state, matrix = draw.standard_normal(4 << 20), draw.standard_normal((384, 384), dtype=numpy.float32) / 20

def stretch():
    global matrix
    for step in range(50):
        matrix = numpy.tanh(matrix @ matrix)
    return time.monotonic()

def part(folder):
    global state
    times = [time.monotonic()]
    for save in range(saves):
        state += 1
        (folder / "new").write_bytes(state.tobytes())
        (folder / "new").rename(folder / "state")
        times.append(time.monotonic())
        while times[-1] < times[0] + part_s * (save + 1) / saves:
            times.append(stretch())
    stretches = [after - before for before, after in zip(times, times[1:])]
    return times[0], times[-1], len(stretches), statistics.median(stretches)

for folder in folders:
    part(folder)
for pair in range(pairs):
    for kept in ((0, 1) if pair % 2 else (1, 0)):
        print("part", pair, kept, *part(folders[kept]), flush=True)
"""
SAVERS = {"saving": (10, 1, 25.0), "saving_hard": (4, 30, 60.0)}
"""Pairs of parts, saves of each part, and its seconds."""
PROCESSES = {
    "market.api.process": "exchange", "ray::Seat": "run", "ray::Worker": "worker", "raylet/raylet": "raylets",
    "trainers.inside": "script", "ray::": "others", "gcs_server": "others", "market.": "others",
}  # fmt: skip

SAVING = ("exchange", "run", "worker", "raylets")
"""What a save goes through; the others' time in a part says how still the rest was."""


@dataclass(frozen=True, slots=True)
class Part:
    """What it took, in so many stretches (a save counts as one), the median of these, and what other processes computed."""

    took_s: float
    stretches: int
    median_s: float
    cpu_s: dict[str, float]

    @property
    def stretch_s(self) -> float:
        """Of the whole part, a stretch."""
        return self.took_s / self.stretches

    @property
    def lost(self) -> float:
        """The share of the part that was not needed had each stretch been as long as its median."""
        return 1 - self.median_s / self.stretch_s


def saving(name: str, as_json: bool, pairs: int | None = None) -> dict[str, float]:
    """The figures of one of `SAVERS`, or of so many pairs of it, which `benchmarks.batch` explains."""
    usual, saves, part_s = SAVERS[name]
    with tempfile.TemporaryDirectory() as folder, open_square(1) as square:
        square.wait_sandboxed()
        square.wait_free()
        parts = _played(square, Path(folder), (pairs or usual, saves, part_s))
    return figures(name, parts, saves, as_json=as_json)


def _played(square: Square, folder: Path, numbers: tuple[int, int, float]) -> list[tuple[Part, Part]]:
    """Pairs of a part that is not kept and one that is."""
    home = Home(square.home)

    def roots() -> list[int]:
        return [pid for pid in (home.read_pid("supervisor"), *(host.pid for host in square.hosts)) if pid is not None]

    with ProcessCpu(roots, _name_of) as cpu:
        job = square.submit(["python", "-c", SAVER, *map(str, numbers)], folder)
        square.wait_over(job, 7200, look_s=2.0)  # each look costs the market a millisecond
        found: dict[tuple[int, int], Part] = {}
        for line in square.lines(job):
            if line.startswith("part "):
                pair, kept, *told = map(float, line.split()[1:])
                begin_s, end_s, stretches, median_s = told
                found[int(pair), int(kept)] = Part(end_s - begin_s, int(stretches), median_s, cpu.between(begin_s, end_s))
    assert len(found) == 2 * numbers[0], square.lines(job)[-5:]
    return [(found[pair, 0], found[pair, 1]) for pair in range(numbers[0])]


def _name_of(command: str) -> str | None:
    return next((name for word, name in PROCESSES.items() if word in command), None)


def figures(name: str, pairs: Sequence[tuple[Part, Part]], saves: int, *, as_json: bool) -> dict[str, float]:
    """What the pairs say."""
    plain = [kept.stretch_s / beside.stretch_s - 1 for beside, kept in pairs]
    lost = [kept.lost - beside.lost for beside, kept in pairs]
    say(as_json, f"{name}: steps of parts that are kept take longer by {', '.join(f'{one:.1%}' for one in plain)}")
    say(as_json, f"{name}: and these parts lose {', '.join(f'{one:.1%}' for one in lost)} more")
    found = {
        f"{name}_overhead": statistics.mean(lost), f"{name}_standard_error": standard_error(lost),
        f"{name}_plain_overhead": statistics.mean(plain), f"{name}_plain_standard_error": standard_error(plain),
        f"{name}_stretch_s": statistics.median(beside.stretch_s for beside, _ in pairs),
    }  # fmt: skip
    names = [one for one in SAVING if any(one in kept.cpu_s for _, kept in pairs)]

    def cost(named: Sequence[str]) -> list[float]:
        return [sum(_more(beside, kept, one) for one in named) / saves for beside, kept in pairs]

    found |= {f"{name}_cpu_s_{one}": statistics.mean(cost([one])) for one in [*names, "others"]}
    whole = cost(names)
    return found | {f"{name}_cpu_s": statistics.mean(whole), f"{name}_cpu_s_standard_error": standard_error(whole)}


def _more(beside: Part, kept: Part, name: str) -> float:
    """Seconds that a process computes more in a part that is kept."""
    return kept.cpu_s.get(name, 0.0) - beside.cpu_s.get(name, 0.0) * kept.took_s / beside.took_s


def standard_error(values: Sequence[float]) -> float:
    """Of their mean."""
    return statistics.stdev(values) / len(values) ** 0.5
