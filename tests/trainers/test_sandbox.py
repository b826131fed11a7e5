"""What holds around a child: it dies with its parent, its limits are on, and its parents import no torch."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainers import seccomp
from trainers.child_memory import sealed_memory
from trainers.child_process import ChildFailed, TrainerChild
from trainers.sandbox import bubblewrap_command, child_environment, isolation_level

ROOT = Path(__file__).parents[2]

PARENT = """
import json, sys
from pathlib import Path
from trainers.child_process import TrainerChild
child = TrainerChild.spawn(threads=1, scratch=Path(sys.argv[1]), memory_limit_bytes=1 << 28, shares={},
                           isolation=sys.argv[2])
child.wait_ready(120)
limits = Path(f"/proc/{child.pid}/limits").read_text()
status = Path(f"/proc/{child.pid}/status").read_text()
print(json.dumps({"pid": child.pid, "limits": limits, "status": status}), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("isolation", sorted({"process", isolation_level()}))
def test_a_child_is_limited_and_dies_with_its_parent_even_by_sigkill(tmp_path, isolation):
    command = [sys.executable, "-c", PARENT, str(tmp_path), isolation]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        told = json.loads(parent.stdout.readline())
        child = os.pidfd_open(told["pid"])
        limits = {line[:26].strip(): line[26:].split()[0] for line in told["limits"].splitlines()[1:]}
        assert limits["Max core file size"] == "1"  # byte: no dump, and no program that takes dumps
        assert limits["Max open files"] == "256"
        assert limits["Max address space"].isdigit()
        status = dict(line.split(":\t", 1) for line in told["status"].splitlines() if ":\t" in line)
        assert (status["Seccomp"].strip(), status["NoNewPrivs"].strip()) == ("2", "1")
        if isolation == "sandbox":
            assert int(status["CapEff"], 16) == 0
        parent.send_signal(signal.SIGKILL)
        readable, _, _ = select.select([child], [], [], 60)
        os.close(child)
        assert readable, "the child outlived its parent"


def test_the_modules_of_workers_and_runs_import_neither_torch_nor_ray():
    names = "child_process, member, rounds, merging, codecs, strategies, sandbox, workloads"
    code = f"import sys; from trainers import {names}; print(sorted({{'torch', 'ray', 'duckdb'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_sandbox_command_shows_only_what_is_needed(tmp_path):
    command = bubblewrap_command(tmp_path, {"text": Path("/srv/text")}, child_environment(1, "/scratch", "/torg"), None)
    assert command[-1] == "--"
    bound = [command[index + 1] for index, word in enumerate(command) if word.endswith("bind")]
    assert "/" not in bound
    assert str(Path.home()) not in bound
    assert str(ROOT) not in bound
    at = command.index("/srv/text")
    assert command[at - 1 : at + 2] == ["--ro-bind", "/srv/text", "/shares/text"]
    assert {"--unshare-all", "--unshare-user", "--die-with-parent", "--clearenv"} <= set(command)
    assert "--share-net" not in command


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_programs_are_whole_and_every_jump_lands_inside(machine):
    code = seccomp.program(machine, own_pid=1234)
    instructions = [code[index : index + 8] for index in range(0, len(code), 8)]
    assert len(code) % 8 == 0
    assert len(instructions) <= 4096
    for at, (operation, _, if_true, if_false, *_) in enumerate(instructions):
        if operation in (seccomp.JEQ, seccomp.JGE, seccomp.JSET):
            assert at + 1 + max(if_true, if_false) < len(instructions)
    assert instructions[-1][0] == seccomp.RET


def test_the_size_of_shared_memory_is_sealed():
    descriptor = sealed_memory(4096)
    try:
        for size in (0, 8192):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def test_a_child_that_does_not_even_start_is_reported_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.sandbox.python_command", lambda: [sys.executable, "-c", "raise SystemExit('oh no')"])
    with TrainerChild.spawn(
        threads=1, scratch=tmp_path, memory_limit_bytes=1 << 28, shares={}, isolation="process"
    ) as child:
        with pytest.raises(ChildFailed) as failed:
            child.wait_ready(60)
        assert failed.value.kind == "died"
        assert "exited with status 1 while warming up" in failed.value.message


HOSTILE = """
import socket, sys, time
from trainers.frames import pack
connection = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
"""
ATTACKS = {
    "noise": ("connection.sendall(b'no frame at all' * 1000)", "exception", "broke the protocol"),
    "huge": ("connection.sendall(b'\\xff' * 8)", "exception", "bytes; "),
    "out of turn": ("connection.sendall(pack('trained', {}))", "exception", "'trained' instead of 'ready'"),
    "flood": (
        "while True: connection.sendall(pack('progress', {'steps': 1, 'loss': 1.0, 'tokens': 1}))", "hang", "warming up"
    ),
    "bad progress": ("connection.sendall(pack('progress', {'steps': -1}))", "exception", "a count that is none"),
    "nan": ("connection.sendall(pack('progress', {'steps': 1, 'tokens': 1, 'loss': float('nan')}))", "nan", "nan"),
    "silent": ("connection.close(); time.sleep(3600)", "died", "closed its connection"),
    "false death": ("connection.sendall(pack('failed', {'kind': 'hang', 'message': '', 'traceback': ''}))",
                    "exception", "a failure of no kind"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_child_can_only_fail(tmp_path, monkeypatch, attack):
    code, kind, words = ATTACKS[attack]
    monkeypatch.setattr("trainers.child_process.DIES_WITHIN_S", 0.2 if attack == "silent" else 5.0)
    monkeypatch.setattr("trainers.sandbox.python_command", lambda: [sys.executable, "-c", f"{HOSTILE}\n{code}\n"])
    child = TrainerChild.spawn(threads=1, scratch=tmp_path, memory_limit_bytes=1 << 28, shares={}, isolation="process")
    with child, pytest.raises(ChildFailed) as failed:
        child.wait_ready(0.5 if kind == "hang" else 60)
    assert failed.value.kind == kind
    assert words in failed.value.message
