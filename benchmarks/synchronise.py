"""A synchronisation between two processes on loopback, through the mesh and by torch's gloo, in turn in one run.

    python -m benchmarks.synchronise --json

Ours is all that a member does: encode, exchange, decode, mean in float64. Gloo's is `all_reduce` of the same float32
vector in place, and a division. Each is timed at the first process; both enter it together, after a barrier of the mesh.
The target is about equal bytes on the wire (identity); `exchange` is the mesh alone, without the arithmetic. On a busy
machine wall-clock time says how often others had the cores; then `cpu_ms`, all threads of a process, says more.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.distributed

from benchmarks.report import Target, finish, parser
from trainers.codecs import Vector, codec
from trainers.merging import mean
from trainers.mesh import Mesh, Peer, View
from trainers.mesh.allocation import keep_freed_memory

SECRET = bytes(32)
TIMEOUT_S = 60.0
SLOTS = (0, 1)
FIRST = 3  # runs that are not counted
TARGET_RATIO = 2.0
Action = Callable[[int], object]


def gather(mesh: Mesh, name: str, vector: Vector) -> Action:
    """Everybody's whole encoding to everybody."""
    made = codec(name)

    def run(step: int) -> Vector:
        found = mesh.gather(step, made.encode(vector), TIMEOUT_S)
        return mean([made.decode(found[slot], vector.size) for slot in sorted(found)])

    return run


def butterfly(mesh: Mesh, name: str, vector: Vector) -> Action:
    """Each member reduces the half that it owns; the reduced half is encoded once more."""
    made, halves = codec(name), np.array_split(vector, len(SLOTS))
    sizes = [half.size for half in halves]

    def run(step: int) -> Vector:
        def combine(slices: dict[int, bytes]) -> bytes:
            return made.encode(mean([made.decode(slices[slot], sizes[mesh.slot]) for slot in sorted(slices)]))

        slices = {slot: made.encode(halves[slot]) for slot in SLOTS}
        reduced = mesh.reduce(step, slices, combine, TIMEOUT_S)
        return np.concatenate([made.decode(reduced[slot], sizes[slot]) for slot in SLOTS])

    return run


def gloo(vector: Vector) -> Action:
    """torch.distributed's all_reduce."""
    tensor = torch.from_numpy(vector.copy())

    def run(step: int) -> torch.Tensor:
        torch.distributed.all_reduce(tensor)
        return tensor.div_(len(SLOTS))

    return run


def member(slot: int, pipe: Connection, store: str, elements: int, runs: int) -> Mapping[str, float]:
    """Run every way in turn; median seconds of each."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    keep_freed_memory()  # as workers do
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=slot, world_size=len(SLOTS))
    mesh = Mesh(secret=SECRET, slot=slot, epoch=1)
    pipe.send(mesh.address)
    peers = {slot: mesh.peer, 1 - slot: Peer(1 - slot, 1, pipe.recv())}
    mesh.set_view(View(1, 0, (peers[0], peers[1])))
    vector = (np.random.default_rng(slot).standard_normal(elements) * 1e-3).astype(np.float32)
    whole, small = vector.tobytes(), b"x" * 100
    ways: dict[str, Action] = {
        "gloo": gloo(vector),
        "exchange": lambda step: mesh.gather(step, whole, TIMEOUT_S),
        "small": lambda step: mesh.gather(step, small, TIMEOUT_S),
        **{
            f"{name}_{way.__name__}": way(mesh, name, vector)
            for name in ("identity", "int8")
            for way in (gather, butterfly)
        },
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    cpu_s: dict[str, list[float]] = {name: [] for name in ways}
    received: dict[str, int] = {}
    step = 0
    for _ in range(FIRST + runs):
        for name, action in ways.items():
            mesh.gather(step, b"", TIMEOUT_S)
            before, cpu, begun = mesh.wire().received_bytes, time.process_time(), time.perf_counter()
            action(step + 1)
            taken[name].append(time.perf_counter() - begun)
            cpu_s[name].append(time.process_time() - cpu)
            received[name] = mesh.wire().received_bytes - before
            step += 2
    ratios = {name: statistics.median(a / b for a, b in zip(one[FIRST:], taken["gloo"][FIRST:], strict=True))
              for name, one in taken.items() if name not in ("gloo", "small")}  # fmt: skip
    mesh.gather(step, b"", TIMEOUT_S)
    pipe.send("done")
    pipe.recv()
    mesh.close()
    torch.distributed.destroy_process_group()
    return (
        {f"{name}_ms": 1e3 * statistics.median(one[FIRST:]) for name, one in taken.items()}
        | {f"{name}_ratio_to_gloo": ratio for name, ratio in ratios.items()}
        | {f"{name}_cpu_ms": 1e3 * statistics.median(one[FIRST:]) for name, one in cpu_s.items()}
        | {f"{name}_received_bytes": float(count) for name, count in received.items() if name != "gloo"}
    )


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--elements", type=int, default=900_000)
    arguments.add_argument("--runs", type=int, default=25)
    chosen = arguments.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    with tempfile.TemporaryDirectory(prefix="torg-bench-") as folder:
        rest = (f"{folder}/store", chosen.elements, chosen.runs)
        other = multiprocessing.get_context("spawn").Process(target=member, args=(1, theirs, *rest))
        other.start()
        figures = dict(member(0, ours, *rest))
        other.join(TIMEOUT_S)
    figures |= {"elements": float(chosen.elements), "cores": float(os.cpu_count() or 1)}
    ratio = figures["identity_gather_ratio_to_gloo"]
    return finish(figures, {"identity_gather_ratio_to_gloo": Target(ratio, TARGET_RATIO)}, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
