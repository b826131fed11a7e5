"""The parts that hold a sandboxed process: groups, Landlock's rules, the filter's families, the disk watch, the wiping."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainers import cgroups, landlock
from trainers.cgroups import Folder, Group, Limits, plan
from trainers.command_process import CommandProcess, Place
from trainers.disk_use import DiskWatch, used_bytes
from trainers.sandbox import isolation_level
from trainers.scratch import wiped
from trainers.spawning import spawn

ROOT = Path(__file__).parents[2]
LIMITS = Limits(memory_bytes=1 << 30, tasks=64, cores=3)
V1 = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
38 31 0:34 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
35 31 0:33 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
42 31 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
V2 = "42 31 0:40 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def test_a_group_lies_below_the_one_its_maker_is_in() -> None:
    own = "8:pids:/\n4:memory:/docker/abc/job\n1:cpu,cpuacct:/user\n0::/\n"
    assert plan(own, V1, "torg-1-1", LIMITS) == [
        Folder(Path("/sys/fs/cgroup/pids/torg-1-1"), {"pids": {"pids.max": "64"}}, unified=False),
        Folder(
            Path("/sys/fs/cgroup/memory/job/torg-1-1"),
            {"memory": {"memory.limit_in_bytes": str(1 << 30)}},
            unified=False,
        ),
        Folder(
            Path("/sys/fs/cgroup/cpu,cpuacct/user/torg-1-1"), {"cpu": {"cpu.cfs_quota_us": "300000"}}, unified=False
        ),
    ]


def test_with_v2_one_folder_has_all_controllers() -> None:
    files = {
        "cpu": {"cpu.max": "300000 100000"}, "memory": {"memory.max": str(1 << 30)}, "pids": {"pids.max": "64"},
    }  # fmt: skip
    found = plan("0::/torg.service\n", V2, "torg-1-1", LIMITS)
    assert found == [Folder(Path("/sys/fs/cgroup/torg.service/torg-1-1"), files, unified=True)]


@pytest.mark.parametrize("own", ["", "nonsense", "0::/../elsewhere\n", "8:pids:/x\n"])
def test_what_is_not_mounted_is_not_planned(own: str) -> None:
    elsewhere = "42 31 0:40 /elsewhere-only /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    assert plan(own, elsewhere, "torg-1-1", LIMITS) == []


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for a v2 hierarchy, in which every new group has a file of its processes."""
    folder = Folder(tmp_path / "torg-1-1", {"pids": {"pids.max": "64"}, "cpu": {"cpu.max": "1 2"}}, unified=True)
    monkeypatch.setattr(cgroups, "plan", lambda own, mounts, name, limits: [folder])
    return tmp_path


def test_only_controllers_that_are_handed_down_bound_anything(hierarchy: Path) -> None:
    (hierarchy / "cgroup.subtree_control").write_text("memory pids\n")
    group = cgroups.enter(4321, LIMITS)
    assert group.bounds == {"pids"}
    written = {file.name: file.read_text() for file in (hierarchy / "torg-1-1").iterdir()}
    assert written == {"pids.max": "64", "cgroup.procs": "4321"}


def test_a_hierarchy_that_hands_nothing_down_leaves_no_folder(hierarchy: Path) -> None:
    (hierarchy / "cgroup.subtree_control").write_text("\n")
    assert cgroups.enter(4321, LIMITS).bounds == frozenset()
    assert not (hierarchy / "torg-1-1").exists()


def test_want_of_memory_is_read_from_either_version(tmp_path: Path) -> None:
    group = Group([(tmp_path, frozenset({"memory"}))])
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    assert not group.ran_out_of_memory()
    (tmp_path / "memory.events").write_text("low 0\nmax 9\noom 1\noom_kill 2\n")
    assert group.ran_out_of_memory()


def test_the_rights_of_older_kernels_are_asked_for_only() -> None:
    assert [landlock.handled(abi).bit_length() for abi in (1, 2, 3, 5, 7)] == [13, 14, 15, 16, 16]


CONFINED = """
import json, os, sys
from trainers import inside, landlock
inside.give_up_capabilities()
landlock.confine(landlock.rules_beside(sys.argv[1], [sys.argv[2]], []))
def tried(act):
    try:
        act()
        return "done"
    except OSError as error:
        return type(error).__name__
print(json.dumps({
    "own": tried(lambda: open(sys.argv[1] + "/made", "w").close()),
    "moved": tried(lambda: (os.mkdir(sys.argv[1] + "/deeper"), os.rename(sys.argv[1] + "/made", sys.argv[1] + "/deeper/made"))),
    "null": tried(lambda: open("/dev/null", "w").close()),
    "share": tried(lambda: open(sys.argv[2] + "/data").read()),
    "share written": tried(lambda: open(sys.argv[2] + "/new", "w")),
    "secret": tried(lambda: open(sys.argv[3]).read()),
    "program": tried(lambda: os.execv(sys.argv[3], ["x"])),
    "kernel": tried(lambda: open("/proc/sys/kernel/core_pattern", "w")),
    "parent": tried(lambda: open(f"/proc/{os.getppid()}/environ").read()),
    "root": tried(lambda: os.chroot("/")),
    "signal": tried(lambda: os.kill(os.getppid(), 0)),
}))
"""


@pytest.mark.skipif(landlock.version() < 6, reason="signals are confined from the sixth version of Landlock on")
def test_without_bubblewrap_landlock_keeps_a_process_to_its_files(tmp_path: Path) -> None:
    own, share, secret = tmp_path / "own", tmp_path / "share", tmp_path / "secret"
    own.mkdir()
    share.mkdir()
    (share / "data").write_text("shared")
    secret.write_text("#!/bin/sh\n")
    secret.chmod(0o755)
    command = [sys.executable, "-c", CONFINED, str(own), str(share), str(secret)]
    told = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    held = dict.fromkeys(
        ("share written", "secret", "program", "kernel", "parent", "root", "signal"), "PermissionError"
    )
    assert told == {"own": "done", "moved": "done", "null": "done", "share": "done", **held}


def test_a_folder_is_measured_again_only_when_that_may_change_the_answer(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to("/")
    now, free, looked = [0.0], [1 << 30], [0]

    def free_now(folder: Path) -> int:
        looked[0] += 1
        return free[0]

    watch = DiskWatch(tmp_path, 1 << 20, clock=lambda: now[0], free=free_now)
    assert watch.beyond() is None
    (tmp_path / "deep" / "file").write_bytes(b"x" * (2 << 20))
    now[0] += 1
    assert watch.beyond() is None, "the file system has lost nothing, so nothing is measured"
    free[0] -= 2 << 20
    found = watch.beyond()
    assert found is not None
    assert 2 << 20 <= found == used_bytes(tmp_path) < 3 << 20
    assert looked[0] == 3


def test_a_folder_is_wiped_whatever_was_made_of_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "kept").write_text("kept")
    folder = tmp_path / "lease"
    (folder / "shut" / "inner").mkdir(parents=True)
    (folder / "shut" / "inner" / "file").touch()
    (folder / "link").symlink_to(outside)
    (folder / "shut" / "inner").chmod(0)
    (folder / "shut").chmod(0)
    folder.chmod(0)
    assert wiped(folder)
    assert not folder.exists()
    assert (outside / "kept").read_text() == "kept"
    assert outside.stat().st_mode & 0o777 == 0o755


def test_a_command_that_fills_the_disk_is_ended_and_told(tmp_path: Path) -> None:
    for name in ("work", "home", "tmp"):
        (tmp_path / name).mkdir()
    place = Place(tmp_path, isolation_level(), 1, 256 << 20, disk_limit_bytes=16 << 20)
    command = CommandProcess(
        ["sh", "-c", "dd if=/dev/zero of=full bs=1M count=64 2>/dev/null; sleep 3600"], {}, place, timeout_s=None, grace_s=0.2
    )  # fmt: skip
    outcome = command.wait(60)
    command.close()
    assert outcome is not None
    assert outcome.kind == "limit"
    assert outcome.detail == "it wrote more than its folder may hold: 64 of 16 MiB"


def test_a_command_with_too_many_processes_is_ended_and_told(tmp_path: Path) -> None:
    for name in ("work", "home", "tmp"):
        (tmp_path / name).mkdir()
    place = Place(tmp_path, "process", 1, 256 << 20, tasks=8)
    many = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 3600 & done; wait"
    command = CommandProcess(["sh", "-c", many], {}, place, timeout_s=None, grace_s=0.2)
    outcome = command.wait(60)
    command.close()
    assert outcome is not None
    if "limit" not in outcome.kind:  # the kernel refused them, where groups can be made
        assert (outcome.kind, outcome.code) == ("exit", 2)
        assert "fork" in outcome.tail


def test_what_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.sandbox.bubblewrap_command", lambda *_: ["sh", "-c", "echo no namespaces; exit 1"])
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no namespaces"):
        spawn("trainers.child", [], Place(tmp_path, "sandbox", 1, 1 << 28))
    assert set(os.listdir("/proc/self/fd")) == before
