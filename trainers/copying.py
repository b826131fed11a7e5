"""Files and folders as a tar over a session: `python -m trainers.copying put|get PATH` inside, the same functions outside.

A stream is one line of JSON, {name, folder, files, bytes}, and a tar in POSIX form; its last entry is called `/end`, so that
a stream that was cut off is known. Whoever unpacks believes nothing: only plain files, folders and links that stay in the
folder, written beside the target under another name, which becomes the target when all is there. Imports no torch.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import stat
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

END = "/end"
MAX_HEAD_BYTES = 64 << 10
CHUNK_BYTES = 1 << 20
MAX_FILES = 1_000_000
Progress = Callable[[int], object]


class CopyError(Exception):
    """It cannot be copied; the text says what and why."""


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Sums:
    """What was copied. `left_out`: links that lead out of the folder, and what is neither file, folder nor link."""

    files: int
    bytes: int
    left_out: int = 0


def pack(path: Path, out: IO[bytes], name: str = "") -> Sums:
    """Write a stream of the file or folder at `path`. Raises CopyError, OSError."""
    try:
        top = path.stat()
    except OSError as error:
        raise CopyError(f"{path}: {error.strerror}") from None
    folder = stat.S_ISDIR(top.st_mode)
    if not folder and not stat.S_ISREG(top.st_mode):
        raise CopyError(f"{path} is neither a file nor a folder")
    entries = list(_below(path)) if folder else [("file", path)]
    taken = [(one, file) for one, file in entries if _kind(one, file) is not None]
    sums = Sums(
        files=sum(_kind(*one) == "file" for one in taken) if folder else 1,
        bytes=sum(file.lstat().st_size for one, file in taken if _kind(one, file) == "file") if folder else top.st_size,
        left_out=len(entries) - len(taken) if folder else 0,
    )
    head = {"name": name or path.resolve().name, "folder": folder, "files": sums.files, "bytes": sums.bytes, "left_out": sums.left_out}
    out.write(json.dumps(head).encode() + b"\n")
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, dereference=not folder) as tar:
        for one, file in taken:
            info = _entry(tar, one, file)
            if info.isreg():
                with file.open("rb") as content:
                    tar.addfile(info, content)
            else:
                tar.addfile(info)
        tar.addfile(tarfile.TarInfo(END))
    return sums


def _entry(tar: tarfile.TarFile, name: str, file: Path) -> tarfile.TarInfo:
    info = tar.gettarinfo(str(file), arcname=name)
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    if info.type == tarfile.LNKTYPE:  # a second name of a file that went before
        info.type, info.linkname, info.size = tarfile.REGTYPE, "", file.stat().st_size
    return info


def _below(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(folders) + sorted(files):
            found = Path(place, name)
            yield found.relative_to(folder).as_posix(), found


def _kind(name: str, file: Path) -> str | None:
    mode = file.lstat().st_mode if name != "file" else file.stat().st_mode
    if stat.S_ISLNK(mode):
        return "link" if _stays(name, os.readlink(file)) else None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else None


def _stays(name: str, target: str) -> bool:
    """Whether a link called `name` leads to somewhere in its folder."""
    if not target or target.startswith("/"):
        return False
    depth = len(PurePosixPath(name).parts) - 1
    for part in PurePosixPath(target).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return False
    return True


class Stream:
    """A stream that comes: its `head` first. Raises CopyError where there is none."""

    def __init__(self, source: Source, moved: Progress = lambda size: None) -> None:
        self._source, self.moved = source, moved
        line = b""
        while not line.endswith(b"\n"):
            byte = source.read(1)
            if not byte or len(line) > MAX_HEAD_BYTES:
                raise CopyError("nothing came")
            line += byte
        try:
            head = json.loads(line)
            self.name, self.folder = str(head["name"]), head["folder"] is True
            self.sums = Sums(int(head["files"]), int(head["bytes"]), int(head["left_out"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CopyError("what came is no copy") from None

    def unpack(self, target: str) -> tuple[Path, Sums]:
        """Write it to `target`, or into it where that is a folder; where it is then, and what it was. Raises CopyError,
        OSError; nothing is left under the final name then.
        """
        final = self._final(target)
        beside = final.parent / f".torg-copy-{secrets.token_hex(6)}"
        try:
            sums = self._write(beside)
            if self.folder and final.exists():
                raise CopyError(f"{final} is there already: remove it or name another target")
            os.replace(beside, final)
        except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
            raise CopyError(f"what came is no copy: {error}") from None
        finally:
            if beside.is_dir() and not beside.is_symlink():
                shutil.rmtree(beside, ignore_errors=True)
            else:
                beside.unlink(missing_ok=True)
        return final, sums

    def _final(self, target: str) -> Path:
        path = Path(target)
        if path.is_dir():
            if self.name in ("", ".", "..") or "/" in self.name or "\0" in self.name:
                raise CopyError(f"{self.name!r} is no name for a file")
            path = path / self.name
        elif target.endswith("/"):
            raise CopyError(f"there is no folder {target}")
        elif not path.parent.is_dir():
            raise CopyError(f"there is no folder {path.parent}")
        if path.is_dir() and not self.folder:
            raise CopyError(f"{path} is a folder, and a file was to be written there")
        if self.folder and os.path.lexists(path):
            raise CopyError(f"{path} is there already: remove it or name another target")
        return path

    def _write(self, beside: Path) -> Sums:
        if self.folder:
            beside.mkdir(mode=0o755)
        links: list[tuple[Path, str]] = []
        folders: list[tuple[Path, int]] = []
        files = size = 0
        ended = False
        with tarfile.open(fileobj=_Reads(self._source), mode="r|") as entries:  # type: ignore[call-overload]
            for number, entry in enumerate(entries):
                if entry.name == END or number > MAX_FILES:
                    ended = entry.name == END
                    break
                path = beside if not self.folder else beside / _safe_name(entry)
                if not self.folder and (files or not entry.isreg()):
                    raise CopyError("more came than one file")
                if entry.isreg() and entry.sparse is None:
                    files, size = files + 1, size + entry.size
                    self._write_file(entries, entry, path)
                elif entry.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                    folders.append((path, entry.mode))
                elif entry.issym() and _stays(entry.name, entry.linkname):
                    links.append((path, entry.linkname))
                else:
                    raise CopyError(f"{entry.name!r} is neither a file, a folder nor a link that stays inside")
        if not ended:
            raise CopyError("it was cut off")
        for path, linkname in links:  # last, so that nothing is written through one
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(linkname)
        for path, mode in reversed(folders):
            path.chmod((mode & 0o777) | 0o700)
        return Sums(files, size, self.sums.left_out)

    def _write_file(self, entries: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
        content = entries.extractfile(entry)
        assert content is not None, "a regular file has content"
        path.parent.mkdir(parents=True, exist_ok=True)
        left = entry.size
        with path.open("xb") as out:
            while chunk := content.read(CHUNK_BYTES):
                out.write(chunk)
                left -= len(chunk)
                self.moved(len(chunk))
        if left:
            raise CopyError("it was cut off")
        path.chmod((entry.mode & 0o777) | 0o600)


class _Reads:
    """Whole reads of a source that gives what it has."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, size: int) -> bytes:
        found = b""
        while len(found) < size and (piece := self._source.read(size - len(found))):
            found += piece
        return found


def _safe_name(entry: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(entry.name)
    if name.is_absolute() or not name.parts or ".." in name.parts or "\0" in entry.name:
        raise CopyError(f"{entry.name!r} is not a name inside the folder")
    return name


def main(arguments: list[str]) -> int:
    """Inside: put takes a stream from stdin and says what was written as JSON; get writes one to stdout."""
    kind, path = arguments
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # what is half written goes
    try:
        if kind == "get":
            pack(Path(path), sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            final, sums = Stream(sys.stdin.buffer).unpack(path)
            told: dict[str, Any] = {"path": str(final), "files": sums.files, "bytes": sums.bytes, "left_out": sums.left_out}
            print(json.dumps(told))  # noqa: T201  that is how it answers
    except CopyError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename or path}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
