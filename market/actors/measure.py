"""How fast this machine really is: `python -m market.actors.measure --units N [--cuda]` prints one JSON line.

Run as a process of its own: it holds torch or numpy, and takes the thread count from its own environment. Figures are
integers: matmul_mflops_per_unit (2n³ multiplications and additions by time, float32 on a core, bfloat16 on a card),
memory_mbytes_per_second (bytes read and written by a large copy), cores. Each takes the best of a few short tries, so a
neighbour's burst does not make a machine look slow for ever.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

TRIES_S = 0.25
MATRIX = 384  # a millisecond or two: short enough to find a gap between a busy machine's time slices
COPY_BYTES = 48 * 2**20


def measure(units: int, card: str | None, timeout_s: float = 120.0) -> dict[str, int]:
    """Measure in a fresh process with one thread and return the figures; raises on failure or timeout.

    `card`: the UUID of the card to measure, which may not be the machine's first; None for cores.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "market.actors.measure", "--units", str(units)]
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
    given = parser.parse_args(arguments)
    figures = _measure_card() if given.cuda else _measure_core()
    figures["cores"] = os.cpu_count() or 1
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def _measure_core() -> dict[str, int]:
    import numpy as np

    generator = np.random.default_rng(1)
    left = generator.random((MATRIX, MATRIX), dtype=np.float32)
    source = np.zeros(COPY_BYTES, dtype=np.uint8)
    target = np.ones_like(source)
    multiply_s = _best(lambda: left @ left)
    copy_s = _best(lambda: np.copyto(target, source))
    return {
        "matmul_mflops_per_unit": int(2 * MATRIX**3 / multiply_s / 1e6),
        "memory_mbytes_per_second": int(2 * COPY_BYTES / copy_s / 1e6),
    }


def _measure_card() -> dict[str, int]:
    import torch

    side = 8192
    left = torch.ones((side, side), device="cuda", dtype=torch.bfloat16)
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
