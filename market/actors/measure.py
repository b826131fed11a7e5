"""How fast this machine really is: `python -m market.actors.measure --units N [--cuda] [--seed S]` prints one JSON line.

Run as a process of its own: it holds torch or numpy, and takes the thread count from its own environment. Figures are
integers: matmul_mflops_per_unit (2n³ multiplications and additions by time, float32 on a core, bfloat16 on a card),
memory_mbytes_per_second (bytes read and written by a large copy), cores. Each takes the best of a few short tries, so a
neighbour's burst does not make a machine look slow for ever. The seed, the market's, varies the sizes and the numbers, so that
no answer fits every question.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TRIES_S = 0.25
MATRIX = 384  # a millisecond or two: short enough to find a gap between a busy machine's time slices
CARD_MATRIX = 8192
SIZES, STEP = 8, 16  # sides are MATRIX, MATRIX + 16, … by the seed; of a card eight times that
COPY_BYTES = 48 * 2**20
DISK_BYTES = 32 * 2**20


def measure(units: int, card: str | None, seed: int = 0, timeout_s: float = 120.0) -> dict[str, int]:
    """Measure in a fresh process with one thread and return the figures; raises on failure or timeout.

    `card`: the UUID of the card to measure, which may not be the machine's first; None for cores.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "market.actors.measure", "--units", str(units), "--seed", str(seed)]
    if card is not None:
        environment["CUDA_VISIBLE_DEVICES"] = card
        command.append("--cuda")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=True)
    found = json.loads(done.stdout)
    return {name: int(value) for name, value in found.items()}


def main(arguments: list[str] | None = None) -> int:
    """Print the figures of one unit of this machine."""
    parser = argparse.ArgumentParser(prog="python -m market.actors.measure")
    parser.add_argument("--units", type=int, required=True)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    figures = _measure_card(given.seed) if given.cuda else _measure_core(given.seed)
    figures["cores"] = os.cpu_count() or 1
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def measure_disk(folder: Path) -> dict[str, int]:
    """{disk_write_mbytes_per_second, disk_read_mbytes_per_second} of a file in this folder, synced, and read past the cache as
    far as the system lets it be dropped; nothing where there is no room for it.
    """
    content = os.urandom(2**20)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            began = time.monotonic()
            for _ in range(DISK_BYTES // len(content)):
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
            write_s = time.monotonic() - began
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            began = time.monotonic()
            while file.read(2**20):
                pass
            read_s = time.monotonic() - began
    except OSError:
        return {}
    rates = {"disk_write_mbytes_per_second": write_s, "disk_read_mbytes_per_second": read_s}
    return {name: int(DISK_BYTES / max(1e-6, took_s) / 1e6) for name, took_s in rates.items()}


def _measure_core(seed: int) -> dict[str, int]:
    import numpy as np

    side = MATRIX + STEP * (seed % SIZES)
    generator = np.random.default_rng(seed)
    left = generator.random((side, side), dtype=np.float32)
    source = np.zeros(COPY_BYTES, dtype=np.uint8)
    target = np.ones_like(source)
    multiply_s = _best(lambda: left @ left)
    copy_s = _best(lambda: np.copyto(target, source))
    return {
        "matmul_mflops_per_unit": int(2 * side**3 / multiply_s / 1e6),
        "memory_mbytes_per_second": int(2 * COPY_BYTES / copy_s / 1e6),
    }


def _measure_card(seed: int) -> dict[str, int]:
    import torch

    side = CARD_MATRIX + 8 * STEP * (seed % SIZES)
    # cards older than 2020 multiply bfloat16 without their matrix units, and the catalogue has their float16 peak
    kind = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    # Random numbers: constant ones draw less power, so clocks stay higher than in any real work.
    left = torch.randn((side, side), device="cuda", dtype=torch.float32).to(kind)
    source = torch.zeros(2**28, device="cuda", dtype=torch.uint8)
    target = torch.ones_like(source)

    def synchronised(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            work()
            torch.cuda.synchronize()

        return run

    multiply_s = _best(synchronised(lambda: left @ left))
    copy_s = _best(synchronised(lambda: target.copy_(source)))
    return {
        "matmul_mflops_per_unit": int(2 * side**3 / multiply_s / 1e6),
        "memory_mbytes_per_second": int(2 * source.numel() / copy_s / 1e6),
    }


def _best(work: Callable[[], object]) -> float:
    """Shortest time of one call within about TRIES_S, after one call to warm up."""
    work()
    shortest, end = float("inf"), time.monotonic() + TRIES_S
    while time.monotonic() < end:
        began = time.monotonic()
        work()
        shortest = min(shortest, time.monotonic() - began)
    return shortest


if __name__ == "__main__":
    sys.exit(main())
