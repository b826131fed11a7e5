"""How much a folder holds on disk, watched while somebody writes to it, where its file system has no quota for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

AGAIN_AFTER_S = 30.0
_TIMES_ITS_COST = 20


def used_bytes(folder: Path) -> int:
    """Blocks of everything below it; links are not followed. What vanishes meanwhile counts nothing."""
    total, waiting = 0, [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    total += _blocks(entry)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue
    return total


class DiskWatch:
    """Measures rarely: again after a while, and as soon as the file system has lost what was left to the limit.

    `clock` in seconds, `free` the file system's free bytes.
    """

    def __init__(
        self, folder: Path, limit_bytes: int, clock: Callable[[], float] = time.monotonic,
        free: Callable[[Path], int] | None = None,
    ) -> None:  # fmt: skip
        self._folder, self.limit_bytes, self._clock, self._free = folder, limit_bytes, clock, free or free_bytes
        self._next = 0.0
        self._asked_after = 0.0
        self._worth_asking_below = 0

    def beyond(self) -> int | None:
        """What the folder holds, once it is more than its limit."""
        now, free = self._clock(), self._free(self._folder)
        if now < self._next and (free > self._worth_asking_below or now < self._asked_after):
            return None
        used = used_bytes(self._folder)
        cost_s = self._clock() - now
        self._next = now + max(AGAIN_AFTER_S, _TIMES_ITS_COST * cost_s)
        self._asked_after = now + _TIMES_ITS_COST * cost_s
        self._worth_asking_below = free - (self.limit_bytes - used) // 2
        return used if used > self.limit_bytes else None


def free_bytes(folder: Path) -> int:
    """Free bytes of the file system that a folder is on."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _blocks(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except OSError:
        return 0
