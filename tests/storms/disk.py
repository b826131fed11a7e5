"""The disk of a story: it remembers what a power cut may keep, and fills up, fails and kills when it is told to."""

import errno
import os
from pathlib import Path
from random import Random

from tests.storage.crash_disk import CrashDisk


class StoryDisk(CrashDisk):
    """`full_for` operations from now on find no room; the sync after `fails_in` more of them fails."""

    def __init__(self) -> None:
        super().__init__()
        self.full_for = 0
        self.fails_in: int | None = None
        self.refused = 0
        self.failed = 0
        self.gone = False

    def write(self, handle: int, data: memoryview) -> int:
        if self.full_for:
            self.full_for -= 1
            self.refused += 1
            taken = len(data) // 2 if self.full_for % 2 else 0
            if taken:
                return super().write(handle, data[:taken])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(handle, data)

    def truncate(self, handle: int, size: int) -> None:
        if self.gone:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().truncate(handle, size)

    def sync_data(self, handle: int) -> None:
        if self.fails_in is not None:
            self.fails_in -= 1
            if self.fails_in < 0:
                self.fails_in = None
                self.failed += 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync_data(handle)

    def has_room(self) -> bool:
        """Whether it takes writes again; each question lets some time pass."""
        self.full_for = max(0, self.full_for - 3)
        return not self.full_for

    def die_in(self, operations: int) -> None:
        """Stop before the operation that comes after so many more."""
        self.stop_at = len(self.operations) + operations

    def lose_power(self, folder: Path, into: Path, random: Random) -> tuple["StoryDisk", bool]:
        """The disk as it may look when power is back, and whether anything was lost or torn."""
        self.crash(folder, into, random)
        after = StoryDisk()
        after.adopt(into)
        return after, _bytes_in(into) != _bytes_in(folder)


def _bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.journal")}
