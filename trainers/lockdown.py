"""The last step before customer code runs: limits and the system-call filter of a process, for the rest of its life."""

import sys

from trainers import sandbox, seccomp


def lock_trainer(memory_limit_bytes: int, isolation: sandbox.Isolation, cuda: bool, tasks: int = sandbox.CHILD_TASKS) -> bool:
    """For a trainer child, when all is imported; whether system calls are filtered."""
    sandbox.limit_self(memory_limit_bytes, isolation, cuda, tasks)
    return _filtered(processes=False, sockets=False)


def lock_command(memory_limit_bytes: int, isolation: sandbox.Isolation, cuda: bool, tasks: int) -> bool:
    """For the process around a command, and so for the command; sockets where its network has nobody else in it."""
    sandbox.limit_command(memory_limit_bytes, isolation, cuda, tasks)
    return _filtered(processes=True, sockets=isolation == "sandbox")


def _filtered(*, processes: bool, sockets: bool) -> bool:
    try:
        seccomp.install(processes=processes, sockets=sockets)
    except seccomp.SeccompUnavailable as error:
        sys.stderr.write(f"torg: {error}\n")
        return False
    return True
