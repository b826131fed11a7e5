"""What a batch job waits for and what it pays for being safe.

    python -m benchmarks.batch [--only environments|saving] [--requirement NAME==VERSION] [--json]

A market and providers of one core each on this machine, all in the sandbox that there is:

- `first_line_warm_s`: from the start of `torg run` to the first line of its command's output, a provider waiting; `…_cold_s`:
  from the submission to that line when the provider is started only then.
- `upload_…_bytes`: of a working folder, and of the next one after one line of one file was changed.
- `restart_s`: from SIGKILL of the worker to the first line of the command on another machine, with what it had saved.
- `saving_overhead`: how much longer parts of a script take that save 32 MiB, all of it new, and then compute for ten seconds or
  so, when they save in `TORG_CHECKPOINT_DIR` than when they save beside it: parts of both kinds in one run take turns, the first of
  each not counted; the median over pairs, of which every second is the other way round, because a machine's speed wanders.
  `…_standard_error`: of that median, were the pairs normal; `saving_lowest`, `saving_highest`: of the pairs.
  `saving_work_overhead`: what all other processes of this machine, the market that stores what is saved among them, compute more
  in a part that is kept, in parts of its time on one core. `saving_hard_…`: of parts that save every second or so, eight times,
  and then compute for six seconds more, until the last save must have been taken too.
- `environment_cold_s`: from the submission to the first line of a command whose environment is built first, and
  `environment_build_s` what the machine says that building took; `environment_warm_s`: the same job again, on a machine that has
  it; `environment_none_s`: the same without requirements. The package is a wheel of 200 modules made on the spot, in a folder
  that pip is told of; with `--requirement` one of the machine's own index.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.packages import make_wheel
from benchmarks.report import Target, finish, parser, say
from benchmarks.square import Square, open_square, until
from cli.jobfiles import prepare_fields

WARM_RUNS, RESTARTS, BUILDS = 5, 3, 3
LINE = "the first line"
COUNTER = """
import os, pathlib, time
kept = pathlib.Path(os.environ["TORG_CHECKPOINT_DIR"], "state")
print("begins with", kept.stat().st_size if kept.exists() else 0, flush=True)
if not kept.exists():
    kept.write_bytes(os.urandom(16 << 20))
time.sleep(3600)
"""


SAVER = """
import os, pathlib, sys, time
import numpy
folders = [pathlib.Path(os.environ[name]) for name in ("TMPDIR", "TORG_CHECKPOINT_DIR")]
pairs, saves, steps, tail = map(int, sys.argv[1:])
draw = numpy.random.default_rng(0)
state, matrix = draw.standard_normal(4 << 20), draw.standard_normal((384, 384), dtype=numpy.float32) / 20

def compute(steps):
    global matrix
    for step in range(steps):
        matrix = numpy.tanh(matrix @ matrix)

def busy_s():
    times = [int(word) for word in pathlib.Path("/proc/stat").read_text().split(maxsplit=8)[1:8]]
    return (sum(times) - times[3] - times[4]) / os.sysconf("SC_CLK_TCK") - time.process_time()

def part(folder):
    global state
    began, others = time.monotonic(), busy_s()
    for save in range(saves):
        state += 1
        (folder / "new").write_bytes(state.tobytes())
        (folder / "new").rename(folder / "state")
        compute(steps)
    compute(tail)
    return time.monotonic() - began, busy_s() - others

for folder in folders:
    part(folder)
for pair in range(pairs):
    found = {kept: part(folders[kept]) for kept in ((0, 1) if pair % 2 else (1, 0))}
    print("pair", *found[0], *found[1], flush=True)
"""
SAVERS = {"saving": (10, 1, 9000, 0), "saving_hard": (10, 8, 900, 5400)}
"""Pairs of parts, saves of each part, steps of a millisecond or so after each save, and steps after the last."""


def main() -> int:
    """See the module."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", choices=["environments", "saving"])
    arguments.add_argument("--requirement")
    chosen = arguments.parse_args()
    figures: dict[str, float] = {}
    if chosen.only == "environments":
        return finish(environments(chosen.requirement, chosen.json), {}, chosen.json)
    if chosen.only == "saving":
        figures = saving(chosen.json)
        return finish(figures, {"saving_overhead": Target(figures["saving_overhead"], 0.02)}, chosen.json)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        with open_square(0) as square:
            figures["first_line_cold_s"] = cold(square, files)
        with open_square(2) as square:
            square.wait_sandboxed()
            warm = [first_line(square, files) for _ in range(WARM_RUNS)]
            figures |= {"first_line_warm_s": statistics.median(warm), "first_line_warm_most_s": max(warm)}
            say(chosen.json, f"first lines after {', '.join(f'{one:.2f}' for one in warm)} s")
            figures |= uploads(square, files)
            restarts = [restart(square, files) for _ in range(RESTARTS)]
            figures |= {"restart_s": statistics.median(restarts), "restart_most_s": max(restarts)}
            say(chosen.json, f"restarts after {', '.join(f'{one:.2f}' for one in restarts)} s")
    figures |= saving(chosen.json) | environments(chosen.requirement, chosen.json)
    targets = {
        "saving_overhead": Target(figures["saving_overhead"], 0.02),
        "first_line_warm_s": Target(figures["first_line_warm_s"], 2.0),
        "upload_change_ratio": Target(figures["upload_change_ratio"], 0.05),
    }
    return finish(figures, targets, chosen.json)


def cold(square: Square, files: Path) -> float:
    """Seconds from the submission to the first line, the provider being started in between."""
    began = time.monotonic()
    job = square.submit(["echo", LINE], files)
    square.add_provider()
    until(lambda: LINE in square.lines(job))
    return time.monotonic() - began


def first_line(square: Square, files: Path) -> float:
    """Seconds from the start of `torg run` to the first line."""
    square.wait_free()
    time.sleep(3)  # the next warm worker is being made
    command = [
        sys.executable,
        "-m",
        "cli",
        "run",
        "-y",
        "--max-price",
        "0.9",
        "--workdir",
        str(files),
        "--",
        "echo",
        LINE,
    ]
    began = time.monotonic()
    with subprocess.Popen(
        command, env=square.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()).strip() != LINE.encode():
            if not line:
                raise RuntimeError("torg run ended without its line")
        taken = time.monotonic() - began
        process.stdout.read()
    return taken


def uploads(square: Square, files: Path) -> dict[str, float]:
    """Bytes of a folder of 400 files and a change in it."""
    draw = random.Random(1)
    folder = files / "project"
    for number in range(400):
        path = folder / f"package{number % 20}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"value{line} = {draw.random()}\n" for line in range(draw.randrange(20, 800))))
    sent = []
    for _ in range(2):
        with prepare_fields(_fields(folder)) as prepared:
            sent.append(prepared.upload(square.customer))
        with (folder / "package7" / "module187.py").open("a") as file:
            file.write("changed = True\n")
    shutil.rmtree(folder)
    return {"upload_whole_bytes": sent[0], "upload_change_bytes": sent[1], "upload_change_ratio": sent[1] / sent[0]}


def _fields(folder: Path) -> dict[str, Any]:
    limits = {"max_usd_per_gpu_hour": 0.9, "budget_usd": 1}
    return {"name": "a", "command": ["true"], "workdir": str(folder), "workers": {"gpu": ["cpu"]}, "limits": limits}


def saving(as_json: bool) -> dict[str, float]:
    """What a script pays for having what it saves made durable."""
    with tempfile.TemporaryDirectory() as folder, open_square(1) as square:
        square.wait_sandboxed()
        found = [_saving(square, Path(folder), name, *numbers, as_json=as_json) for name, numbers in SAVERS.items()]
    return {name: value for one in found for name, value in one.items()}


def _saving(
    square: Square, folder: Path, name: str, pairs: int, saves: int, steps: int, tail: int, *, as_json: bool
) -> dict[str, float]:
    square.wait_free()
    numbers = [str(one) for one in (pairs, saves, steps, tail)]
    job = square.submit(["python", "-c", SAVER, *numbers], folder)
    square.wait_over(job, 3600, look_s=2.0)  # each look costs the market a millisecond
    lines = [[float(word) for word in line.split()[1:]] for line in square.lines(job) if line.startswith("pair ")]
    assert len(lines) == pairs, square.lines(job)
    ratios = sorted(kept_s / beside_s - 1 for beside_s, _, kept_s, _ in lines)
    run_s = statistics.median(kept_s for _, _, kept_s, _ in lines)
    work_s = statistics.median(kept_others_s - others_s for _, others_s, _, kept_others_s in lines)
    say(as_json, f"{name}: parts of {run_s:.2f} s take longer by {', '.join(f'{one:.1%}' for one in ratios)}")
    return {
        f"{name}_overhead": statistics.median(ratios), f"{name}_standard_error": 1.25 * statistics.stdev(ratios) / pairs**0.5,
        f"{name}_lowest": ratios[0], f"{name}_highest": ratios[-1],
        f"{name}_work_overhead": work_s / run_s, f"{name}_part_s": run_s,
    }  # fmt: skip


def environments(requirement: str | None, as_json: bool) -> dict[str, float]:
    """Seconds to the first line with an environment to build, with one that is there, and with none."""
    with tempfile.TemporaryDirectory() as folder:
        index, files = Path(folder, "index"), Path(folder, "files")
        index.mkdir()
        files.mkdir()
        if requirement is None:
            size = max(make_wheel(index, "alpha", f"{number}.0") for number in range(BUILDS))
            os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}
            wanted = [f"alpha=={number}.0" for number in range(BUILDS)]
            say(as_json, f"wheels of {size:,} bytes, made here")
        else:
            wanted = [requirement]
        with open_square(1) as square:
            none = [first_line_of(square, files, None)[0] for _ in range(BUILDS)]
            cold = [first_line_of(square, files, one) for one in wanted]
            warm = [first_line_of(square, files, one)[0] for one in wanted]
    for name, seconds in (("no environment", none), ("one to build", [one for one, _ in cold]), ("one that is there", warm)):
        say(as_json, f"first lines with {name} after {', '.join(f'{one:.2f}' for one in seconds)} s")
    return {
        "environment_none_s": statistics.median(none), "environment_cold_s": statistics.median(one for one, _ in cold),
        "environment_build_s": statistics.median(built for _, built in cold), "environment_warm_s": statistics.median(warm),
    }  # fmt: skip


def first_line_of(square: Square, files: Path, requirement: str | None) -> tuple[float, float]:
    """Seconds from the submission to the first line, and those that a build says it took (0 without one)."""
    square.wait_free()
    time.sleep(3)  # the next warm worker is being made
    began = time.monotonic()
    job = square.submit(["echo", LINE], files, requirements=None if requirement is None else [requirement])
    until(lambda: LINE in square.lines(job), 600)
    taken = time.monotonic() - began
    square.wait_over(job)
    built = [re.search(r"built the environment \w+ in ([\d.]+) s", line) for line in square.lines(job)]
    return taken, next((float(found[1]) for found in built if found), 0.0)


def restart(square: Square, files: Path) -> float:
    """Seconds from the death of a machine to the first line on the next, which has 16 MiB that were saved."""
    square.wait_free()
    job = square.submit(["python", "-c", COUNTER], files)
    until(lambda: square.customer.job(job)["command"]["saved"])
    began = time.monotonic()
    square.kill_worker(job)
    until(lambda: f"begins with {16 << 20}" in square.lines(job))
    taken = time.monotonic() - began
    square.customer.cancel_job(job)
    return taken


if __name__ == "__main__":
    sys.exit(main())
