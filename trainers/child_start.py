"""How a trainer child begins, on a thread that never ends. No torch."""

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from trainers import sandbox
from trainers.cgroups import Group
from trainers.child_log import ChildLog
from trainers.child_messages import ChildFailed
from trainers.devices import Device
from trainers.spawning import Place, spawn

# the kernel's death signal fires when the *thread* that forked ends, so one thread that never ends does all spawning
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawn-trainer-child")


@dataclass(frozen=True, slots=True)
class Started:
    """A child that runs: its process (bubblewrap's with a sandbox), our end of the connection, its pid, its output, its limits."""

    process: "subprocess.Popen[bytes]"
    connection: socket.socket
    pid: int
    log: ChildLog
    group: Group = field(default_factory=Group)


def start(
    *, threads: int, scratch: Path, memory_limit_bytes: int, shares: Mapping[str, Path], isolation: sandbox.Isolation,
    devices: Sequence[Device], processes: int,
) -> Started:  # fmt: skip
    """Start a child that warms up by itself. Raises ChildFailed("died") when it does not even start."""
    place = Place(scratch, isolation, threads, memory_limit_bytes, devices, shares, tasks=sandbox.CHILD_TASKS)
    arguments = ["--threads", str(threads), "--memory-limit-bytes", str(memory_limit_bytes), "--isolation", isolation]
    arguments += ["--parent-pid", str(os.getpid()), "--device", "cuda" if devices else "cpu"]
    arguments += ["--processes", str(processes)]
    try:
        begun = _spawner.submit(spawn, "trainers.child", arguments, place, processes=processes).result()
    except OSError as error:
        raise ChildFailed("died", str(error)) from None
    assert begun.process.stdout is not None
    return Started(begun.process, begun.connection, begun.pid, ChildLog(begun.process.stdout), begun.group)
