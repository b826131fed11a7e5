"""torchft's own local-update methods: LocalSGD, DiLoCo and streaming DiLoCo, by a lighthouse and one manager a worker.

A replica group of one process each. torchft sends float32 here: its quantised all-reduce needs a CUDA card.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torchft.coordination import LighthouseServer
from torchft.local_sgd import DiLoCo, LocalSGD
from torchft.manager import Manager
from torchft.process_group import ProcessGroupGloo

from benchmarks.comparators.loop import Loop, meet, parser

PATIENCE = timedelta(minutes=10)


def fragments(model: torch.nn.Module, count: int) -> list[torch.nn.Module]:
    """The whole model, or its blocks in `count` groups, the rest of the model with the last one."""
    if count == 1:
        return [model]
    blocks = list(model.blocks)
    others = [module for name, module in model.named_children() if name != "blocks"]
    groups = [blocks[index::count] for index in range(count)]
    groups[-1] += others
    return [torch.nn.ModuleList(group) for group in groups]


def outer(module: torch.nn.Module, chosen) -> torch.optim.Optimizer:
    """DiLoCo's outer optimiser."""
    return torch.optim.SGD(module.parameters(), lr=chosen.outer_lr, momentum=chosen.outer_momentum, nesterov=True)


def method(loop: Loop, manager: Manager, chosen):
    """The context manager that synchronises in the optimiser's hooks."""
    if chosen.method == "local_sgd":
        return LocalSGD(manager, loop.model, loop.optimizer, sync_every=chosen.every)
    parts = fragments(loop.model, chosen.fragments)
    return DiLoCo(
        manager, parts, loop.optimizer, [outer(part, chosen) for part in parts], sync_every=chosen.every,
        fragment_sync_delay=chosen.overlap_steps, fragment_update_alpha=chosen.mixing, use_bucketization=True,
    )  # fmt: skip


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--method", choices=("diloco", "local_sgd"), default="diloco")
    arguments.add_argument("--outer-lr", type=float, default=0.7)
    arguments.add_argument("--outer-momentum", type=float, default=0.9)
    arguments.add_argument("--fragments", type=int, default=1)
    arguments.add_argument("--overlap-steps", type=int, default=0)
    arguments.add_argument("--mixing", type=float, default=0.0)
    arguments.add_argument("--port", type=int, default=29510)
    chosen = arguments.parse_args()
    os.environ["GLOO_SOCKET_IFNAME"] = chosen.interface or "lo"
    loop = Loop(chosen)
    if chosen.rank == 0:
        lighthouse = LighthouseServer(bind=f"[::]:{chosen.port}", min_replicas=chosen.world, join_timeout_ms=60_000)
        meet(chosen.rendezvous, "lighthouse", f"http://{chosen.address}:{chosen.port}")
    address = meet(chosen.rendezvous, "lighthouse")
    store = dist.TCPStore(chosen.address, 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=PATIENCE), load_state_dict=loop.model.load_state_dict,
        state_dict=loop.model.state_dict, min_replica_size=chosen.world, use_async_quorum=False, init_sync=False,
        timeout=PATIENCE, quorum_timeout=PATIENCE, rank=0, world_size=1, store_addr=chosen.address,
        store_port=store.port, lighthouse_addr=address, replica_id=f"replica_{chosen.rank}", hostname=chosen.address,
    )  # fmt: skip
    meet(chosen.rendezvous, f"ready-{chosen.rank}", "yes")
    for rank in range(chosen.world):
        meet(chosen.rendezvous, f"ready-{rank}")
    with method(loop, manager, chosen):
        loop.start()
        for step in range(chosen.steps):
            loop.rate(loop.optimizer.param_groups, step)
            loop.optimizer.zero_grad(set_to_none=True)
            loop.backward(loop.model, step)
            loop.optimizer.step()
            loop.stepped(step)
    meet(chosen.rendezvous, f"done-{chosen.rank}", "yes")
    for rank in range(chosen.world):
        meet(chosen.rendezvous, f"done-{rank}")
    manager.shutdown(wait=False)
    if chosen.rank == 0:
        lighthouse.shutdown()
    os._exit(0)  # its threads would hold the process for up to the quorum's timeout


if __name__ == "__main__":
    main()
