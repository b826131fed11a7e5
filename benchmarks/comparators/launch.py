"""Start a comparator as one process a worker, each on a machine of its own where cables are given, and read its lines."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cables import INTERFACE, Cables

ROOT = Path(__file__).resolve().parents[2]
BENCH_PYTHON = ROOT / ".bench-venv" / "bin" / "python"
FOREIGN = frozenset({"torchft_local_update", "hivemind_local_update"})
# A comparator is killed when its maker ends, however that ends.
ENDING_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")

Json = dict[str, Any]


class ComparatorFailed(Exception):
    """A comparator's process ended badly or too late; the message has the end of what it said."""


def python_for(name: str) -> Path:
    """The interpreter that can run a comparator. Raises ComparatorFailed when its packages are not installed."""
    if name not in FOREIGN:
        return Path(sys.executable)
    if not BENCH_PYTHON.exists():
        raise ComparatorFailed(f"{name} needs .bench-venv: run `make bench-deps`")
    return BENCH_PYTHON


def compare(
    name: str, *, workers: int, cables: Cables | None, data: Path, options: Mapping[str, Any], timeout_s: float
) -> list[list[Json]]:
    """The lines of every worker, by rank, of one whole run of the comparator `name`.

    `options`: the comparator's own by name (`inner_steps=30` is `--inner-steps 30`; True is a bare flag). With `cables`
    each worker gets a new machine on that switch. Raises ComparatorFailed.
    """
    python = python_for(name)
    with tempfile.TemporaryDirectory(prefix="torg-bench-") as folder:
        started = []
        try:
            for rank in range(workers):
                own = Path(folder, str(rank))
                own.mkdir()
                command = [str(python), "-W", "ignore", "-m", f"benchmarks.comparators.{name}", "--rank", str(rank)]
                command += ["--world", str(workers), "--rendezvous", folder, "--data", str(data), *_flags(options)]
                if cables is not None:
                    machine = cables.add()
                    command += ["--address", machine.address, "--interface", INTERFACE]
                    command = machine.command(command)
                started.append(_start(command, own))
            return [_lines(process, own, timeout_s, name) for process, own in started]
        finally:
            for process, _ in started:
                process.kill()
                process.wait()


def environment() -> dict[str, str]:
    """A small and fixed one: one thread, our modules, nothing of a proxy or another run."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LANG": "C.UTF-8"}  # fmt: skip


def _start(command: Sequence[str], own: Path) -> tuple[subprocess.Popen[bytes], Path]:
    with (own / "out").open("wb") as out, (own / "err").open("wb") as err:
        process = subprocess.Popen([*ENDING_WITH_US, *command], cwd=own, stdout=out, stderr=err, env=environment())
    return process, own


def _lines(process: subprocess.Popen[bytes], own: Path, timeout_s: float, name: str) -> list[Json]:
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise ComparatorFailed(f"{name} took longer than {timeout_s:.0f} s\n{_end(own)}") from None
    if code != 0:
        raise ComparatorFailed(f"{name} ended with {code}\n{_end(own)}")
    return [json.loads(line) for line in (own / "out").read_text().splitlines() if line.startswith('{"round"')]


def _end(own: Path) -> str:
    return (own / "err").read_text(errors="replace")[-3000:]


def _flags(options: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        flags.append(f"--{name.replace('_', '-')}")
        if value is not True:
            flags.append(str(value))
    return flags
