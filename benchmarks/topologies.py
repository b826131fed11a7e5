"""What one exchange costs by topology, number of members and payload: bytes on real sockets, and processor time.

    python -m benchmarks.topologies --members 3 4 8 --payload-bytes 1000 16000 100000 1000000

All members are in this process, on loopback. `sent_bytes` is what the busiest member sends, all headers included, `cpu_ms` the
processor time of one exchange of all members together, without merging. A binary tree is not built: its figures are what its
busiest member would have to send (once up and twice down), and its hops.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product

from benchmarks.report import finish, parser, say
from trainers.mesh import Mesh, View, choose_topology
from trainers.mesh.wire import HEADER_BYTES

TIMEOUT_S = 60.0
FIRST = 2  # runs that are not counted
TOPOLOGIES = ("gather", "butterfly", "star")


def exchange_of(topology: str, mesh: Mesh, members: int, payload_bytes: int) -> Callable[[int], object]:
    """One member's part in an exchange of that step; slices are merged into the first one that came."""
    if topology == "gather":
        payload = bytes(payload_bytes)
        return lambda step: mesh.gather(step, payload, TIMEOUT_S)
    owners = range(members) if topology == "butterfly" else range(1)
    slices = {owner: bytes(-(-payload_bytes // len(owners))) for owner in owners}
    return lambda step: mesh.reduce(step, slices, lambda received: received[0], TIMEOUT_S)


def measure(topology: str, members: int, payload_bytes: int, runs: int) -> tuple[float, float]:
    """(bytes that the busiest member sends, median CPU milliseconds of all) of one exchange."""
    crew = [Mesh(secret=bytes(32), slot=slot, epoch=1) for slot in range(members)]
    view = View(1, 0, tuple(mesh.peer for mesh in crew))
    parts = [exchange_of(topology, mesh, members, payload_bytes) for mesh in crew]
    cpu_ms, before = [], [0] * members
    with ThreadPoolExecutor(members) as threads:
        for mesh in crew:
            mesh.set_view(view)
        for step in range(FIRST + runs):
            if step == FIRST:
                before = [mesh.wire().sent_bytes for mesh in crew]
            began = time.process_time()
            list(threads.map(lambda part, step=step: part(step), parts))  # type: ignore[misc]
            cpu_ms.append(1e3 * (time.process_time() - began))
        sent = [mesh.wire().sent_bytes - count for mesh, count in zip(crew, before, strict=True)]
    for mesh in crew:
        mesh.close()
    return max(sent) / runs, statistics.median(cpu_ms[FIRST:])


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--members", type=int, nargs="+", default=[3, 4, 8])
    arguments.add_argument("--payload-bytes", type=int, nargs="+", default=[1_000, 16_000, 100_000, 1_000_000])
    arguments.add_argument("--runs", type=int, default=9)
    chosen = arguments.parse_args()
    figures: dict[str, float] = {}
    for members, size in product(chosen.members, chosen.payload_bytes):
        place = f"{members}.{size}"
        for topology in TOPOLOGIES:
            sent, cpu_ms = measure(topology, members, size, chosen.runs)
            figures |= {f"{topology}.{place}.sent_bytes": sent, f"{topology}.{place}.cpu_ms": cpu_ms}
        figures[f"tree.{place}.sent_bytes"] = (3 if members > 3 else 2) * (size + HEADER_BYTES)
        figures[f"tree.{place}.hops"] = 2 * math.ceil(math.log2(members + 1) - 1)
        say(chosen.json, f"{members} members, {size} bytes: {choose_topology(members, size, True, 'reduce')} is chosen")
    return finish(figures, {}, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
