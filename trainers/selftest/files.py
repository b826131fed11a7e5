"""Attempts on files, /proc and devices."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tarfile
from collections.abc import Iterable

from trainers.selftest.scene import BOOTY, Absent, Scene, Stopped

_KEPT_AT_HOME = (".ssh", ".aws", ".netrc", ".config", ".bashrc", ".profile", ".gitconfig", ".docker", ".cache")
_SETTINGS = ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/vm/drop_caches",
             "/proc/sys/fs/suid_dumpable", "/proc/sys/kernel/randomize_va_space")  # fmt: skip
_MEMORY = ("/proc/kcore", "/dev/mem", "/dev/kmem", "/proc/kmsg", "/dev/kmsg", "/proc/kpageflags", "/dev/port")


def read_secret(scene: Scene) -> str:
    """The market's keys."""
    return _read(scene.secret)


def read_home(scene: Scene) -> str:
    """What people keep in their homes."""
    names = [name for name in _KEPT_AT_HOME if os.path.lexists(os.path.join(scene.home, name))]
    for name in names:
        path = os.path.join(scene.home, name)
        with contextlib.suppress(PermissionError):
            return f"{path} holds {len(os.listdir(path))} files" if os.path.isdir(path) else f"{path}: {_begin(path)}"
    if names:
        raise Stopped("EACCES")
    raise FileNotFoundError(2, "nothing of it is there")


def read_shadow(scene: Scene) -> str:
    """The machine's password hashes."""
    return _begin("/etc/shadow")


def read_neighbour(scene: Scene) -> str:
    """Another lease's folder."""
    return _read(scene.neighbour)


def write_neighbour(scene: Scene) -> str:
    """Leave something in another lease's folder."""
    return _made(os.path.dirname(scene.neighbour))


def write_packages(scene: Scene) -> str:
    """Change what the next job imports."""
    return _made(scene.packages)


def through_proc_root(scene: Scene) -> str:
    """Other processes' views of the file system."""
    return _any(
        [f"/proc/{pid}/{link}{scene.secret if link == 'root' else ''}" for pid in (1, scene.victim, scene.parent)
         for link in ("root", "cwd/secret")]
    )  # fmt: skip


def read_environments(scene: Scene) -> str:
    """Keys in other processes' environments."""
    last: OSError = FileNotFoundError(2, "no process but our own")
    for pid in (name for name in os.listdir("/proc") if name.isdecimal() and name != str(os.getpid())):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if BOOTY.encode() in file.read():
                    return f"the key in the environment of process {pid}"
        except OSError as error:
            last = error
    raise last


def write_memory(scene: Scene) -> str:
    """Open another process's memory for writing."""
    with open(f"/proc/{scene.victim}/mem", "r+b"):
        return "a process's memory is open"


def write_supervisor(scene: Scene) -> str:
    """Open the memory of the process around the command, to have it say what one likes."""
    if os.getppid() == 0:
        raise Absent("there is no process around this one")
    with open(f"/proc/{os.getppid()}/mem", "r+b"):
        return "the memory of the process around it is open"


def write_settings(scene: Scene) -> str:
    """Kernel settings, of which one names a program that runs as root."""
    return _opened(_SETTINGS, os.O_WRONLY)


def press_sysrq(scene: Scene) -> str:
    """The switch that restarts the machine."""
    return _opened(("/proc/sysrq-trigger",), os.O_WRONLY)


def read_kernel_memory(scene: Scene) -> str:
    """The kernel's memory and log."""
    return _opened(_MEMORY, os.O_RDONLY | os.O_NONBLOCK)


def read_disk(scene: Scene) -> str:
    """The machine's disks below their file systems."""
    return _opened([f"/dev/{name}" for name in _disks()], os.O_RDONLY)


def make_disk_node(scene: Scene) -> str:
    """A node of its own for a disk of the machine."""
    path = os.path.join(scene.own, "disk")
    number = next(iter(_disks().values()), os.makedev(1, 1))
    os.mknod(path, stat.S_IFBLK | 0o600, number)
    try:
        os.close(os.open(path, os.O_RDONLY))
    finally:
        os.unlink(path)
    return "a disk is open"


def open_cards(scene: Scene) -> str:
    """Cards that were not leased (the self-test leases none)."""
    cards = [f"/dev/{name}" for name in _listed("/dev") if name.startswith("nvidia") and name[6:].isdecimal()]
    if not cards:
        raise FileNotFoundError(2, "no card is to be seen")
    return _opened(cards, os.O_RDWR)


def link_secret(scene: Scene) -> str:
    """A hard link to the keys, to be collected as an artifact."""
    path = os.path.join(scene.own, "hard")
    os.link(scene.secret, path)
    os.unlink(path)
    return "the keys have a second name"


def leave_link(scene: Scene) -> str:
    """A link to the keys among the artifacts."""
    os.symlink(scene.secret, os.path.join(scene.own, "stolen"))
    return "a link was left"


def follow_link(scene: Scene) -> str:
    """Outside: whoever opens the link reads the keys."""
    leave_link(scene)
    return _read(os.path.join(scene.own, "stolen"))


def leave_folder_link(scene: Scene) -> str:
    """A folder of the checkpoint that is a link to where the keys are."""
    saved = os.path.join(os.path.dirname(scene.own), "checkpoint")
    os.makedirs(saved, exist_ok=True)
    os.symlink(os.path.dirname(scene.secret), os.path.join(saved, "model"))
    return "a link was left"


def follow_folder_link(scene: Scene) -> str:
    """Outside: whoever opens a file in it reads the keys."""
    leave_folder_link(scene)
    return _read(os.path.join(os.path.dirname(scene.own), "checkpoint", "model", os.path.basename(scene.secret)))


def leave_archive(scene: Scene) -> str:
    """An archive whose names lead out of the folder that it is unpacked to."""
    path = os.path.join(scene.own, "evil.tar")
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("../planted"))
    return "an archive was left"


def unpack_archive(scene: Scene) -> str:
    """Outside: whoever believes the names of an archive writes elsewhere."""
    leave_archive(scene)
    os.mkdir(os.path.join(scene.own, "unpacked"))
    with tarfile.open(os.path.join(scene.own, "evil.tar")) as archive:
        archive.extractall(os.path.join(scene.own, "unpacked"), filter="fully_trusted")  # noqa: S202  the point
    if not os.path.exists(os.path.join(scene.own, "planted")):
        raise Stopped("it was unpacked within its folder")
    return "a file was planted beside the folder"


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if BOOTY not in text:
        raise Stopped("another file is there")
    return f"read {path}"


def _begin(path: str) -> str:
    with open(path, "rb") as file:
        return f"read {len(file.read(64))} bytes of {path}"


def _any(paths: Iterable[str]) -> str:
    last: Exception = FileNotFoundError(2, "nothing is there")
    for path in paths:
        try:
            return _read(path)
        except (OSError, Stopped) as error:
            last = error
    raise last


def _opened(paths: Iterable[str], how: int) -> str:
    """The first that opens. A file that nobody may open for want of being there is absent."""
    last: OSError = FileNotFoundError(2, "nothing of it is there")
    for path in paths:
        try:
            os.close(os.open(path, how))
        except OSError as error:
            last = error if error.errno != 2 else last
        else:
            return f"{path} is open"
    raise last


def _made(folder: str) -> str:
    path = os.path.join(folder, f".torg-selftest-{secrets.token_hex(4)}")
    with open(path, "x", encoding="ascii"):
        os.unlink(path)
    return f"wrote to {folder}"


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _disks() -> dict[str, int]:
    """Device numbers of disks, by name."""
    with open("/proc/partitions", encoding="ascii") as file:
        rows = [line.split() for line in file.read().splitlines()[2:]]
    return {
        row[3]: os.makedev(int(row[0]), int(row[1])) for row in rows if not row[3].startswith(("ram", "zram", "loop"))
    }
