"""Runs attempts where they are to fail: `python -m trainers.selftest.intruder --role ROLE`, in a sandbox or outside it.

A command's attempts get a process each. A trainer child may start none, so there they follow each other in one. Prints two
lines of JSON for each: {begins} with its name, then {name, got} or {name, stopped} or {name, absent}.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import socket
import sys
from dataclasses import fields
from typing import Any

from trainers.lockdown import lock_trainer
from trainers.ready import wait_ready
from trainers.selftest.attempts import BY_NAME
from trainers.selftest.scene import Absent, Scene, Stopped

VARIABLE = "TORG_SELFTEST"
PATIENCE_S = 10.0
TOOK_IT = 42
"""The exit status of an attack that cannot come back."""

Json = dict[str, Any]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=("command", "trainer", "outside"), required=True)
    parser.add_argument("--fd", type=int)
    parser.add_argument("--isolation", choices=("sandbox", "process"), default="process")
    parser.add_argument("--memory-limit-bytes", type=int, default=0)
    parser.add_argument("--tasks", type=int, default=0)
    given = parser.parse_args()
    if given.role == "trainer":
        with socket.socket(fileno=given.fd) as parent, parent.makefile("r", encoding="utf-8") as lines:
            order = json.loads(lines.readline())
        lock_trainer(given.memory_limit_bytes, given.isolation, cuda=False, tasks=given.tasks)
    else:
        order = json.loads(os.environ.pop(VARIABLE))
    scene = Scene(**{field.name: order["scene"][field.name] for field in fields(Scene)})
    for name in order["names"]:
        sys.stdout.write(json.dumps({"begins": name}) + "\n")
        sys.stdout.flush()  # before it forks, and before it takes this process along
        told = tried(name, scene, given.role) if given.role == "trainer" else forked(name, scene, given.role)
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
    os._exit(0)  # threads of an attempt may be left


def tried(name: str, scene: Scene, role: str) -> Json:
    """One attempt in this process."""
    attempt = BY_NAME[name]
    attack = (attempt.control or attempt.attack) if role == "outside" else attempt.attack
    try:
        return {"name": name, "got": attack(scene)}
    except Absent as absent:
        return {"name": name, "absent": str(absent)}
    except Stopped as stopped:
        return {"name": name, "stopped": str(stopped)}
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        return {"name": name, "stopped": errno.errorcode.get(number, "") if number else str(error)}
    except MemoryError:
        return {"name": name, "stopped": "ENOMEM"}


def forked(name: str, scene: Scene, role: str) -> Json:
    """One attempt in a process of its own, which may end in any way."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.write(writing, json.dumps(tried(name, scene, role)).encode() + b"\n")
        os._exit(0)
    os.close(writing)
    told = b""
    with open(reading, "rb", buffering=0) as pipe:
        while not told.endswith(b"\n") and wait_ready([pipe], PATIENCE_S)[0]:
            piece = pipe.read(65536)
            if not piece:
                break
            told = told + piece if b"\n" not in told else told
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if told:
        return dict(json.loads(told.splitlines()[0]))
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == TOOK_IT:
        return {"name": name, "got": "it was let through"}
    ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "it ended"
    return {"name": name, "stopped": ended}


if __name__ == "__main__":
    main()
