"""Limits on all processes of a sandbox together: memory, tasks (processes and threads), cores. Linux cgroups v1 and v2.

A group is made below the one that its maker is in, so that whatever bounds the provider bounds it, too. That needs a
hierarchy that may be written: on v1 that of root, on v2 one that was delegated and whose controllers are handed down
(`cgroup.subtree_control`). Where there is none, a group bounds nothing, and the sandbox has its other limits.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PERIOD_US = 100_000
PREFIX = "torg-"
_REMOVAL_TRIES, _REMOVAL_PAUSE_S = 10, 0.02
_CONTROLLERS = ("memory", "pids", "cpu")
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of all processes together. `tasks`: processes and threads."""

    memory_bytes: int
    tasks: int
    cores: int


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder to make; what to write to which of its files, by controller; whether it is of v2."""

    path: Path
    files: Mapping[str, Mapping[str, str]]
    unified: bool


def plan(own: str, mounts: str, name: str, limits: Limits) -> list[Folder]:
    """The folders of a group called `name`, from the texts of /proc/self/cgroup and /proc/self/mountinfo.

    Their `files` by controller: {controller: {file: text}}. A controller that v1 has is not looked for in v2.
    """
    found: list[Folder] = []
    missing = set(_CONTROLLERS)
    for controllers, path in _own_groups(own):
        here = missing & controllers
        folder = _mounted(mounts, controllers, path) if here or not controllers else None
        if folder is None:
            continue
        if controllers:
            found.append(
                Folder(folder / name, {one: _files(one, limits, unified=False) for one in sorted(here)}, False)
            )
            missing -= here
        elif missing:
            found.append(
                Folder(folder / name, {one: _files(one, limits, unified=True) for one in sorted(missing)}, True)
            )
    return found


def _own_groups(own: str) -> list[tuple[set[str], str]]:
    """({controllers}, path) a hierarchy, v2's without controllers last."""
    rows = [line.split(":", 2) for line in own.splitlines() if line.count(":") >= 2]
    named = [({part for part in row[1].split(",") if part}, row[2]) for row in rows]
    return sorted(named, key=lambda row: not row[0])


def _mounted(mounts: str, controllers: set[str], path: str) -> Path | None:
    """Where a hierarchy's group at `path` is seen in the file system."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        options = set(kind[2].split(","))
        if not (kind[0] == "cgroup2" if not controllers else kind[0] == "cgroup" and controllers <= options):
            continue
        root, point = fields[3].rstrip("/"), Path(fields[4])
        if path == root or path.startswith(root + "/"):
            return point / path[len(root) :].strip("/")
    return None


def _files(controller: str, limits: Limits, *, unified: bool) -> dict[str, str]:
    if controller == "memory":
        return {"memory.max" if unified else "memory.limit_in_bytes": str(limits.memory_bytes)}
    if controller == "pids":
        return {"pids.max": str(limits.tasks)}
    quota = str(limits.cores * PERIOD_US)
    return {"cpu.max": f"{quota} {PERIOD_US}"} if unified else {"cpu.cfs_quota_us": quota}


class Group:
    """What bounds one sandbox; `bounds` names the controllers that do, none where groups cannot be made."""

    def __init__(self, folders: Sequence[tuple[Path, frozenset[str]]] = ()) -> None:
        self._folders = list(folders)

    @property
    def bounds(self) -> frozenset[str]:
        return frozenset().union(*(controllers for _, controllers in self._folders))

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel has killed a process of it for want of memory."""
        for folder, _ in self._folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    words = (folder / name).read_text().split()
                    if "oom_kill" in words and int(words[words.index("oom_kill") + 1]) > 0:
                        return True
        return False

    def close(self) -> None:
        """Kill what is left in it, and remove it; what cannot be removed yet is by whoever makes the next one."""
        for folder, _ in self._folders:
            for _ in range(_REMOVAL_TRIES):
                _kill_all(folder)
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(_REMOVAL_PAUSE_S)
                else:
                    break
        self._folders = []


def enter(pid: int, limits: Limits) -> Group:
    """Put a process, and what it starts from now on, into a new group; one that bounds nothing where that cannot be."""
    try:
        own, mounts = Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
    except OSError:
        return Group()
    name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
    made: list[tuple[Path, frozenset[str]]] = []
    for folder in plan(own, mounts, name, limits):
        _sweep(folder.path.parent)
        bounds = _make(folder, pid)
        if bounds:
            made.append((folder.path, bounds))
    return Group(made)


def _make(folder: Folder, pid: int) -> frozenset[str]:
    """Make it and put the process in; the controllers whose limits hold."""
    bounds = set()
    try:
        handed_down = set(folder.files)
        if folder.unified:
            handed_down &= set((folder.path.parent / "cgroup.subtree_control").read_text().split())
        if not handed_down:
            return frozenset()
        folder.path.mkdir()
        for controller in handed_down:
            with contextlib.suppress(OSError):
                for name, text in folder.files[controller].items():
                    (folder.path / name).write_text(text)
                bounds.add(controller)
        (folder.path / "cgroup.procs").write_text(str(pid))
    except OSError:
        with contextlib.suppress(OSError):
            folder.path.rmdir()
        return frozenset()
    return frozenset(bounds)


def _kill_all(folder: Path) -> None:
    try:
        pids = [int(word) for word in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _sweep(parent: Path) -> None:
    """Remove groups whose maker was killed; those that anybody is in stay by themselves."""
    for folder in parent.glob(f"{PREFIX}*-*"):
        maker = folder.name.removeprefix(PREFIX).split("-")[0]
        if maker.isdecimal() and not Path("/proc", maker).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()
