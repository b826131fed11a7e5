"""What checkpoints cost the training beside them, measured through a real worker and its sandboxed child, without Ray.

A lone worker trains byte_lm round after round (`Worker.train`, `Worker.merge`) and never stops; `Worker.snapshot` sets
aside, `Worker.staged` and `Worker.staged_inner` serialise, `BlobStore.put` hashes, writes and syncs. Two parts:

- a large state (`--parameters`; float32 parameters and AdamW's two moments): training waits while the child copies its
  moments into memory that is used again, and goes on while the rest happens in a thread. What the loop loses is the stall
  and what that thread takes from it: told as the share of a minute, for one checkpoint a minute. Beside it the stall when
  that memory is fresh. One sequence of 16 bytes a step, so that the step is nearly all memory traffic, as the copies are;
- a checkpoint after every round of 30 steps (a base, then deltas): the stall as a share of the training time, with the
  base and deltas that it leads to on disk and the newest replayed.

    python -m benchmarks.checkpoints --parameters 100000000 --checkpoints 5

Medians are over checkpoints. On a busy machine `lost_s` is the noise of the rounds that it is made of: see `round_s`.
"""

from __future__ import annotations

import gc
import hashlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.report import Target, finish, parser, say
from market.packing import pack_stdlib
from storage.blobs import BlobStore
from storage.model_files import parameters_digest
from trainers.actors.worker import Worker
from trainers.exports import ExportAreas
from trainers.member import Member
from trainers.options import strategy_options
from trainers.sandbox import isolation_level

Json = dict[str, Any]

SEED = 1
MINUTE_S = 60.0
CALL_S = 600.0
SMALL_STEPS, LARGE_STEPS = 30, 4
SECRET = bytes(32)
RUN = hashlib.sha256(SECRET).hexdigest()[:16]
MEMORY_OF_A_PARAMETER = 64  # what a child may take, with room to spare
LEAST_MEMORY = 2 << 30


class Lone:
    """The only worker of a job, which goes from round to round."""

    def __init__(self, worker: Worker, strategy: Json, place: list[Any], digest: str) -> None:
        self.worker = worker
        self._strategy, self._place = strategy, place
        self._steps = int(strategy["inner_steps"])
        self.number, self.digest = 0, digest

    @property
    def base(self) -> Json:
        """Where it stands."""
        return {"round": self.number, "digest": self.digest}

    def round(self) -> float:
        """Train one and merge it; seconds."""
        begun, before = time.perf_counter(), self._steps * self.number
        order = {
            "round": self.number + 1, "step_before": before, "step_after": before + self._steps,
            "position_after": before + self._steps, "slots": [0], "base": self.base, "strategy": self._strategy,
            "first_step": before, "steps": self._steps, "position": before, "ahead": 0, "donors": None,
            "evaluate": False, "timeout_s": CALL_S, "fresh": False, "switched": False,
            "start": [RUN, self.number + 1], "accepted": [], "members": [self._place],
        }  # fmt: skip
        info = self.worker.train(order)
        assert info["ok"], info
        merged = self.worker.merge({**order, "attempt": 0})
        self.number, self.digest = self.number + 1, merged["digest"]
        return time.perf_counter() - begun

    def snapshot(self, wanted: str, *, inner: bool) -> tuple[Json, float]:
        """(what was set aside, for how many seconds training waited)."""
        begun = time.perf_counter()
        kept = self.worker.snapshot(self.base, wanted, inner)
        stall_s = time.perf_counter() - begun
        assert kept["ok"], kept
        return kept, stall_s

    def until(self, over: Callable[[], bool]) -> tuple[float, int]:
        """(seconds, rounds) until `over`, at least one round."""
        begun, before = time.perf_counter(), self.number
        while self.number == before or not over():
            self.round()
        return time.perf_counter() - begun, self.number - before

    def round_s(self, seconds: float) -> float:
        """Seconds a round, over at least that long."""
        ends = time.perf_counter() + seconds
        took_s, rounds = self.until(lambda: time.perf_counter() >= ends)
        return took_s / rounds


@contextmanager
def lone(folder: Path, packed: bytes, parameters: int, strategy: Json, options: Json) -> Iterator[Lone]:
    """A worker with a warm child and the job loaded."""
    memory_limit_bytes = LEAST_MEMORY + MEMORY_OF_A_PARAMETER * parameters
    worker = Worker(
        name="worker", host_pid=os.getpid(), scratch=str(folder), threads_per_unit=1, devices=[],
        memory_limit_bytes=memory_limit_bytes, shares={}, isolation=isolation_level(), orphan_after_s=10**6,
    )  # fmt: skip
    try:
        assert worker.ready()["error"] is None
        worker.assign({"id": "lease", "epoch": 1, "slot": 0, "job": "job", "share": None, "gpus": 1})
        strategy = strategy_options(strategy)
        spec = {
            "workload": {"kind": "builtin", "name": "byte_lm"}, "options": options, "data": {"kind": "blob"},
            "strategy": strategy, "steps": 10**6, "rounds": 10**5, "seed": SEED,
        }  # fmt: skip
        loaded = worker.load(spec, None, packed)
        assert loaded["ok"], loaded
        place = [0, 1, worker.connect(SECRET)["address"]]
        yield Lone(worker, strategy, place, loaded["digest"])
    finally:
        worker.stop()


class Persisting:
    """A base on its way to the disk, in a thread, as the run and the market make it durable."""

    def __init__(self, worker: Worker, kept: Json, store: BlobStore) -> None:
        self.sizes: list[int] = []
        self._store = store
        self._digests: list[str] = []
        self._begun, self.took_s = time.perf_counter(), 0.0
        makes = [lambda: worker.staged(kept["round"], "base"), lambda: worker.staged_inner(kept["round"])]
        self._thread = threading.Thread(target=self._work, args=(makes,), name="persist")
        self._thread.start()

    def _work(self, makes: list[Callable[[], bytes]]) -> None:
        for make in makes:
            content = make()
            self.sizes.append(len(content))
            self._digests.append(self._store.put(content))
        self.took_s = time.perf_counter() - self._begun

    def is_over(self) -> bool:
        """Whether all of it is durable."""
        return not self._thread.is_alive()

    def clean(self) -> None:
        """Remove it again."""
        self._thread.join()
        assert self.took_s > 0, "it failed"
        for digest in self._digests:
            self._store.delete(digest)


def one_checkpoint(job: Lone, store: BlobStore, quiet_s: float) -> tuple[dict[str, float], float]:
    """The loop without, with one checkpoint beside it, and without again: ({stall_s, durable_s, …}, its GB)."""
    before_s = job.round_s(quiet_s)
    kept, stall_s = job.snapshot("base", inner=True)
    persisting = Persisting(job.worker, kept, store)
    took_s, rounds = job.until(persisting.is_over)
    persisting.clean()
    round_s = (before_s + job.round_s(quiet_s)) / 2
    found = {"stall_s": stall_s, "durable_s": stall_s + persisting.took_s, "round_s": round_s,
             "lost_s": stall_s + took_s - rounds * round_s}  # fmt: skip
    return found, sum(persisting.sizes) / 1e9


def stall_of_fresh_memory(job: Lone, memory_limit_bytes: int) -> float:
    """The same stall when the child has no memory yet that it could use again."""
    child = job.worker._child.now
    child.areas = ExportAreas(memory_limit_bytes)
    job.round()  # else nothing would have changed since the last export
    kept, stall_s = job.snapshot("base", inner=True)
    job.worker.staged_inner(kept["round"])
    return stall_s


def large_state(folder: Path, packed: bytes, parameters: int, checkpoints: int, quiet: bool) -> dict[str, float]:
    """Part one."""
    options = {"size": f"{parameters // 1000}k", "context": 16, "batch": 1}
    strategy = {"name": "local_sgd", "inner_steps": LARGE_STEPS, "codec": "identity"}
    store, found, fresh, state_gb = BlobStore(folder / "blobs"), [], [], 0.0
    with lone(folder / "large", packed, parameters, strategy, options) as job:
        job.round_s(1.0)
        for _ in range(min(3, checkpoints)):
            fresh.append(stall_of_fresh_memory(job, MEMORY_OF_A_PARAMETER * parameters))
        for number in range(checkpoints):
            one, state_gb = one_checkpoint(job, store, quiet_s=3.0)
            found.append(one)
            told = ", ".join(f"{name} {value:.3f}" for name, value in one.items())
            say(quiet, f"checkpoint {number + 1}: {told}")
    gc.collect()  # a member's vectors go before part two begins
    median = {name: statistics.median(one[name] for one in found) for name in found[0]}
    return {
        "state_gb": state_gb,
        "stall_s": median["stall_s"],
        "stall_fresh_memory_s": statistics.median(fresh),
        "durable_s": median["durable_s"],
        "round_s": median["round_s"],
        "lost_s": median["lost_s"],
        "slowdown_percent_once_a_minute": 100 * median["lost_s"] / MINUTE_S,
    }


def every_round(folder: Path, packed: bytes, size: str, rounds: int, quiet: bool) -> dict[str, float]:
    """Part two: stall and sizes of a checkpoint every round, and whether the chain leads to the same bits."""
    strategy = {"name": "diloco", "inner_steps": SMALL_STEPS, "codec": "int8"}
    store, contents, trained_s, stalls = BlobStore(folder / "rounds"), [], 0.0, []
    with lone(folder / "small", packed, 0, strategy, {"size": size}) as job:
        for _ in range(rounds):
            trained_s += job.round()
            kept, stall_s = job.snapshot("delta" if contents else "base", inner=False)
            stalls.append(stall_s)
            contents.append(job.worker.staged(kept["round"], kept["kind"]))
            store.put(contents[-1])
        replayed = Member.replay(contents[0], contents[1:])
        assert parameters_digest(replayed) == job.digest, "the chain leads elsewhere"
    say(quiet, f"{rounds} rounds: stalls in ms " + ", ".join(f"{1000 * stall:.2f}" for stall in stalls))
    return {
        "round_trained_s": trained_s / rounds,
        "round_stall_ms": 1000 * sum(stalls) / rounds,
        "round_stall_percent": 100 * sum(stalls) / trained_s,
        "base_bytes": len(contents[0]),
        "delta_bytes": len(contents[-1]),
    }


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--parameters", type=int, default=100_000_000)
    arguments.add_argument("--checkpoints", type=int, default=5)
    arguments.add_argument("--rounds", type=int, default=5, help="of part two, at least 2")
    arguments.add_argument("--size", default="1M", help="of the model of part two")
    arguments.add_argument("--folder", type=Path, help="where to write (the disk that is measured)")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as scratch:
        folder = Path(scratch)
        pack_stdlib(folder / "data.tar")
        packed = (folder / "data.tar").read_bytes()
        figures = large_state(folder, packed, chosen.parameters, chosen.checkpoints, chosen.json)
        figures |= every_round(folder, packed, chosen.size, max(2, chosen.rounds), chosen.json)
    targets = {
        "slowdown_percent_once_a_minute": Target(figures["slowdown_percent_once_a_minute"], 5.0),
        "round_stall_percent": Target(figures["round_stall_percent"], 1.0),
    }
    return finish(figures, targets, chosen.json, {"parameters": chosen.parameters})


if __name__ == "__main__":
    sys.exit(main())
