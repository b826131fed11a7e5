"""A job's data as one deterministic tar: the same files give the same bytes, so the same digest.

The tar holds regular files only, sorted by name, with zero times and owners and mode 0644. `storage.archives` reads it.
A command's working folder is packed by market/workdirs.py.
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
from pathlib import Path
from typing import BinaryIO, Final

from storage.archives import MAX_DATA_BYTES, MAX_FILES, PackingError, unpack

__all__ = ["STDLIB_BYTES", "Packed", "PackingError", "pack", "pack_stdlib", "unpack"]

STDLIB_BYTES: Final = 8 * 2**20
_STDLIB_SKIPS: Final = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
)


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
                add_file(archive, name, os.fstat(content.fileno()).st_size, content)
    return measure(target, source.name, len(files))


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
        add_file(archive, "stdlib.txt", size, text)
    return measure(target, "stdlib", 1)


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


def add_file(
    archive: tarfile.TarFile, name: str, size: int, content: BinaryIO, *, executable: bool = False
) -> None:  # fmt: skip
    """Append `size` bytes of `content` under that name, as one that may be executed or not."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o755 if executable else 0o644, 0
    archive.addfile(entry, content)


def measure(target: Path, label: str, files: int) -> Packed:
    """A tar that is written: its digest and length."""
    with target.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return Packed(target, digest, target.stat().st_size, label, files)
