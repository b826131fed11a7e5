"""Files that a running command has closed in its checkpoint folder: found again and again, hashed only when they changed.

A file that somebody has open for writing is not whole. The kernel knows: it gives a read lease on a file only when nobody
has; where a file system cannot tell, a file counts as closed once it has not changed for a while.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trainers.collecting import Found, digest_below, open_below, plain_files

MAX_FILES: Final = 1_000
MAX_BYTES: Final = 2 << 30
"""Of all that is kept: it travels to the next worker as one object, as a job's data do."""
QUIET_S: Final = 2.0
F_SETSIG: Final = 10

Mark = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Saved:
    """`files`: closed and hashed, by path. `open`: paths of those that are being written. `left_out`: over the limits."""

    files: tuple[Found, ...]
    open: tuple[str, ...]
    left_out: int


@dataclass(slots=True)
class Saver:
    """Looks at one folder."""

    folder: Path
    _known: dict[str, tuple[Mark, Found]] = field(default_factory=dict)

    def look(self) -> Saved:
        """What is closed there now."""
        files: list[Found] = []
        unfinished: list[str] = []
        left_out = total = 0
        for path, size in sorted(plain_files(self.folder)):
            if len(files) >= MAX_FILES or total + size > MAX_BYTES:
                left_out += 1
                continue
            found = self._closed(path)
            if found is None:
                unfinished.append(path)
            else:
                files.append(found)
                total += found.bytes
        self._known = {file.path: self._known[file.path] for file in files}
        return Saved(tuple(files), tuple(unfinished), left_out)

    def _closed(self, path: str) -> Found | None:
        """The file, hashed, or None while it is written or when it changed under our eyes."""
        try:
            descriptor = open_below(self.folder, path)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            if not _is_closed(descriptor, status):
                return None
            mark = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._known.get(path)
            if known is not None and known[0] == mark:
                return known[1]
            digest, size = digest_below(descriptor)
            after = os.fstat(descriptor)
            if (after.st_ino, after.st_size, after.st_mtime_ns) != mark or not _is_closed(descriptor, after):
                return None
        finally:
            os.close(descriptor)
        found = Found(path, digest, size, bool(status.st_mode & stat.S_IXUSR))
        self._known[path] = (mark, found)
        return found


def _is_closed(descriptor: int, status: os.stat_result) -> bool:
    try:
        # Whoever opens the file in this moment waits for it, and we would be told by a signal that ends a process.
        fcntl.fcntl(descriptor, F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        return time.time() - status.st_mtime >= QUIET_S
    return True
