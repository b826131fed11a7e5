"""What a series of checkpoints stores and sends when most of a model is frozen: one blob a state against chunks at tensors.

    OMP_NUM_THREADS=1 python -m benchmarks.frozen [--checkpoints 6] [--rounds 3] [--json]

A transformer's tensors (8 layers of width 384, a vocabulary of 8,192; 18 million float32 with its adapters), two real members
under diloco: every round each contributes, merges and commits, and every `--rounds` the first exports its state as a base,
momentum and what is its own included. Three jobs: adapters of rank 8 train and the rest is frozen; the last quarter of the
layers trains; everything trains. By codec, for what is frozen stays the same bits only where a codec gives zeros for zeros.

Figures: new bytes after the first checkpoint as a share of all bytes of these checkpoints, for `whole` (a blob a state, as
before), `fixed` (4 MiB from the file's beginning) and `chunked`; the bytes read for one tensor alone as a share of the state;
processor seconds a GB of cutting and hashing, chunked to whole, in turn.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

import numpy as np

from benchmarks.report import Target, finish, parser, say
from storage.checkpoints import Chunk, Manifest, TensorEntry
from storage.chunking import CHUNK_BYTES, pieces_of, read_tensor
from trainers.layout import layout_of
from trainers.member import Member, RoundOrder
from trainers.options import strategy_options

LAYERS, WIDTH, VOCABULARY, RANK = 8, 384, 8_192, 8
STEPS: Final = 10
Cut = Callable[[bytes], Sequence[memoryview]]


def shapes() -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the order of the flat vector; adapters (`lora`) lie between what they adapt."""
    found: list[tuple[str, tuple[int, ...]]] = [("embedding", (VOCABULARY, WIDTH))]
    for layer in range(LAYERS):
        for name, (rows, columns) in {"attention": (3 * WIDTH, WIDTH), "out": (WIDTH, WIDTH), "up": (4 * WIDTH, WIDTH), "down": (WIDTH, 4 * WIDTH)}.items():
            found.append((f"{layer}.{name}", (rows, columns)))
            found += [(f"{layer}.{name}.lora_a", (RANK, columns)), (f"{layer}.{name}.lora_b", (rows, RANK))]
        found.append((f"{layer}.norm", (2 * WIDTH,)))
    return [*found, ("norm", (2 * WIDTH,))]


JOBS: Final[dict[str, Callable[[str], bool]]] = {
    "adapters": lambda name: "lora" in name,
    "last_quarter": lambda name: name[0].isdigit() and int(name.split(".")[0]) >= LAYERS * 3 // 4,
    "everything": lambda name: True,
}
"""Which tensors train."""


def states(job: str, codec: str, checkpoints: int, rounds: int) -> tuple[list[bytes], tuple[TensorEntry, ...]]:
    """The bases of a series, from real members."""
    named = shapes()
    mask = np.concatenate([np.full(int(np.prod(shape)), JOBS[job](name), np.float32) for name, shape in named])
    generator = np.random.default_rng(1)
    begin = generator.standard_normal(mask.size, dtype=np.float32)
    strategy = strategy_options({"name": "diloco", "inner_steps": STEPS, "codec": codec})
    spec = {"strategy": strategy, "steps": STEPS * checkpoints * rounds, "seed": 1}
    group = [Member(spec, layout_of(named), begin, slot=slot, epoch=slot) for slot in (0, 1)]
    found: list[bytes] = []
    for number in range(1, checkpoints * rounds + 1):
        order = RoundOrder(number, STEPS * (number - 1), STEPS * number, 2 * STEPS * number, (0, 1))
        for one in group:
            one.contribute(one.parameters - 0.01 * mask * generator.standard_normal(mask.size, dtype=np.float32), order)
        payloads = {one.slot: one.payload() for one in group}
        for one in group:
            one.merge(payloads)
            one.commit()
        if number % rounds == 0:
            found.append(group[0].export(own=True))
    return found, tuple(TensorEntry(name, shape, "float32") for name, shape in named)


def fresh_share(files: Sequence[bytes], cut: Cut) -> float:
    """New bytes after the first file, as a share of all bytes of the files after it."""
    known: set[str] = set()
    fresh = 0
    for place, file in enumerate(files):
        for piece in cut(file):
            name = sha256(piece).hexdigest()
            fresh += len(piece) if place and name not in known else 0
            known.add(name)
    return fresh / sum(map(len, files[1:]))


def one_tensor_share(state: bytes, tensors: tuple[TensorEntry, ...], name: str) -> float:
    """The bytes that are read for one tensor alone, as a share of the state."""
    blobs = {sha256(piece).hexdigest(): bytes(piece) for piece in pieces_of(state, tensors)}
    manifest = Manifest(
        job="job", round=1, step=1, parent=None, tensors=tensors, state="0" * 64, state_bytes=len(state), parameters="0" * 64, strategy={},
        code=None, data=None, created_at_ms=0, chunks=tuple(Chunk(digest, len(piece)) for digest, piece in blobs.items()),
    )  # fmt: skip
    read: list[int] = []

    def reading(digest: str) -> bytes:
        read.append(len(blobs[digest]))
        return blobs[digest]

    read_tensor(manifest, name, reading)
    return sum(read) / len(state)


def cpu_ratio(state: bytes, tensors: tuple[TensorEntry, ...], pairs: int = 5) -> tuple[float, float]:
    """(processor seconds of cutting and hashing in chunks over hashing it whole, seconds a GB in chunks): medians."""
    ours, theirs = [], []
    for _ in range(pairs):
        begun = time.process_time()
        for piece in pieces_of(state, tensors):
            sha256(bytes(piece)).hexdigest()
        ours.append(time.process_time() - begun)
        begun = time.process_time()
        sha256(state).hexdigest()
        theirs.append(time.process_time() - begun)
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), statistics.median(ours) / len(state) * 1e9


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--checkpoints", type=int, default=4)
    made.add_argument("--rounds", type=int, default=1)
    asked = made.parse_args()
    figures: dict[str, float] = {}
    for codec in ("identity", "int8"):
        for job in JOBS:
            files, tensors = states(job, codec, asked.checkpoints, asked.rounds)
            train = sum(int(np.prod(shape)) for name, shape in shapes() if JOBS[job](name)) / sum(int(np.prod(shape)) for _, shape in shapes())
            cuts: dict[str, Cut] = {
                "whole": lambda file: [memoryview(file)],
                "fixed": lambda file: [memoryview(file)[at : at + CHUNK_BYTES] for at in range(0, len(file), CHUNK_BYTES)],
                "chunked": lambda file, tensors=tensors: pieces_of(file, tensors),  # type: ignore[misc]
            }
            for name, cut in cuts.items():
                figures[f"{codec}_{job}_{name}"] = fresh_share(files, cut)
            shown = " ".join(f"{name} {figures[f'{codec}_{job}_{name}']:.1%}" for name in cuts)
            say(asked.json, f"{codec} {job}: {train:.1%} trains, {len(files[0]) / 1e6:.0f} MB a state, {len(pieces_of(files[0], tensors))} chunks; new: {shown}")
    figures["one_tensor_share"] = one_tensor_share(files[0], tensors, "0.out")
    figures["cpu_ratio"], figures["cpu_s_per_gb"] = cpu_ratio(files[0], tensors)
    targets = {"identity_adapters_chunked": Target(figures["identity_adapters_chunked"], 0.25)}
    return finish(figures, targets, asked.json)


if __name__ == "__main__":
    sys.exit(main())
