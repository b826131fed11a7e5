"""What a batch job waits for and what it pays for being safe.

    python -m benchmarks.batch [--only environments|saving|saving_hard] [--pairs N] [--requirement NAME==VERSION] [--json]

A market and providers of one core each on this machine, all in the sandbox that there is:

- `first_line_warm_s`: from the start of `torg run` to the first line of its command's output, a provider waiting; `…_cold_s`:
  from the submission to that line when the provider is started only then.
- `upload_…_bytes`: of a working folder, and of the next one after one line of one file was changed.
- `restart_s`: from SIGKILL of the worker to the first line of the command on another machine, with what it had saved.
- `saving_overhead`: what a script loses that saves 32 MiB, all of it new, and then computes for 25 seconds, when it saves in
  `TORG_CHECKPOINT_DIR` and not beside it. Few save so often: it is about as often as a lease of one core has a save of that size
  taken at all (`trainers/actors/saves.py`). Parts of both kinds in one run take turns, every second pair the other way round, the
  first of each not counted. What a part loses is the share of its time beyond what it would take were each stretch of fifty steps
  as long as its median: so the speed of the machine, which wanders from part to part, is left out, and what a save costs, which
  is over within a few seconds, is not. The mean over pairs, with its standard error; `saving_plain_…`: by how much the steps of
  parts that are kept take longer, all in all. `saving_cpu_s…`: seconds of CPU of a save, in all processes that it goes through
  and in each kind, and of all others but the script's: what they compute more in a part that is kept; `saving_stretch_s`: of
  fifty steps. `saving_hard_…` (`--only saving_hard`): of parts of a minute that save every two seconds.
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
from benchmarks.saving import SAVERS, saving
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


def main() -> int:
    """See the module."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", choices=["environments", *SAVERS])
    arguments.add_argument("--pairs", type=int, help="of parts, for saving; else as many as take ten minutes")
    arguments.add_argument("--requirement")
    chosen = arguments.parse_args()
    figures: dict[str, float] = {}
    if chosen.only == "environments":
        return finish(environments(chosen.requirement, chosen.json), {}, chosen.json)
    if chosen.only in SAVERS:
        figures = saving(chosen.only, chosen.json, chosen.pairs)
        return finish(figures, {f"{chosen.only}_overhead": Target(figures[f"{chosen.only}_overhead"], 0.02)}, chosen.json)
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
    for name in SAVERS:
        figures |= saving(name, chosen.json)
    figures |= environments(chosen.requirement, chosen.json)
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
