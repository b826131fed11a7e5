"""A job's data as one deterministic tar, and back: the same files give the same bytes, so the same digest.

The tar holds regular files only, sorted by name, with zero times and owners and mode 0644. Reading one back writes
nothing outside its folder: no links, no devices, no absolute names, no `..`, and no more bytes than allowed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

STDLIB_BYTES: Final = 8 * 2**20
MAX_DATA_BYTES: Final = 64 * 2**30
MAX_FILES: Final = 1_000_000
_CHUNK: Final = 2**20
_STDLIB_SKIPS: Final = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
)


class PackingError(ValueError):
    """Data that cannot be packed or unpacked; the text says which file and why."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A tar on disk: SHA-256 of its bytes, their number, and what it was made from, for people."""

    path: Path
    digest: str
    bytes: int
    label: str
    files: int


def pack(source: Path, target: Path) -> Packed:
    """Pack a file or a folder into the new tar `target`.

    Raises PackingError for a missing path, an empty one, one that holds something else than files and folders (links
    are refused, not followed), or one that is too large.
    """
    if not source.exists():
        raise PackingError(f"{source} does not exist")
    files = [(source.name, source)] if source.is_file() else sorted(_walk(source))
    size = sum(path.stat().st_size for _, path in files)
    if not files or size == 0:
        raise PackingError(f"{source} is empty")
    if size > MAX_DATA_BYTES or len(files) > MAX_FILES:
        raise PackingError(
            f"{source} has {len(files)} files and {size} bytes; the limit is {MAX_FILES} and {MAX_DATA_BYTES}"
        )
    with target.open("xb") as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in files:
            with path.open("rb") as content:
                _add(archive, name, os.fstat(content.fileno()).st_size, content)
    return _measure(target, source.name, len(files))


def pack_stdlib(target: Path, root: Path | None = None) -> Packed:
    """Pack the Python standard library's source text (or the folder `root`'s) as one file, at most 8 MiB of it.

    Files are taken in the order of their names and cut at the limit; site-packages and tests are left out.
    """
    folder = root or Path(sysconfig.get_paths()["stdlib"])
    text = BytesIO()
    for path in sorted(_sources(folder), key=lambda path: path.relative_to(folder).as_posix()):
        text.write(path.read_bytes()[: STDLIB_BYTES - text.tell()])
        if text.tell() >= STDLIB_BYTES:
            break
    size = text.tell()
    if not size:
        raise PackingError(f"{folder} holds no Python files; name a folder of your own as data")
    text.seek(0)
    with target.open("xb") as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "stdlib.txt", size, text)
    return _measure(target, "stdlib", 1)


def unpack(archive: BinaryIO, folder: Path, most_bytes: int = MAX_DATA_BYTES) -> int:
    """Write the tar's files into the folder, which is made; the number of files. Raises PackingError at the first entry
    that is not a plain file inside it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = size = 0
    try:
        with tarfile.open(fileobj=archive, mode="r:") as entries:
            for entry in entries:
                name = _safe_name(entry)
                size += entry.size
                files += 1
                if size > most_bytes or files > MAX_FILES:
                    raise PackingError(f"the data are larger than {most_bytes} bytes or {MAX_FILES} files")
                content = entries.extractfile(entry)
                assert content is not None
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as out:
                    while chunk := content.read(_CHUNK):
                        out.write(chunk)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, FileExistsError | NotADirectoryError):
            raise
        raise PackingError(f"the data are not a tar as we make them: {error}") from error
    return files


def _safe_name(entry: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(entry.name)
    if not entry.isreg() or entry.sparse is not None:
        raise PackingError(f"{entry.name!r} is not a regular file")
    if name.is_absolute() or not name.parts or ".." in name.parts or "\0" in entry.name or "\\" in entry.name:
        raise PackingError(f"{entry.name!r} is not a name inside the folder")
    return name


def _sources(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _STDLIB_SKIPS]
        yield from (path for name in names if name.endswith(".py") and (path := Path(here, name)).is_file())


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise PackingError(f"{path} is no regular file; links and devices are not packed")
        yield path.relative_to(folder).as_posix(), path


def _add(archive: tarfile.TarFile, name: str, size: int, content: BinaryIO) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o644, 0
    archive.addfile(entry, content)


def _measure(target: Path, label: str, files: int) -> Packed:
    with target.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return Packed(target, digest, target.stat().st_size, label, files)
