"""The calls by which the journal and the blobs change the disk, in one place.

Whoever writes takes a `Disk`. Another one in its place sees every operation, in order, and can stop the writer at any of
them: that is how the tests cut a workload at every operation, and how `torg torture` dies in the midst of one.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from storage.journal_format import sync_folder

_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class Disk:
    """The real one. Each method is one system call (`sync_folder` three), and raises OSError as that does."""

    def open(self, path: Path, flags: int) -> int:
        """A file, 0600 if it is made; the handle is closed with `os.close`."""
        return os.open(path, flags, 0o600)

    def write(self, handle: int, data: memoryview) -> int:
        """How many of the bytes were taken; they are not durable."""
        return os.write(handle, data)

    def reserve(self, handle: int, begin: int, end: int) -> None:
        """Zeros from `begin` to `end`, where nothing is yet; not durable before the next sync.

        Written: after `fallocate` the first write into each block changes what the file system knows of it, and a sync writes that.
        """
        if os.pwrite(handle, bytes(end - begin), begin) < end - begin:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def truncate(self, handle: int, size: int) -> None:
        """Not durable before the next sync."""
        os.ftruncate(handle, size)

    def sync_data(self, handle: int) -> None:
        """The file's bytes and length are durable when this returns."""
        _sync_data(handle)

    def sync(self, handle: int) -> None:
        """The file is durable when this returns; its name is not."""
        os.fsync(handle)

    def rename(self, source: Path, target: Path) -> None:
        """Atomic; durable after `sync_folder` of the target's folder."""
        os.rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        """A second name, atomic; raises FileExistsError, too; durable after `sync_folder` of the target's folder."""
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        """Raises FileNotFoundError, too; durable after `sync_folder`."""
        os.unlink(path)

    def make_folder(self, path: Path) -> None:
        """One level, 0700, no error if it is there; durable after `sync_folder` of its parent."""
        path.mkdir(exist_ok=True, mode=0o700)

    def sync_folder(self, folder: Path) -> None:
        """What was renamed, made and removed in the folder is durable when this returns."""
        sync_folder(folder)


DISK = Disk()


def write_synced(disk: Disk, path: Path, *parts: bytes | memoryview) -> None:
    """A file of these bytes, one part behind the other, durable when this returns; its name is not. What cannot be written whole is removed. Raises OSError."""
    handle = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        for part in parts:
            write_all(disk, handle, part)
        disk.sync(handle)
    except OSError:
        with suppress(OSError):
            disk.unlink(path)
        raise
    finally:
        os.close(handle)


def write_all(disk: Disk, handle: int, data: bytes | memoryview) -> None:
    """Every byte, in as many writes as the system needs."""
    view = memoryview(data)
    while (written := disk.write(handle, view)) < len(view):
        view = view[written:]
