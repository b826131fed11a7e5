"""torch.distributed's DistributedDataParallel on gloo: gradients averaged at every step."""

from __future__ import annotations

import os

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.comparators.loop import Loop, meet, parser


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--port", type=int, default=29500)
    chosen = arguments.parse_args()
    loop = Loop(chosen)
    os.environ["GLOO_SOCKET_IFNAME"] = chosen.interface or "lo"
    master = meet(chosen.rendezvous, "master", chosen.address if chosen.rank == 0 else None)
    dist.init_process_group(
        "gloo", init_method=f"tcp://{master}:{chosen.port}", rank=chosen.rank, world_size=chosen.world
    )
    model = DistributedDataParallel(loop.model)
    dist.barrier()
    loop.start()
    for step in range(chosen.steps):
        loop.rate(loop.optimizer.param_groups, step)
        loop.optimizer.zero_grad(set_to_none=True)
        loop.backward(model, step)
        loop.optimizer.step()
        loop.stepped(step)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
