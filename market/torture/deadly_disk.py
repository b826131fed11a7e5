"""The real disk, which says what it made durable and, at one chosen operation, kills its process or fails."""

import errno
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from storage.disk import Disk

OPERATIONS = (
    "journal.reserve", "journal.write", "journal.sync", "segment.open", "segment.write", "segment.sync", "segment.rename", "segment.sync_folder",
    "sealing.open", "sealing.write", "sealing.sync", "sealing.rename", "sealing.unlink",
    "blob.open", "blob.write", "blob.sync", "blob.rename", "blob.make_folder", "blob.sync_folder", "blob.unlink",
)  # fmt: skip
FULL_FOR = 40
"""Operations that fail in a row where the disk is full."""


@dataclass(slots=True)
class Fault:
    """What happens at the `nth` operation of that name: `kill` (before, half way through, after), `full` or `io_error`."""

    operation: str
    nth: int
    how: str
    when: str = "before"

    @classmethod
    def of(cls, told: Mapping[str, Any] | None) -> "Fault | None":
        return None if told is None else cls(**told)


class DeadlyDisk(Disk):
    """`tell` takes a line for the parent; a line is told before anything is promised on the strength of it."""

    def __init__(self, home: Path, tell: Callable[[dict[str, Any]], None]) -> None:
        self.fault: Fault | None = None
        self._home = home
        self._tell = tell
        self._count = 0
        self._full_left = 0
        self._paths: dict[int, Path] = {}
        self._roomy: set[int] = set()

    def open(self, path: Path, flags: int) -> int:
        with _Step(self, f"{self._area(path)}.open"):
            handle = super().open(path, flags)
        self._paths[handle] = path
        self._roomy.discard(handle)
        return handle

    def reserve(self, handle: int, begin: int, end: int) -> None:
        with _Step(self, f"{self._area(self._paths[handle])}.reserve"):
            super().reserve(handle, begin, end)
        self._roomy.add(handle)

    def write(self, handle: int, data: memoryview) -> int:
        with _Step(self, f"{self._area(self._paths[handle])}.write") as step:
            if step.when == "half":
                super().write(handle, data[: len(data) // 2])
                die(self._tell, step)
            return super().write(handle, data)

    def sync_data(self, handle: int) -> None:
        self._synced(handle, super().sync_data)

    def sync(self, handle: int) -> None:
        self._synced(handle, super().sync)

    def rename(self, source: Path, target: Path) -> None:
        with _Step(self, f"{self._area(source)}.rename"):
            over = target.read_bytes().hex() if self._area(source) == "segment" and target.exists() else None
            self._tell({"renames": [str(source), str(target)], "over": over})
            super().rename(source, target)
        # Its open handle is of the new name from now on.
        self._paths.update({handle: target for handle, path in self._paths.items() if path == source})

    def unlink(self, path: Path) -> None:
        sealed = path.suffix == ".journal"
        with _Step(self, f"{'sealing' if sealed else self._area(path)}.unlink"):
            if sealed:
                self._tell({"unlinks": str(path), "bytes": path.read_bytes().hex()})
            super().unlink(path)

    def make_folder(self, path: Path) -> None:
        with _Step(self, f"{self._area(path)}.make_folder"):
            super().make_folder(path)

    def sync_folder(self, folder: Path) -> None:
        with _Step(self, f"{'segment' if folder.name == 'journal' or folder == self._home else 'blob'}.sync_folder"):
            super().sync_folder(folder)
            self._tell({"folder": str(folder)})

    def _synced(self, handle: int, sync: Callable[[int], None]) -> None:
        path = self._paths[handle]
        with _Step(self, f"{self._area(path)}.sync"):
            sync(handle)
            # The room behind what was written has nothing that could be lost.
            size = os.lseek(handle, 0, os.SEEK_CUR) if handle in self._roomy else os.fstat(handle).st_size
            self._tell({"synced": str(path), "size": size})

    def _area(self, path: Path) -> str:
        if path.name == "new-segment.tmp":
            return "segment"
        if path.name == "new-sealed.tmp":
            return "sealing"
        return "journal" if path.suffix == ".journal" else "blob"

    def begin(self, operation: str) -> str:
        """Count the operation; what `when` of the fault is due in it, empty for none. Raises the fault's OSError."""
        if self._full_left:
            self._full_left -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fault = self.fault
        if fault is None or operation != fault.operation:
            return ""
        self._count += 1
        if self._count != fault.nth:
            return ""
        if fault.how == "kill":
            return fault.when
        self._tell({"fault": f"{operation} {fault.how}"})
        if fault.how == "full":
            self._full_left = FULL_FOR
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def end(self, step: "_Step") -> None:
        """The operation is over: the last moment to die in it."""
        if step.when in ("after", "half"):
            die(self._tell, step)

    def told(self, line: dict[str, Any]) -> None:
        """For the parent."""
        self._tell(line)


class _Step:
    """One operation, with the death before or after it."""

    def __init__(self, disk: DeadlyDisk, operation: str) -> None:
        self.operation = operation
        self._disk = disk
        self.when = disk.begin(operation)
        if self.when == "before":
            die(disk.told, self)

    def __enter__(self) -> "_Step":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._disk.end(self)


def die(tell: Callable[[dict[str, Any]], None], step: _Step) -> NoReturn:
    """By SIGKILL: nothing of the process runs after it."""
    tell({"fault": f"{step.operation} {step.when}"})
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process outlived SIGKILL")
