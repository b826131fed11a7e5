"""`launch: torchrun` of a batch job: which variables each of its processes has, and what its command may not be. No torch.

The command runs once for each card (or core) of its one lease, as `torchrun --standalone --nproc-per-node N` would run it.
Its processes find each other over the loopback of their own network namespace, in which there is nobody else, so the port can
be a fixed one; without bubblewrap there are no sockets, so such a job needs `isolation: sandbox`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

LAUNCHES: Final = ("torchrun",)
MASTER_ADDRESS: Final = "127.0.0.1"
MASTER_PORT: Final = 29_500
LOOPBACK: Final = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Where gloo and NCCL listen; what the job says of these comes after it."""
_LAUNCHERS: Final = frozenset({"torchrun", "torch.distributed.run", "torch.distributed.launch"})


def variables(rank: int, count: int, job: str) -> dict[str, str]:
    """What process `rank` of `count` finds in its environment, after torch.distributed.run's documentation."""
    own, all_of_them = str(rank), str(count)
    return {
        "RANK": own, "LOCAL_RANK": own, "ROLE_RANK": own, "GROUP_RANK": "0", "ROLE_NAME": "default",
        "WORLD_SIZE": all_of_them, "LOCAL_WORLD_SIZE": all_of_them, "ROLE_WORLD_SIZE": all_of_them, "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": MASTER_ADDRESS, "MASTER_PORT": str(MASTER_PORT),
        "TORCHELASTIC_RUN_ID": job, "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0",
    }  # fmt: skip


VARIABLES: Final = frozenset(variables(0, 1, ""))
"""Their names, which a job with `launch` may not set itself."""


def launcher_in(argv: Sequence[str]) -> str | None:
    """The launcher that a command calls by itself, if it does: under `launch` each process would start N more."""
    program = argv[0].rpartition("/")[2]
    if program in _LAUNCHERS:
        return program
    modules = {after for word, after in pairwise(argv[1:4]) if word == "-m"} if program.startswith("python") else set()
    return next(iter(modules & _LAUNCHERS), None)


def place_of(rank: int, count: int) -> str:
    """Such as `rank 2 of 4`; ranks count from 0."""
    return f"rank {rank} of {count}"
