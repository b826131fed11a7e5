"""The codecs against a plain copy of the same float32 vector, in turn in one run, in one thread.

    python -m benchmarks.codecs --json
    python -m benchmarks.codecs --codec dct:64+top_k:8/4096+fp16 --codec fp4

GB/s count the bytes of the float32 vector, whatever the codec makes of them; `both` is encode and decode together, one
after the other on one core. Freed memory is kept, as workers keep it. `--compiled` loads the compiled loops of int8 and
the DCT first. Targets: int8 both at 1 GB/s and more; dct:64+top_k:8/4096+fp16 both, compiled, at 0.3.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks.report import Target, finish, paired_ratio, parser
from trainers.codecs import VALUES, codec
from trainers.codecs.kernels import warm_up
from trainers.layout import layout_of
from trainers.mesh.allocation import keep_freed_memory

DCT = "dct:64+top_k:8/4096+fp16"
STAGED = ("top_k:64/4096+int2", "prune:0.9+fp16", "dct:64+identity", DCT)


def cpu_seconds(runs: int, action: Callable[[], object]) -> float:
    """CPU seconds of one call, all threads of this process together."""
    begun = time.process_time()
    for _ in range(runs):
        action()
    return (time.process_time() - begun) / runs


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--elements", type=int, default=1 << 20, help="a multiple of 1024")
    arguments.add_argument("--codec", action="append", help="only this one; may be given again")
    arguments.add_argument("--runs", type=int, default=15)
    arguments.add_argument("--compiled", action="store_true", help="with numba's loops, which torg[engine] brings")
    chosen = arguments.parse_args()
    keep_freed_memory()
    if chosen.compiled and not warm_up():
        arguments.error("numba is not installed")
    random = np.random.default_rng(1)
    vector = (random.standard_normal(chosen.elements) * 1e-3).astype(np.float32)
    target, gigabytes = np.empty_like(vector), vector.nbytes / 1e9
    figures: dict[str, float] = {"elements": float(chosen.elements), "cores": float(os.cpu_count() or 1)}

    def copy() -> None:
        np.copyto(target, vector)

    layout = layout_of([("matrix", (chosen.elements // 1024, 1024))])
    for name in chosen.codec or (*VALUES, *STAGED):
        made = codec(name, layout)
        payload = made.encode(vector)
        error = made.decode(payload, vector.size) - vector
        actions: dict[str, Callable[[], object]] = {
            "encode": lambda made=made: made.encode(vector),
            "decode": lambda made=made, payload=payload: made.decode(payload, vector.size),
        }
        both = 0.0
        for verb, action in actions.items():
            ratio, seconds, _ = paired_ratio(chosen.runs, action, copy)
            both += seconds
            figures[f"{name}_{verb}_gb_per_s"] = gigabytes / seconds
            figures[f"{name}_{verb}_ratio_to_copy"] = ratio
            figures[f"{name}_{verb}_cpu_ms"] = 1000 * cpu_seconds(chosen.runs, action)
        figures[f"{name}_both_gb_per_s"] = gigabytes / both
        figures[f"{name}_bytes_per_element"] = len(payload) / vector.size
        figures[f"{name}_relative_error"] = math.sqrt(float(np.square(error).sum() / np.square(vector).sum()))
    bounds = {"int8_both_gb_per_s": 1.0} | ({f"{DCT}_both_gb_per_s": 0.3} if chosen.compiled else {})
    targets = {name: Target(figures[name], bound, at_most=False) for name, bound in bounds.items() if name in figures}
    return finish(figures, targets, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
