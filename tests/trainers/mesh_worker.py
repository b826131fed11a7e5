"""A member in a process of its own, for tests that kill it: orders come as JSON lines on stdin.

python -m tests.trainers.mesh_worker SLOT EPOCH
"""

import json
import random
import sys
import threading

from tests.trainers.mesh_network import SECRET
from trainers.mesh import Mesh, Peer, View


def main() -> None:
    slot, epoch = int(sys.argv[1]), int(sys.argv[2])
    mesh = Mesh(secret=SECRET, slot=slot, epoch=epoch)
    print(mesh.address, flush=True)
    for line in sys.stdin:
        order, *rest = json.loads(line)
        if order == "view":
            round_, attempt, members = rest
            mesh.set_view(View(round_, attempt, tuple(Peer(*one) for one in members)))
        elif order == "gather":
            step, size = rest
            threading.Thread(target=mesh.gather, args=(step, bytes([slot]) * size, 60.0), daemon=True).start()
        elif order == "offer":
            round_, size, seed = rest
            mesh.offer_state(round_, lambda size=size, seed=seed: content(size, seed))
        print("done", flush=True)


def content(size: int, seed: int) -> bytes:
    """Bytes that are nowhere twice the same chunk."""
    return random.Random(seed).randbytes(size)


if __name__ == "__main__":
    main()
