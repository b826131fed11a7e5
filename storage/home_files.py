"""The small files of a home, which backups and mirrors take: keys, settings, what jobs printed; not what belongs to processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PASSED_BY: Final = frozenset({"journal", "snapshots", "blobs", "books", "run", "logs", "lock", "providers", "moved.json"})
_TRIES: Final = 8


class BackupError(Exception):
    """The backup cannot be made or used; the text says where. `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def whole_small_files(home: Path, *, job_logs: bool = True) -> list[tuple[str, bytes, int]]:
    """All of them as (name, bytes, mode), with a key that opens the secrets beside it: it is renewed before any of them is
    sealed with it. Raises BackupError (busy), OSError."""
    key = home / "secrets.key"
    for _ in range(_TRIES):
        before = key.read_bytes() if key.exists() else b""
        found = list(_read(home, small_file_paths(home, job_logs=job_logs)))
        if before == (key.read_bytes() if key.exists() else b"") or not before:
            return found
    raise BackupError("busy", "the key of secrets is being renewed again and again")


def small_file_paths(home: Path, *, job_logs: bool = True) -> list[Path]:
    """Keys, settings and whatever else lies in the home, perhaps with what jobs printed; not what belongs to processes."""
    tops = [path for path in home.iterdir() if path.name not in _PASSED_BY]
    tops += [home / "logs" / "jobs"] if job_logs else []
    found = sorted(each for top in tops for each in [top, *top.rglob("*")])
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(home).parts)]


def _read(home: Path, paths: list[Path]) -> Iterator[tuple[str, bytes, int]]:
    for path in paths:
        if path.is_symlink() or not path.is_file():
            continue
        try:
            yield path.relative_to(home).as_posix(), path.read_bytes(), path.stat().st_mode & 0o700
        except FileNotFoundError:
            continue  # replaced or removed since it was listed
