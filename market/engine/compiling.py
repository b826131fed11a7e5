"""`@compiled`: numba, with a cache on disk that is out of date as soon as any file of loops has changed; `@inner` for what
only other loops call.

numba's own cache looks at the file of the outermost function only; what that calls is compiled into it, so an edit of another
file would leave stale code. So the cache of each state of the files has a folder of its own (NUMBA_CACHE_DIR), named by
their digest. Inner functions have no cache and no door to Python, which is a third of what compiling takes.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
FOLDER: Final = Path(__file__).parent
LOOPS: Final = ("compiling.py", "seats.py", "sitting.py", "pricing.py", "improving.py", "removing.py", "resuming.py")
"""The files whose functions are compiled; a test compares it with what the files say."""


def stamp(folder: Path = FOLDER) -> str:
    """The digest of the files of loops."""
    found = sha256()
    for name in LOOPS:
        found.update((folder / name).read_bytes() + b"\0")
    return found.hexdigest()[:16]


def cache_folder(roots: tuple[Path, ...], name: str) -> Path | None:
    """A folder of this name in the first of `roots` that can be written; those of older loops there are removed."""
    for root in roots:
        made = root / f"torg-loops-{name}"
        try:
            made.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(made, os.W_OK):
            for other in root.glob("torg-loops-*"):
                if other != made:
                    shutil.rmtree(other, ignore_errors=True)
            return made
    return None


if TYPE_CHECKING:

    def compiled(function: F) -> F: ...

    def inner(function: F) -> F: ...

else:
    import numba

    _OPTIONS = {"nogil": True, "error_model": "numpy"}  # no checks for a division by zero
    _ROOTS = (
        (Path(numba.config.CACHE_DIR),) if numba.config.CACHE_DIR else (FOLDER / "__pycache__", Path.home() / ".cache")
    )
    _CACHE = cache_folder(_ROOTS, stamp())

    @contextmanager
    def _cached_there() -> Iterator[None]:
        """numba asks for NUMBA_CACHE_DIR when a function is decorated."""
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(_CACHE)
        try:
            yield
        finally:
            numba.config.CACHE_DIR = before

    @contextmanager
    def _without(*names: str) -> Iterator[None]:
        """These modules cannot be imported meanwhile, where they have not been."""
        new = [name for name in names if name not in sys.modules]
        sys.modules.update(dict.fromkeys(new))
        try:
            yield
        finally:
            for name in new:
                del sys.modules[name]

    # numba looks for a BLAS for convolutions and for C functions to call: 0.3 s, and the loops have neither.
    with _without("scipy.linalg.cython_blas", "cffi"):
        import numba.core.typing.cffi_utils
        import numba.np.arraymath

    def compiled(function):
        if _CACHE is None:
            return numba.njit(**_OPTIONS)(function)
        with _cached_there():
            return numba.njit(cache=True, **_OPTIONS)(function)

    def inner(function):
        return numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)
