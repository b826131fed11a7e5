"""A disk that loses power: it remembers what a crash may keep of everything that was never synced.

The operations really happen in a folder (what a process that comes after a SIGKILL finds), and beside that a model keeps
what is durable: each file's bytes at its last sync and the changes since, each name at the last sync of its folder and
the renames, removals and new names since. `crash` writes one of the states that a power cut may leave into another folder.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from storage.disk import Disk


class Stopped(BaseException):
    """The process ends before this operation; BaseException, so that nobody who handles errors handles it."""


@dataclass(eq=False)
class Node:
    """A file: its bytes at the last sync, and every change since, as (offset, bytes) or (size, None)."""

    durable: bytes = b""
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)

    def after(self, changes: list[tuple[int, bytes | None]]) -> bytes:
        content = bytearray(self.durable)
        for place, data in changes:
            if data is None:
                content[:] = content[:place].ljust(place, b"\0")
            else:
                content[:] = content.ljust(place, b"\0")
                content[place : place + len(data)] = data
        return bytes(content)


@dataclass(frozen=True, eq=False)
class Naming:
    """A change of names: those that go, those that come."""

    gone: tuple[Path, ...]
    come: tuple[tuple[Path, Node | None], ...]

    def touches(self, folder: Path) -> bool:
        return any(path.parent == folder for path in (*self.gone, *(path for path, _ in self.come)))


class CrashDisk(Disk):
    """Counts operations and stops before number `stop_at` (from 0); `operations` names each."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.operations: list[str] = []
        self._names: dict[Path, Node | None] = {}  # durable; None is a folder
        self._now: dict[Path, Node | None] = {}
        self._pending: list[Naming] = []
        self._open: dict[int, Node] = {}

    def adopt(self, folder: Path) -> None:
        """Everything below is durable: how a disk looks after power came back."""
        for path in sorted(folder.rglob("*")):
            self._now[path] = Node(path.read_bytes()) if path.is_file() else None
        self._names = dict(self._now)

    def open(self, path: Path, flags: int) -> int:
        self._count("open")
        handle = super().open(path, flags)
        node = self._now.get(path)
        if node is None:
            node = Node()
            self._change(Naming((), ((path, node),)))
        if flags & os.O_TRUNC:
            node.changes.append((0, None))
        self._open[handle] = node
        return handle

    def write(self, handle: int, data: memoryview) -> int:
        self._count("write")
        written = super().write(handle, data)
        place = os.lseek(handle, 0, os.SEEK_CUR) - written
        self._open[handle].changes.append((place, bytes(data[:written])))
        return written

    def reserve(self, handle: int, begin: int, end: int) -> None:
        self._count("reserve")
        super().reserve(handle, begin, end)
        self._open[handle].changes.append((begin, bytes(end - begin)))

    def truncate(self, handle: int, size: int) -> None:
        self._count("truncate")
        super().truncate(handle, size)
        self._open[handle].changes.append((size, None))

    def sync_data(self, handle: int) -> None:
        self._count("sync data")
        self._settle(handle)

    def sync(self, handle: int) -> None:
        self._count("sync")
        self._settle(handle)

    def rename(self, source: Path, target: Path) -> None:
        self._count("rename")
        super().rename(source, target)
        self._change(Naming((source,), ((target, self._now[source]),)))

    def link(self, source: Path, target: Path) -> None:
        self._count("link")
        super().link(source, target)
        self._change(Naming((), ((target, self._now[source]),)))

    def unlink(self, path: Path) -> None:
        self._count("unlink")
        super().unlink(path)
        self._change(Naming((path,), ()))

    def make_folder(self, path: Path) -> None:
        self._count("make folder")
        known = path.exists()
        super().make_folder(path)
        if not known:
            self._change(Naming((), ((path, None),)))

    def sync_folder(self, folder: Path) -> None:
        self._count("sync folder")
        for naming in [one for one in self._pending if one.touches(folder)]:
            self._pending.remove(naming)
            _apply(self._names, naming)

    def crash(self, folder: Path, into: Path, random: Random) -> None:
        """Write what may be left of `folder` after a power cut: unsynced names and bytes kept, dropped or torn."""
        names = dict(self._names)
        mood = random.choice(("all", "none", "some"))
        for naming in self._pending:
            if mood == "all" or (mood == "some" and random.random() < 0.5):
                _apply(names, naming)
        for path in [path for path, node in names.items() if node is None]:
            (into / path.relative_to(folder)).mkdir(parents=True, exist_ok=True)
        for path, node in names.items():
            target = into / path.relative_to(folder)
            # Where its folder was lost, so was the file.
            if node is not None and target.parent.is_dir():
                target.write_bytes(_left(node, random))

    def _count(self, what: str) -> None:
        if len(self.operations) == self.stop_at:
            raise Stopped(what)
        self.operations.append(what)

    def _change(self, naming: Naming) -> None:
        _apply(self._now, naming)
        self._pending.append(naming)

    def _settle(self, handle: int) -> None:
        node = self._open[handle]
        node.durable, node.changes = node.after(node.changes), []


def _apply(names: dict[Path, Node | None], naming: Naming) -> None:
    for path in naming.gone:
        names.pop(path, None)
    names.update(naming.come)


def _left(node: Node, random: Random) -> bytes:
    """The file's bytes after a power cut: unsynced changes whole, dropped, torn, or a hole where they were."""
    kept = node.changes[: random.choice((0, len(node.changes), random.randint(0, len(node.changes))))]
    if kept and kept[-1][1] and random.random() < 0.6:
        place, data = kept[-1]
        assert data is not None
        cut = random.randrange(len(data) + 1)
        torn = bytearray(data[:cut]) if random.random() < 0.5 else bytearray(data)
        if len(torn) == len(data):
            hole = random.randrange(len(data))
            torn[hole : hole + random.randint(1, len(data))] = bytes(min(len(data) - hole, random.randint(1, len(data))))
            torn = torn[: len(data)]
        kept = [*kept[:-1], (place, bytes(torn))]
    return node.after(kept)
