"""What checkpoints cost the training beside them.

Two parts, with one training loop (byte_lm, one thread) that never stops:

- a large state (parameters and AdamW's two moments, float32) is copied into reused shared memory, which blocks the loop,
  then hashed, written and synced by another process; the loop loses the stall and what that process takes from it. Told
  as the share of a minute, for one checkpoint a minute, and beside it a copy into fresh memory;
- a checkpoint after every round of 30 steps as a worker makes it (a base, then deltas): the stall as a share of the
  training time, with the bases and deltas that it leads to on disk and the newest replayed.

    python -m benchmarks.checkpoints --parameters 100000000 --checkpoints 5
"""

from __future__ import annotations

import copy
import hashlib
import mmap
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import Target, finish, parser, say
from market.packing import pack_stdlib, unpack
from storage.blobs import BlobStore
from storage.model_files import parameters_digest, safetensors_header
from trainers.layout import layout_of
from trainers.member import Member, RoundOrder
from trainers.snapshots import Snapshot, Snapshots
from trainers.workloads.byte_lm import ByteLM

SEED = 1
MINUTE_S = 60.0
INNER_STEPS = 30
NICENESS = 10
PIECE_BYTES = 1 << 20
NAMES = ("exp_avg", "exp_avg_sq", "parameters")


class TrainingLoop:
    """The plain loop; `run` counts its steps until told to end."""

    def __init__(self, data: Path, size: str) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(SEED)
        self.workload = ByteLM({"size": size}, data, SEED)
        self.model = self.workload.model()
        self.optimizer = self.workload.optimizer(self.model, 10**6)
        self.done = 0

    def step(self) -> None:
        """One optimiser step."""
        loss = self.workload.loss(self.model, self.workload.batch(SEED, self.done, 0))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.done += 1

    def until(self, over: Callable[[], bool]) -> tuple[float, int]:
        """(seconds, steps) until `over`, at least one step."""
        begun, before = time.perf_counter(), self.done
        while self.done == before or not over():
            self.step()
        return time.perf_counter() - begun, self.done - before

    def step_s(self, seconds: float) -> float:
        """Seconds a step, over at least that long."""
        ends = time.perf_counter() + seconds
        took, steps = self.until(lambda: time.perf_counter() >= ends)
        return took / steps


def parts_of(tensors: dict[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """A safetensors file of flat float32 tensors, piece by piece."""
    shapes, places, offset = {}, {}, 0
    for name in NAMES:
        shapes[name], places[name] = tensors[name].shape, (offset, offset + tensors[name].nbytes)
        offset += tensors[name].nbytes
    yield safetensors_header(shapes, places, {})
    for name in NAMES:
        yield tensors[name].data.cast("B")


def shared(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """Memory that a forked process sees too."""
    elements = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, max(1, elements * kind.itemsize)), kind, elements).reshape(shape)


class Writer:
    """Another process, of low priority, that makes the tensors durable whenever it is told."""

    def __init__(self, tensors: dict[str, np.ndarray], folder: Path) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("fork").Process(target=self._work, args=(tensors, folder, theirs))
        self._process.start()

    def _work(self, tensors: dict[str, np.ndarray], folder: Path, connection: Connection) -> None:
        os.nice(NICENESS)
        folder.mkdir(parents=True)
        while connection.recv():
            begun, cpu = time.perf_counter(), time.process_time()
            hashed, path = hashlib.sha256(), folder / "state"
            with path.open("wb") as file:
                for part in parts_of(tensors):
                    for start in range(0, len(part), PIECE_BYTES):
                        hashed.update(part[start : start + PIECE_BYTES])
                        file.write(part[start : start + PIECE_BYTES])
                file.flush()
                os.fsync(file.fileno())
            path.rename(folder / hashed.hexdigest())
            connection.send((time.perf_counter() - begun, time.process_time() - cpu))
            (folder / hashed.hexdigest()).unlink()

    def begin(self) -> None:
        """Go."""
        self._ours.send(True)

    def is_done(self) -> bool:
        """Whether `took` can be had without waiting."""
        return self._ours.poll()

    def took(self) -> tuple[float, float]:
        """(seconds, CPU-seconds) of the last one."""
        wall_s, cpu_s = self._ours.recv()
        return float(wall_s), float(cpu_s)

    def end(self) -> None:
        """End the process."""
        self._ours.send(False)
        self._process.join()


def one_checkpoint(
    loop: TrainingLoop, writer: Writer, staged: dict[str, np.ndarray], state: dict[str, np.ndarray], quiet_s: float
) -> dict[str, float]:
    """The loop without, with one checkpoint beside it, and without again: {stall_s, durable_s, …}."""
    before_s = loop.step_s(quiet_s)
    begun = time.perf_counter()
    for name, tensor in state.items():
        np.copyto(staged[name], tensor)
    stall_s = time.perf_counter() - begun
    writer.begin()
    took_s, steps = loop.until(writer.is_done)
    written_s, writer_cpu_s = writer.took()
    step_s = (before_s + loop.step_s(quiet_s)) / 2
    lost_s = stall_s + took_s - steps * step_s
    return {
        "stall_s": stall_s, "durable_s": stall_s + written_s, "writer_cpu_s": writer_cpu_s, "lost_s": lost_s,
        "step_s": step_s,
    }  # fmt: skip


def large_state(loop: TrainingLoop, folder: Path, parameters: int, checkpoints: int, quiet: bool) -> dict[str, float]:
    """Part one."""
    state = {name: torch.randn(parameters).numpy() for name in NAMES}
    staged = {name: shared(tensor.shape, tensor.dtype) for name, tensor in state.items()}
    for name, tensor in state.items():
        np.copyto(staged[name], tensor)
    writer = Writer(staged, folder / "blobs")
    found = []
    for number in range(checkpoints):
        for tensor in state.values():
            tensor[:1] += 1  # changed in place, as an optimiser does
        found.append(one_checkpoint(loop, writer, staged, state, quiet_s=3.0))
        say(quiet, f"checkpoint {number + 1}: " + ", ".join(f"{name} {value:.3f}" for name, value in found[-1].items()))
    writer.end()
    fresh = []
    for _ in range(min(3, checkpoints)):
        begun = time.perf_counter()
        cloned = {name: tensor.copy() for name, tensor in state.items()}
        fresh.append(time.perf_counter() - begun)
        del cloned
    median = {name: statistics.median(one[name] for one in found) for name in found[0]}
    return {
        "state_gb": sum(tensor.nbytes for tensor in state.values()) / 1e9,
        "stall_s": median["stall_s"],
        "stall_fresh_memory_s": statistics.median(fresh),
        "durable_s": median["durable_s"],
        "writer_cpu_s": median["writer_cpu_s"],
        "lost_s": median["lost_s"],
        "slowdown_percent_once_a_minute": 100 * median["lost_s"] / MINUTE_S,
    }


def every_round(loop: TrainingLoop, folder: Path, rounds: int, quiet: bool) -> dict[str, float]:
    """Part two: stall and sizes of a checkpoint every round, and whether the chain leads to the same bits."""
    shapes = [(name, tuple(parameter.shape)) for name, parameter in loop.model.named_parameters()]
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in loop.model.parameters()]).numpy()
    spec = {"strategy": {"name": "diloco", "inner_steps": INNER_STEPS, "codec": "int8"}, "steps": 10**6, "seed": SEED}
    member, kept, store = Member(spec, layout_of(shapes), flat), Snapshots(), BlobStore(folder / "rounds")
    trained_s, stalls, sizes = 0.0, [], {"base": 0, "delta": 0}
    for round in range(1, rounds + 1):
        begun = time.perf_counter()
        for _ in range(INNER_STEPS):
            loop.step()
        trained_s += time.perf_counter() - begun
        local = torch.cat([parameter.detach().reshape(-1) for parameter in loop.model.parameters()]).numpy()
        steps = INNER_STEPS * round
        member.contribute(local, RoundOrder(round, steps - INNER_STEPS, steps, steps, (0,)))
        member.merge({0: member.payload()})
        member.commit()
        begun = time.perf_counter()
        if round == 1:
            frozen = copy.copy(member)
            kept.add(Snapshot("base", round, member.digest(), 8 * flat.size, frozen.export))
        else:
            assert member.bundle is not None
            kept.add(Snapshot("delta", round, member.digest(), flat.size, member.bundle.pack))
        stalls.append(time.perf_counter() - begun)
        content = kept.staged(round)
        sizes["base" if round == 1 else "delta"] = len(content)
        store.put(content)
    replayed = kept.state(rounds, Member.replay)
    assert replayed is not None
    assert parameters_digest(replayed) == member.digest(), "the chain leads elsewhere"
    say(quiet, f"{rounds} rounds: stalls in ms " + ", ".join(f"{1000 * stall:.2f}" for stall in stalls))
    return {
        "round_trained_s": trained_s / rounds,
        "round_stall_ms": 1000 * sum(stalls) / rounds,
        "round_stall_percent": 100 * sum(stalls) / trained_s,
        "base_bytes": sizes["base"],
        "delta_bytes": sizes["delta"],
    }


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--parameters", type=int, default=100_000_000)
    arguments.add_argument("--checkpoints", type=int, default=5)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--size", default="1M", help="of the model in the loop")
    arguments.add_argument("--folder", type=Path, help="where to write (the disk that is measured)")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as scratch:
        folder = Path(scratch)
        pack_stdlib(folder / "data.tar")
        with (folder / "data.tar").open("rb") as packed:
            unpack(packed, folder / "data")
        loop = TrainingLoop(folder / "data", chosen.size)
        loop.step_s(1.0)
        figures = large_state(loop, folder, chosen.parameters, chosen.checkpoints, chosen.json)
        figures |= every_round(loop, folder, chosen.rounds, chosen.json)
    targets = {
        "slowdown_percent_once_a_minute": Target(figures["slowdown_percent_once_a_minute"], 5.0),
        "round_stall_percent": Target(figures["round_stall_percent"], 1.0),
    }
    return finish(figures, targets, chosen.json, {"parameters": chosen.parameters})


if __name__ == "__main__":
    sys.exit(main())
