"""`@compiled`: numba, with a cache on disk that is out of date as soon as any file of loops has changed.

numba's own cache looks at the file of the outermost function only; what that calls is compiled into it, so an edit of another
file would leave stale code. Here the stamp of a cached function is that of all files of loops together.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
LOOPS = ("compiling.py", "seats.py", "sitting.py", "pricing.py", "improving.py", "removing.py", "resuming.py")
"""The files whose functions are compiled; a test compares it with what the files say."""


def stamp(folder: Path = Path(__file__).parent) -> tuple[tuple[float, int], ...]:
    """(time of change, bytes) of each file of loops."""
    found = [(folder / name).stat() for name in LOOPS]
    return tuple((one.st_mtime, one.st_size) for one in found)


if TYPE_CHECKING:

    def compiled(function: F) -> F: ...

else:
    import numba

    _STAMP = stamp()
    _OPTIONS = {"nogil": True, "error_model": "numpy"}  # no checks for a division by zero

    def compiled(function):
        try:
            made = numba.njit(cache=True, **_OPTIONS)(function)
        except RuntimeError:  # no folder for the cache
            return numba.njit(**_OPTIONS)(function)
        made._cache._cache_file._source_stamp = _STAMP
        return made
