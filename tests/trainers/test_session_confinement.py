"""The self-test's attempts from a session: its processes stay inside, as the command that they are beside."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, replace

import pytest

from trainers.command_process import CommandProcess, Place
from trainers.ready import wait_ready
from trainers.sandbox import isolation_level
from trainers.selftest import limits
from trainers.selftest.attempts import ATTEMPTS
from trainers.selftest.decoys import decoys
from trainers.selftest.intruder import VARIABLE

PATIENCE_S = 60
TOGETHER = [one.name for one in ATTEMPTS if "command" in one.roles and not (one.alone or one.judge or one.way_out)]


def test_nothing_gets_out_of_a_session() -> None:
    if isolation_level() != "sandbox":
        pytest.skip("bubblewrap does not run here, so there is no sandbox to break out of")
    with decoys() as (scene, folder):
        scratch = folder / "session"
        for inner in ("work", "home", "tmp", "checkpoint"):
            (scratch / inner).mkdir(parents=True)
        place = Place(scratch, "sandbox", 1, limits.MEMORY_LIMIT_BYTES, disk_limit_bytes=limits.DISK_LIMIT_BYTES)
        order = json.dumps({"scene": asdict(replace(scene, own=place.seen("work"))), "names": TOGETHER})
        command = CommandProcess(["sleep", "1000"], {VARIABLE: order}, place, timeout_s=None)
        with contextlib.closing(command):
            text = said_in_a_session(
                command, ["python", "-B", "-s", "-P", "-m", "trainers.selftest.intruder", "--role", "command"]
            )
            assert command.outcome is None, "the command itself goes on"
    answers = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if "name" in told:  # another line says that an attempt begins
                answers[told["name"]] = told
    assert len(answers) >= 30
    assert {name for name, told in answers.items() if "got" in told} == set()


def said_in_a_session(command: CommandProcess, argv: list[str]) -> str:
    """All that a process beside the command prints."""
    message = {"argv": argv, "environment": {}, "own": False, "tty": False, "rows": 0, "columns": 0}
    ours, theirs = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    opened = command.sessions.open("session-1", message, [nothing, theirs, theirs])
    os.close(theirs)
    os.close(nothing)
    assert opened is not None
    said = b""
    with open(ours, "rb", buffering=0) as pipe:
        while wait_ready([pipe], PATIENCE_S)[0] and (data := pipe.read(1 << 16)):
            said += data
    command.sessions.forget(opened)
    return said.decode()
