"""How a trainer child's process begins: its command, its environment, the descriptors that it inherits. No torch."""

import contextlib
import json
import os
import select
import socket
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trainers import sandbox
from trainers.child_log import ChildLog
from trainers.child_messages import ChildFailed
from trainers.devices import Device, bubblewrap_arguments

# the kernel's death signal fires when the *thread* that forked ends, so one thread that never ends does all spawning
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawn-trainer-child")


@dataclass(frozen=True, slots=True)
class Started:
    """A child that runs: its process (bubblewrap's with a sandbox), our end of the connection, its pid, its output."""

    process: "subprocess.Popen[bytes]"
    connection: socket.socket
    pid: int
    log: ChildLog


def start(
    *, threads: int, scratch: Path, memory_limit_bytes: int, shares: Mapping[str, Path], isolation: sandbox.Isolation,
    devices: Sequence[Device], processes: int,
) -> Started:  # fmt: skip
    """Start a child that warms up by itself. Raises ChildFailed("died") when it does not even start."""
    arguments = (threads, scratch, memory_limit_bytes, shares, isolation, devices, processes)
    process, connection, info_fd = _spawner.submit(_popen, *arguments).result()
    assert process.stdout is not None
    log = ChildLog(process.stdout)
    try:
        pid = process.pid if info_fd is None else sandboxed_pid(info_fd)
    except OSError as error:
        process.kill()
        process.wait()
        connection.close()
        raise ChildFailed("died", f"bubblewrap did not start: {error}", log.tail()) from None
    return Started(process, connection, pid, log)


def _popen(
    threads: int,
    scratch: Path,
    memory_limit_bytes: int,
    shares: Mapping[str, Path],
    isolation: sandbox.Isolation,
    devices: Sequence[Device],
    processes: int,
) -> "tuple[subprocess.Popen[bytes], socket.socket, int | None]":
    """Runs on the spawning thread. Returns the process, our end, and bubblewrap's info pipe (None without)."""
    ours, theirs = socket.socketpair()
    info_read: int | None = None
    inherited = [theirs.fileno()]
    if isolation == "sandbox":
        environment = sandbox.child_environment(threads, sandbox.SCRATCH, sandbox.CODE, devices, processes)
        info_read, info_write = os.pipe()
        inherited.append(info_write)
        command = sandbox.bubblewrap_command(scratch, shares, environment, info_write, bubblewrap_arguments(devices))
    else:
        code = str(sandbox.package_folder().parent)
        environment = sandbox.child_environment(threads, str(scratch), code, devices, processes)
        command = []
    command += [*sandbox.python_command(), "-m", "trainers.child", "--fd", str(theirs.fileno())]
    command += ["--threads", str(threads), "--memory-limit-bytes", str(memory_limit_bytes)]
    command += ["--isolation", isolation, "--parent-pid", str(os.getpid()), "--device", "cuda" if devices else "cpu"]
    command += ["--processes", str(processes)]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
            cwd=scratch, pass_fds=inherited, start_new_session=True, bufsize=0,
        )  # fmt: skip
    except BaseException:
        ours.close()
        if info_read is not None:
            os.close(info_read)
        raise
    finally:
        theirs.close()
        if isolation == "sandbox":
            os.close(inherited[1])
    return process, ours, info_read


def sandboxed_pid(info_fd: int) -> int:
    """The pid, in our namespace, of the program in the sandbox. Raises OSError when bubblewrap does not tell."""
    told = b""
    with open(info_fd, "rb", buffering=0) as info:
        while select.select([info], [], [], 20.0)[0] and (part := info.read(4096)):
            told += part
            with contextlib.suppress(ValueError):
                return int(json.loads(told)["child-pid"])
    raise OSError("it reported no process")
