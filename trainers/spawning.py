"""How a sandboxed process of ours begins: its command, its environment, the descriptors that it inherits. No torch.

The one place where one is started: a trainer child, the process around a batch job's command, an attempt of the self-test.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainers import cgroups, sandbox
from trainers.devices import Device, bubblewrap_arguments, node_names
from trainers.outward.door import NoWayOut, take_listener
from trainers.outward.rules import OutwardRules
from trainers.ready import wait_ready

LAST_WORDS_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """What a sandboxed process may use of the machine. `scratch`: an existing folder, the only one that it may write.

    `disk_limit_bytes`: of what a command may write to the scratch. `tasks`: processes and threads together, where they can
    be counted (see `cgroups`). `way_out`: what the machine's owner says of whom it may reach; None for nobody. Only with a
    sandbox, and for a command. `environment`: of Python, which it may read (`environments`).
    """

    scratch: Path
    isolation: sandbox.Isolation
    threads: int
    memory_limit_bytes: int
    devices: Sequence[Device] = ()
    shares: Mapping[str, Path] = field(default_factory=dict)
    disk_limit_bytes: int = sandbox.COMMAND_DISK_BYTES
    tasks: int = sandbox.COMMAND_PROCESSES
    way_out: OutwardRules | None = None
    environment: Path | None = None

    def seen(self, name: str) -> str:
        """A folder of the scratch as the process sees it."""
        return f"{sandbox.SCRATCH}/{name}" if self.isolation == "sandbox" else str(self.scratch / name)

    def share(self, name: str) -> str:
        """A share as the process sees it."""
        return f"{sandbox.SHARES}/{name}" if self.isolation == "sandbox" else str(self.shares[name])

    @property
    def environment_seen(self) -> str | None:
        """The environment's folder as the process sees it."""
        if self.environment is None or self.isolation == "process":
            return None if self.environment is None else str(self.environment)
        return sandbox.ENVIRONMENT

    @property
    def code(self) -> str:
        """The folder that this package is imported from, as the process sees it."""
        return sandbox.CODE if self.isolation == "sandbox" else str(sandbox.package_folder().parent)


@dataclass(frozen=True, slots=True)
class Sandboxed:
    """A process that runs: bubblewrap's with a sandbox; our end of the connection; the pid of ours in there; its group; the
    listener that it left behind, where it has a way out.
    """

    process: subprocess.Popen[bytes]
    connection: socket.socket
    pid: int
    group: cgroups.Group
    listener: socket.socket | None = None


def spawn(
    module: str, arguments: Sequence[str], place: Place, *, processes: int = 1, dies_with_parent: bool = True
) -> Sandboxed:
    """Run `module` with `--fd N` (its end of the connection) and `arguments` in a sandbox.

    `processes`: ranks that share the threads. Raises OSError when it does not even start, NoWayOut when it leaves no listener.
    """
    ours, theirs = socket.socketpair()
    inherited, info_read, options = [theirs.fileno()], None, []
    sandboxed = place.isolation == "sandbox"
    assert sandboxed or place.way_out is None, "outside of a network of its own it would listen on the machine's"
    listens = socket.socketpair() if place.way_out is not None else None
    if listens is not None:
        inherited.append(listens[1].detach())
        options = ["--listener-to", str(inherited[-1])]
    home = sandbox.SCRATCH if sandboxed else str(place.scratch)
    environment = sandbox.child_environment(place.threads, home, place.code, place.devices, processes)
    command = []
    if sandboxed:
        info_read, info_write = os.pipe()
        inherited.append(info_write)
        further = [*bubblewrap_arguments(place.devices), *(sandbox.CERTIFICATES if place.way_out is not None else ())]
        if place.environment is not None:
            further += ["--ro-bind", str(place.environment), sandbox.ENVIRONMENT]
        command = sandbox.bubblewrap_command(
            place.scratch, place.shares, environment, info_write, further, dies_with_parent
        )
    command += [*sandbox.python_command(), "-m", "trainers.inside", *_inside(place, home), *options, module]
    command += ["--fd", str(theirs.fileno()), *arguments]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
            cwd=place.scratch, pass_fds=inherited, start_new_session=True, bufsize=0,
        )  # fmt: skip
    except BaseException:
        ours.close()
        if info_read is not None:
            os.close(info_read)
        raise
    finally:
        theirs.close()
        for descriptor in inherited[1:]:
            os.close(descriptor)
    listener = None
    try:
        pid = process.pid if info_read is None else _sandboxed_pid(info_read)
        if listens is not None:
            with listens[0]:
                listener = take_listener(listens[0])
    except (OSError, NoWayOut) as error:
        process.kill()
        words = process.communicate()[0][-LAST_WORDS_BYTES:].decode("utf-8", "replace").strip()
        ours.close()
        raise type(error)(f"bubblewrap did not start: {error}: {words}") from None
    group = cgroups.enter(
        pid, cgroups.Limits(place.memory_limit_bytes + sandbox.GROUP_ROOM_BYTES, place.tasks, place.threads + 1)
    )
    return Sandboxed(process, ours, pid, group, listener)


def _inside(place: Place, home: str) -> list[str]:
    """The options of `trainers.inside`."""
    words = ["--isolation", place.isolation, "--scratch", home]
    if place.isolation == "process":
        readable = [*map(str, place.shares.values()), *filter(None, [place.environment_seen]), *(device.libraries for device in place.devices)]
        words += [word for path in readable for word in ("--readable", path)]
        words += [word for name in node_names(place.devices) for word in ("--node", name)]
    return words


def _sandboxed_pid(info_fd: int) -> int:
    """The pid, in our namespace, of the program in the sandbox. Raises OSError when bubblewrap does not tell."""
    told = b""
    with open(info_fd, "rb", buffering=0) as info:
        while wait_ready([info], 20.0)[0] and (part := info.read(4096)):
            told += part
            with contextlib.suppress(ValueError):
                return int(json.loads(told)["child-pid"])
    raise OSError("it reported no process")
