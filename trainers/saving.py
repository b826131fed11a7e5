"""What a running command saves in its checkpoint folder: taken when it is whole, and cut into blocks that are named by their
digests, so that only those travel that are new.

A file that somebody has open for writing is not whole. The kernel knows: it gives a read lease on a file only when nobody
has; where a file system cannot tell, a file counts as closed once it has not changed for a while. Many programs save several
files that belong together. So files are taken by units, each folder in the checkpoint folder being one and the files beside
them another, and a unit is taken once nothing in it is open and nothing changed for a moment. One that is written without a
pause is taken all the same after a while: then each of its files is whole, as after a crash.

What is taken is copied aside, so that the command may write on while the blocks travel.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from storage.saved import BLOCK_BYTES, MAX_BLOCKS, MAX_FILES, Block, SavedFile
from trainers.collecting import open_below, plain_files

STILL_S: Final = 1.0
"""A unit that has not changed for so long is whole."""
RESTLESS_S: Final = 5.0
"""After so much restlessness the files beside the folders are taken one by one: mostly one file is replaced by the next."""
RESTLESS_FOLDER_S: Final = 60.0
"""The same for a folder: mostly a save of many files, which is not whole yet."""
STEP_S: Final = 0.2
QUIET_S: Final = 2.0
F_SETSIG: Final = 10

Mark = tuple[int, int, int, int]
"""Of one file: inode, length, times of the last write and the last change."""


@dataclass(frozen=True, slots=True)
class Taken:
    """`files`: whole and cut into blocks, by path. `waiting`: units that changed and are not whole yet. `left_out`: files over
    the limits, or with names that cannot be told. `spent_s`: of a processor, to look and to read what changed.
    """

    files: tuple[SavedFile, ...]
    waiting: tuple[str, ...]
    left_out: int
    spent_s: float = 0.0


@dataclass(slots=True)
class Saver:
    """Looks at one folder. `aside`: a folder for the blocks that have to travel, not there yet.

    `clock` gives monotonic seconds, `pause` waits some, `cpu` gives the seconds of a processor that this thread has had.
    """

    folder: Path
    aside: Path
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    cpu: Callable[[], float] = time.thread_time
    _files: dict[str, tuple[Mark, SavedFile]] = field(default_factory=dict)
    _seen: dict[str, dict[str, Mark]] = field(default_factory=dict)
    _still_since: dict[str, float] = field(default_factory=dict)
    _restless_since: dict[str, float] = field(default_factory=dict)
    _kept: frozenset[str] = frozenset()

    def look(self, patience_s: float, running: Callable[[], bool] = lambda: True) -> Taken:
        """What is whole there now. What has changed is waited for until it is whole, at most for so long and while the command
        is `running`; what is not by then stays as it was taken before. Raises OSError when there is no room for the blocks.
        """
        until, began = self.clock() + patience_s, self.cpu()
        while True:
            units, left_out = self._walk()
            changed = self._changed(units)
            ready = {unit: self._is_still(unit) for unit in changed if self._is_ready(unit, units.get(unit, {}))}
            if not running():  # the stillness of a command that was ended says nothing
                return self._taken(changed, left_out, began)
            waiting = self._take_all(units, changed, ready)
            if not waiting or self.clock() >= until:
                return self._taken(waiting, left_out, began)
            self.pause(STEP_S)

    def look_last(self, ended_ms: int, *, by_itself: bool) -> Taken:
        """What is there after the command has ended at that time (milliseconds since 1970). One that was ended by a signal
        may have been in the middle of a save: what it changed in its last moment stays as it was taken before.
        """
        began = self.cpu()
        units, left_out = self._walk()
        changed = self._changed(units)
        last_ns = ended_ms * 1_000_000 - int(STILL_S * 1e9)
        ready = {
            unit: False
            for unit in changed
            if by_itself or all(max(mark[2:]) <= last_ns for mark in units.get(unit, {}).values())
        }
        waiting = self._take_all(units, changed, ready)
        return self._taken(waiting, left_out, began)

    def kept(self, digests: Iterable[str]) -> None:
        """These blocks are in the store: they need not travel any more."""
        self._kept = frozenset(digests)
        self._tidy()

    def lacks(self, digests: Iterable[str]) -> list[str]:
        """Those of the blocks that are not aside."""
        return [digest for digest in digests if not (self.aside / digest).exists()]

    def read(self, digest: str) -> bytes | None:
        """A block that was taken, or None when it is not to be had any more: the next look takes its file anew."""
        path = self.aside / digest
        if path.exists():
            return path.read_bytes()
        self._kept -= {digest}
        for name, (_, file) in list(self._files.items()):
            places = [place for place, block in enumerate(file.blocks) if block.digest == digest]
            if places:
                content = self._read_in_place(name, places[0])
                if hashlib.sha256(content).hexdigest() == digest:
                    return content
                del self._files[name]
        return None

    def put(self, content: bytes) -> None:
        """A block that was kept comes back, for `restore`. Raises OSError."""
        self._write_aside(hashlib.sha256(content).hexdigest(), content)

    def restore(self, files: Sequence[SavedFile]) -> None:
        """Make the folder, which is not there yet, of blocks that are aside. Raises OSError."""
        self.folder.mkdir(parents=True)
        for file in files:
            path = self.folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as whole:
                for block in file.blocks:
                    whole.write((self.aside / block.digest).read_bytes())
            path.chmod(0o755 if file.executable else 0o644)
            if file.modified_ns:
                os.utime(path, ns=(file.modified_ns, file.modified_ns))
            if file.is_cut():
                self._files[file.path] = _mark(path.lstat()), file
        self.kept(block.digest for _, file in self._files.values() for block in file.blocks)

    # inside

    def _taken(self, waiting: Sequence[str], left_out: int, began: float) -> Taken:
        self._tidy()
        files = tuple(self._files[path][1] for path in sorted(self._files))
        return Taken(files, tuple(waiting), left_out, self.cpu() - began)

    def _tidy(self) -> None:
        """Aside are only blocks that are still to travel."""
        if self.aside.exists():
            wanted = {block.digest for _, file in self._files.values() for block in file.blocks} - self._kept
            for path in self.aside.iterdir():
                if path.name not in wanted:
                    path.unlink(missing_ok=True)

    def _mark_now(self, path: str) -> Mark | None:
        try:
            return _mark(os.lstat(self.folder / path))
        except OSError:
            return None

    def _read_in_place(self, path: str, place: int) -> bytes:
        try:
            descriptor = open_below(self.folder, path)
        except OSError:
            return b""
        try:
            return os.pread(descriptor, BLOCK_BYTES, place * BLOCK_BYTES)
        finally:
            os.close(descriptor)

    def _walk(self) -> tuple[dict[str, dict[str, Mark]], int]:
        """Marks of the files that count, by unit and path; how many do not."""
        units: dict[str, dict[str, Mark]] = {}
        left_out = files = blocks = 0
        unnameable: list[str] = []
        for path, status in sorted(plain_files(self.folder, unnameable.append), key=lambda one: one[0]):
            files, blocks = files + 1, blocks + -(-status.st_size // BLOCK_BYTES)
            if files > MAX_FILES or blocks > MAX_BLOCKS:
                left_out += 1
                continue
            units.setdefault(unit_of(path), {})[path] = _mark(status)
        return units, left_out + len(unnameable)

    def _changed(self, units: dict[str, dict[str, Mark]]) -> list[str]:
        """Units that are not as they were taken; since when they are still, and since when they are not, is noted."""
        now = self.clock()
        taken: dict[str, dict[str, Mark]] = {}
        for path, (mark, _) in self._files.items():
            taken.setdefault(unit_of(path), {})[path] = mark
        found = []
        for unit in sorted(units.keys() | taken.keys()):
            here = units.get(unit, {})
            if self._seen.get(unit, {}) != here or unit not in self._still_since:
                self._still_since[unit] = now
            if here == taken.get(unit, {}):
                self._restless_since.pop(unit, None)
            else:
                self._restless_since.setdefault(unit, now)
                found.append(unit)
        self._seen = dict(units)
        return found

    def _is_ready(self, unit: str, here: dict[str, Mark]) -> bool:
        now = self.clock()
        if self._is_still(unit) and not any(self._is_open(path) for path in here):
            return True
        return now - self._restless_since[unit] >= (RESTLESS_FOLDER_S if unit else RESTLESS_S)

    def _is_still(self, unit: str) -> bool:
        return self.clock() - self._still_since[unit] >= STILL_S

    def _is_open(self, path: str) -> bool:
        try:
            descriptor = open_below(self.folder, path)
        except OSError:  # replaced or gone in this moment
            return True
        try:
            return not _is_closed(descriptor, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def _take_all(self, units: dict[str, dict[str, Mark]], changed: Sequence[str], ready: dict[str, bool]) -> list[str]:
        """Take the units that are ready (whole, or each file by itself); those that wait. One that is gone stays taken
        while others wait: mostly it made room for one of them.
        """
        there = [unit for unit in changed if unit in units]
        waiting = [unit for unit in there if unit not in ready or not self._take(unit, units[unit], whole=ready[unit])]
        for unit in set(changed) - set(there):
            if waiting or unit not in ready:
                waiting.append(unit)
            else:
                self._take(unit, {}, whole=True)
        return sorted(waiting)

    def _take(self, unit: str, here: dict[str, Mark], *, whole: bool) -> bool:
        """Whether the unit is taken: all of it as it was found, or else (not `whole`) each file that can be."""
        found: dict[str, tuple[Mark, SavedFile]] = {}
        for path, mark in here.items():
            before = self._files.get(path)
            if before is not None and before[0] == mark:
                found[path] = before
                continue
            file = self._whole(path)
            if whole and (file is None or file[0] != mark):
                return False
            kept = before if file is None else file
            if kept is not None:
                found[path] = kept
        if whole and any(self._mark_now(path) != mark for path, mark in here.items()):
            return False
        for path in [path for path in self._files if unit_of(path) == unit]:
            del self._files[path]
        self._files.update(found)
        self._restless_since.pop(unit, None)
        return True

    def _whole(self, path: str) -> tuple[Mark, SavedFile] | None:
        """The file in blocks, or None when it is open or changed under our eyes."""
        try:
            descriptor = open_below(self.folder, path)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            mark = _mark(status)
            if not _is_closed(descriptor, status):
                return None
            blocks = [self._block(content) for content in _pieces(descriptor)]
            after = os.fstat(descriptor)
            if _mark(after) != mark or not _is_closed(descriptor, after):
                return None
        finally:
            os.close(descriptor)
        return mark, SavedFile(path, tuple(blocks), bool(status.st_mode & stat.S_IXUSR), max(0, status.st_mtime_ns))

    def _block(self, content: bytes) -> Block:
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._kept:
            self._write_aside(digest, content)
        return Block(digest, len(content))

    def _write_aside(self, digest: str, content: bytes) -> None:
        path = self.aside / digest
        if not path.exists():
            self.aside.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".new")
            beside.write_bytes(content)
            beside.rename(path)


def unit_of(path: str) -> str:
    """The folder below the checkpoint folder in which a path lies, or the empty text."""
    first, slash, _ = path.partition("/")
    return first if slash else ""


def _pieces(descriptor: int) -> Iterable[bytes]:
    offset = 0
    while content := os.pread(descriptor, BLOCK_BYTES, offset):
        if len(content) < BLOCK_BYTES:  # the end, or a short read
            while more := os.pread(descriptor, BLOCK_BYTES - len(content), offset + len(content)):
                content += more
        yield content
        offset += len(content)


def _mark(status: os.stat_result) -> Mark:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


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
