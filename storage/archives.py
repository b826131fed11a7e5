"""Reads a job's data, a tar that somebody else made: writes nothing outside its folder and no more than allowed.

Refused are links, devices, sparse files (a few bytes that unpack to any size), absolute names, `..`, and a name twice.
"""

from __future__ import annotations

import errno
import io
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

MAX_DATA_BYTES: Final = 2 * 2**30
MAX_FILES: Final = 1_000_000
_CHUNK: Final = 2**20
# What the tar's own names bring about; any other failure to write is the machine's, not the tar's.
_NAMES_FAULT: Final = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL})


Content = bytes | memoryview


class PackingError(ValueError):
    """Data that cannot be packed or unpacked; the text says which file and why."""


def unpack(
    archive: BinaryIO, folder: Path, most_bytes: int = MAX_DATA_BYTES, *, executables: bool = False
) -> int:  # fmt: skip
    """Write an uncompressed tar's files into the folder, which is made; the number of files. With `executables` those
    that the tar says may be executed may be.

    Raises PackingError at the first entry that is not a plain file inside it, or beyond `most_bytes` in all; what was
    written before stays. OSError: the machine cannot write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files, size, made = 0, 0, {folder}
    try:
        with tarfile.open(fileobj=archive, mode="r:") as entries:
            for entry in entries:
                name = _safe_name(entry)
                size += entry.size
                files += 1
                if size > most_bytes or files > MAX_FILES:
                    raise PackingError(f"the data are larger than {most_bytes} bytes or {MAX_FILES} files")
                target = folder / name
                if target.parent not in made:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    made.add(target.parent)
                _write(entries, entry, target)
                if executables and entry.mode & 0o100:
                    target.chmod(0o755)
    except PackingError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno not in _NAMES_FAULT:
            raise
        raise PackingError(f"the data are not a tar as we make them: {error}") from error
    return files


def reading(content: Content) -> BinaryIO:
    """A file of bytes that are read where they lie: `io.BytesIO` of anything but `bytes` copies all of it first."""
    return io.BufferedReader(_Lying(content), _CHUNK)


class _Lying(io.RawIOBase):
    def __init__(self, content: Content) -> None:
        self._content, self._at = memoryview(content).cast("B"), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any buffer is one, in Python 3.12
        target = memoryview(buffer).cast("B")
        found = self._content[self._at : self._at + len(target)]
        target[: len(found)] = found
        self._at += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._content)}[whence]
        if at < 0:
            raise ValueError(f"negative seek position {at}")
        self._at = at
        return at


def _write(entries: tarfile.TarFile, entry: tarfile.TarInfo, target: Path) -> None:
    content = entries.extractfile(entry)
    assert content is not None, "a regular file has content"
    with target.open("xb") as out:
        while chunk := content.read(_CHUNK):
            out.write(chunk)


def _safe_name(entry: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(entry.name)
    if not entry.isreg() or entry.sparse is not None or entry.size < 0:
        raise PackingError(f"{entry.name!r} is not a regular file")
    if name.is_absolute() or not name.parts or ".." in name.parts or "\0" in entry.name or "\\" in entry.name:
        raise PackingError(f"{entry.name!r} is not a name inside the folder")
    return name
