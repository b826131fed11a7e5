"""What reading blobs costs the market, with a tier in RAM before them and without: a folder, and a bucket (moto's S3 on this machine).

    python -m benchmarks.blob_reads [--json]

A state of 64 MB in chunks of 4 MiB is read whole by newcomers one after the other, as the route that serves blobs reads
(`open`, in pieces of 256 KiB) and as the market reads what it looks into (`read`, which checks the digest). The first newcomer
after a start fills the tier and is not counted. Figures: seconds a newcomer, processor seconds of this process a newcomer
(the bucket's server is a process of its own), medians of pairs in turn, and their ratios with to without.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import Target, finish, parser
from storage.blob_ram import BlobRam
from storage.blobs import BlobStore
from storage.bucket_blobs import BucketBlobs, claimed, new_place
from tests.storage.s3_server import s3_server

CHUNK_BYTES, CHUNKS, PIECE_BYTES = 4 << 20, 16, 256 << 10
RAM_BYTES = 128 << 20
PAIRS = 7


def streamed(store: BlobStore, names: list[str]) -> None:
    for name in names:
        with store.open(name) as file:
            while file.read(PIECE_BYTES):
                pass


def checked(store: BlobStore, names: list[str]) -> None:
    for name in names:
        assert len(store.read(name)) == CHUNK_BYTES


def compared(without: BlobStore, tier: BlobStore, read: Callable[[BlobStore, list[str]], None], names: list[str]) -> dict[str, float]:
    """Medians of seconds, processor seconds, and ratios pair by pair."""
    for store in (without, tier):
        read(store, names)
    seen: dict[str, list[float]] = {"s": [], "cpu_s": [], "ram_s": [], "ram_cpu_s": []}
    for _ in range(PAIRS):
        for store, mark in ((without, ""), (tier, "ram_")):
            begun, cpu = time.perf_counter(), time.process_time()
            read(store, names)
            seen[f"{mark}s"].append(time.perf_counter() - begun)
            seen[f"{mark}cpu_s"].append(time.process_time() - cpu)
    found = {name: statistics.median(values) for name, values in seen.items()}
    for name in ("s", "cpu_s"):
        found[f"ratio_{name}"] = statistics.median(a / b for a, b in zip(seen[f"ram_{name}"], seen[name], strict=True))
    return found


def main() -> int:
    asked = parser(__doc__).parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="torg-reads-") as name, s3_server() as server:
        folder, data = Path(name), [os.urandom(CHUNK_BYTES) for _ in range(CHUNKS)]
        objects = claimed(new_place(f"{server.make_bucket('reads')}/market", server.access))
        made: dict[str, Callable[[BlobRam], BlobStore]] = {
            "folder": lambda ram: BlobStore(folder / "blobs", ram=ram),
            "bucket": lambda ram: BucketBlobs(folder / "bucket", objects, ram=ram),
        }
        for place, make in made.items():
            filled = make(BlobRam(0))
            names = [filled.put(one) for one in data]
            assert names == [hashlib.sha256(one).hexdigest() for one in data]
            for how, read in (("streamed", streamed), ("checked", checked)):
                found = compared(make(BlobRam(0)), make(BlobRam(RAM_BYTES)), read, names)
                figures |= {f"{place}_{how}_{figure}": value for figure, value in found.items()}
    return finish(figures, {"bucket_streamed_ratio_s": Target(figures["bucket_streamed_ratio_s"], 0.5)}, asked.json)


if __name__ == "__main__":
    sys.exit(main())
