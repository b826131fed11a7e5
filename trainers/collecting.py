"""Files that a command has left in its folder, found by patterns and read without being led out of it.

Whoever ran there may have left anything: links, pipes, files that change. So no link is followed, in no part of a path; only
plain files count; and whoever fetches a file compares its digest with the one that was told.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainers.globs import matching

MAX_FILES: Final = 10_000
MAX_BYTES: Final = 64 << 30
PIECE_BYTES: Final = 4 << 20
_NO_LINK: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Found:
    """One file: its path from the folder, with slashes; SHA-256 and length of its content; whether it is a program."""

    path: str
    digest: str
    bytes: int
    executable: bool


@dataclass(frozen=True, slots=True)
class Collection:
    """What the patterns mean: `files` by path, patterns that mean nothing, and how many files were over the limits or
    could not be read.
    """

    files: tuple[Found, ...]
    unmatched: tuple[str, ...]
    left_out: int


def collect(
    folder: Path, patterns: Sequence[str], *, most_files: int = MAX_FILES, most_bytes: int = MAX_BYTES
) -> Collection:
    """Find and hash the plain files below `folder` that the patterns mean, the first ones by name up to the limits. Links,
    what is no file, and files whose names cannot be told are counted as left out.
    """
    wanted, met, others = [], set(), list[str]()
    for path, status in plain_files(folder, others.append, others.append):
        hits = matching(patterns, path)
        met.update(hits)
        if hits:
            wanted.append((path, status.st_size))
    wanted.sort()
    found: list[Found] = []
    total = 0
    for path, size in wanted:
        if len(found) >= most_files or total + size > most_bytes:
            continue
        try:
            found.append(_hashed(folder, path))
        except OSError:  # gone, or not for us
            continue
        total += found[-1].bytes
    missed = [hits for path in others if (hits := matching(patterns, path))]
    met.update(*missed)
    unmatched = tuple(pattern for pattern in patterns if pattern not in met)
    left_out = len(wanted) - len(found) + len(missed)
    return Collection(tuple(found), unmatched, left_out)


def read_piece(folder: Path, path: str, offset: int, size: int) -> bytes:
    """Bytes `offset` to `offset + size` of a file below the folder, fewer at its end. Raises OSError, also for a link."""
    descriptor = open_below(folder, path)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


def plain_files(
    folder: Path, unnameable: Callable[[str], object] = lambda _: None, special: Callable[[str], object] = lambda _: None
) -> Iterator[tuple[str, os.stat_result]]:
    """Path and status of all plain files below the folder whose names can be told; `unnameable` hears of the others, and
    `special` of links and of what is neither file nor folder.
    """
    for here, folders, names in os.walk(folder, followlinks=False):
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        folders[:] = [name for name in folders if name not in links]
        for name in links:
            special(os.path.relpath(os.path.join(here, name), folder))
        for name in names:
            whole = os.path.join(here, name)
            path = os.path.relpath(whole, folder)
            try:
                status = os.lstat(whole)
            except OSError:
                continue
            if not stat.S_ISREG(status.st_mode):
                special(path)
                continue
            if path.isprintable() and "\\" not in path:  # what is no UTF-8 has surrogates, which are not printable
                yield path, status
            else:
                unnameable(path)


def _hashed(folder: Path, path: str) -> Found:
    descriptor = open_below(folder, path)
    try:
        digest, size = digest_below(descriptor)
        executable = bool(os.fstat(descriptor).st_mode & stat.S_IXUSR)
    finally:
        os.close(descriptor)
    return Found(path, digest, size, executable)


def digest_below(descriptor: int) -> tuple[str, int]:
    """SHA-256 and length of an open file, from its beginning."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def open_below(folder: Path, path: str) -> int:
    """Open a plain file, name by name, so that none of them can be a link. Raises OSError."""
    names = path.split("/")
    if not all(name not in ("", ".", "..") for name in names):
        raise OSError(f"{path!r} does not stay in its folder")
    here = os.open(folder, _NO_LINK | os.O_DIRECTORY)
    try:
        for name in names[:-1]:
            inner = os.open(name, _NO_LINK | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = inner
        descriptor = os.open(names[-1], _NO_LINK, dir_fd=here)
    finally:
        os.close(here)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path!r} is no plain file")
    return descriptor
