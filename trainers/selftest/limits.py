"""Attempts to take more of the machine than was leased. Each goes beyond the self-test's own small limits."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import threading
import time

from trainers.selftest.scene import Scene, Stopped

MEMORY_LIMIT_BYTES = 128 << 20
DISK_LIMIT_BYTES = 32 << 20
TASKS = 64
MORE_TASKS = 3 * TASKS
MORE_MEMORY_BYTES = 3 * MEMORY_LIMIT_BYTES
MORE_DISK_BYTES = 3 * DISK_LIMIT_BYTES
RAM_DISKS_BYTES = 4 << 30


def fork_bomb(scene: Scene) -> str:
    """More processes than it may have."""
    made = []
    try:
        for _ in range(MORE_TASKS):
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            made.append(pid)
        time.sleep(scene.hold_s)
    finally:
        for pid in made:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    return f"{len(made)} processes"


def thread_bomb(scene: Scene) -> str:
    """More threads than it may have."""
    enough = threading.Event()
    threading.stack_size(64 << 10)
    made = [threading.Thread(target=enough.wait, daemon=True) for _ in range(MORE_TASKS)]
    started = 0
    try:
        for one in made:
            one.start()
            started += 1
    except RuntimeError:
        raise Stopped(f"no more than {started} threads") from None
    finally:
        enough.set()
    return f"{started} threads"


def memory_bomb(scene: Scene) -> str:
    """More memory than it was leased, in several processes so that no limit of one process is met."""
    parts = 3
    for _ in range(parts - 1):
        if os.fork() == 0:
            break
    taken = bytearray(b"x") * (MORE_MEMORY_BYTES // parts)
    time.sleep(scene.hold_s)
    return f"{len(taken) * parts >> 20} MiB were kept"


def one_memory_bomb(scene: Scene) -> str:
    """The same in one process."""
    with mmap.mmap(-1, 8 * MORE_MEMORY_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        return f"{len(taken) >> 20} MiB were given"  # asked for, and not written: the control takes nothing from its machine


def disk_fill(scene: Scene) -> str:
    """More disk than it may fill."""
    path = os.path.join(scene.own, "full")
    block = os.urandom(1 << 20)
    with open(path, "wb") as file:
        for _ in range(MORE_DISK_BYTES >> 20):
            file.write(block)
        file.flush()
        time.sleep(scene.hold_s)
    os.unlink(path)
    return f"{MORE_DISK_BYTES >> 20} MiB were kept"


def ram_disks(scene: Scene) -> str:
    """Memory that no process has: file systems in memory that hold more than a small, known amount."""
    large = []
    with open("/proc/self/mounts", encoding="utf-8") as file:
        rows = [line.split() for line in file if line.split()[2] in ("tmpfs", "ramfs", "devtmpfs")]
    for row in rows:
        path = os.path.join(row[1], ".torg-selftest")
        try:
            with open(path, "wb"):
                found = os.statvfs(row[1])
            os.unlink(path)
        except OSError:
            continue
        if found.f_blocks == 0 or found.f_blocks * found.f_frsize > RAM_DISKS_BYTES:
            large.append(row[1])
    if not large:
        raise Stopped("all of them are small or cannot be written")
    return f"{', '.join(large)} may hold more than {RAM_DISKS_BYTES >> 30} GiB"


def many_files(scene: Scene) -> str:
    """More open files than it may have."""
    opened = []
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        for _ in range(5000):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return f"{len(opened)} open files"


def huge_file(scene: Scene) -> str:
    """A file larger than any may be."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = os.path.join(scene.own, "huge")
    with open(path, "wb") as file:
        try:
            os.ftruncate(file.fileno(), 1 << 40)
        finally:
            os.unlink(path)
    return "a file of 1 TiB"
