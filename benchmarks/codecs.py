"""The codecs against a plain copy of the same float32 vector, in turn in one run, in one thread.

    python -m benchmarks.codecs --json

GB/s count the bytes of the float32 vector, whatever the codec makes of them. `contribute` is what a worker does between
its last inner step and handing on its contribution: difference, encoding, digest, norm. No targets: what a codec costs
matters beside the inner steps, which `benchmarks.one_worker` measures.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks.report import finish, paired_ratio, parser
from trainers.codecs import CODECS
from trainers.replica import Replica


def cpu_seconds(runs: int, action: Callable[[], object]) -> float:
    """CPU seconds of one call, all threads of this process together."""
    begun = time.process_time()
    for _ in range(runs):
        action()
    return (time.process_time() - begun) / runs


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--elements", type=int, default=1 << 20)
    arguments.add_argument("--runs", type=int, default=15)
    chosen = arguments.parse_args()
    random = np.random.default_rng(1)
    vector = (random.standard_normal(chosen.elements) * 1e-3).astype(np.float32)
    target, gigabytes = np.empty_like(vector), vector.nbytes / 1e9
    figures: dict[str, float] = {"elements": float(chosen.elements), "cores": float(os.cpu_count() or 1)}

    def copy() -> None:
        np.copyto(target, vector)

    for name, codec in sorted(CODECS.items()):
        payload, _ = codec.encode(vector, None)
        error = codec.decode(payload, vector.size) - vector
        actions: dict[str, Callable[[], object]] = {
            "encode": lambda codec=codec: codec.encode(vector, None),
            "decode": lambda codec=codec, payload=payload: codec.decode(payload, vector.size),
        }
        for verb, action in actions.items():
            ratio, seconds, _ = paired_ratio(chosen.runs, action, copy)
            figures[f"{name}_{verb}_gb_per_s"] = gigabytes / seconds
            figures[f"{name}_{verb}_ratio_to_copy"] = ratio
            figures[f"{name}_{verb}_cpu_ms"] = 1000 * cpu_seconds(chosen.runs, action)
        figures[f"{name}_bytes_per_element"] = len(payload) / vector.size
        figures[f"{name}_relative_error"] = math.sqrt(float(np.square(error).sum() / np.square(vector).sum()))
    strategy = {"name": "diloco", "inner_steps": 30, "outer_lr": 0.7, "outer_momentum": 0.9, "codec": "int8"}
    replica = Replica({"strategy": strategy, "steps": 30}, vector)
    trained = vector - vector[::-1]
    _, seconds, _ = paired_ratio(chosen.runs, lambda: replica.contribute(trained), copy)
    figures["contribute_ms"] = 1000 * seconds
    figures["contribute_cpu_ms"] = 1000 * cpu_seconds(chosen.runs, lambda: replica.contribute(trained))
    return finish(figures, {}, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
