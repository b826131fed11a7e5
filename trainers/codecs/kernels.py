"""The two loops of `int8` that numpy takes several passes for, compiled by numba where it is installed.

numba is optional (`torg[engine]`). The compiled loops give the bits that numpy's passes give (tests/trainers/
test_codecs.py holds them together), so members with and without it agree. They are compiled once per machine: numba
keeps the code beside this file, or in the user's cache folder where that cannot be written, and makes it anew when this
file, numba or the processor changes. Without any such folder it is compiled in each process, in about two seconds.

Nothing here is loaded until somebody calls `warm_up`, where a wait is harmless: importing numba takes about a second.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

ZERO_POINT = 128


@dataclass(frozen=True, slots=True)
class Kernels:
    """Compiled loops; arrays are contiguous.

    quantise(chunk float32 [n], inverse width float32, step float64, indices uint8 [n], sums float64 [256]): each
    value's bin, and for each bin the sum of its values plus `step` each, in order.
    look_up(codebook float32 [256], indices uint8 [n], values float32 [n]): values[i] = codebook[indices[i]].
    """

    quantise: Callable[[Any, Any, float, Any, Any], None]
    look_up: Callable[[Any, Any, Any], None]


_ready: list[Kernels] = []


def kernels() -> Kernels | None:
    """The loops, if this process has warmed up."""
    return _ready[0] if _ready else None


def warm_up() -> bool:
    """Load or compile the loops for this process; False where numba is not installed, which costs speed only."""
    if not _ready and importlib.util.find_spec("numba") is not None:
        _ready.append(_compiled())
    return bool(_ready)


def _compiled() -> Kernels:
    import numba

    singles, octets = (numba.types.Array(kind, 1, "C", readonly=True) for kind in (numba.float32, numba.uint8))

    def compiled(function: Callable[..., None], *types: Any) -> Callable[..., None]:
        signature = numba.void(*types)
        try:
            loop: Callable[..., None] = numba.njit(signature, cache=True)(function)
        except RuntimeError:  # no folder for the cache
            loop = numba.njit(signature)(function)
        return loop

    return Kernels(
        compiled(_quantise, singles, numba.float32, numba.float64, numba.uint8[::1], numba.float64[::1]),
        compiled(_look_up, singles, octets, numba.float32[::1]),
    )


def _quantise(chunk: Any, inverse: Any, step: float, indices: Any, sums: Any) -> None:
    for place in range(chunk.size):
        whole = np.rint(chunk[place] * inverse)
        whole = max(min(whole, np.float32(255 - ZERO_POINT)), np.float32(-ZERO_POINT))
        indices[place] = np.uint8(np.int32(whole) + ZERO_POINT)
    for place in range(chunk.size):
        sums[indices[place]] += np.float64(chunk[place]) + step


def _look_up(codebook: Any, indices: Any, values: Any) -> None:
    for place in range(indices.size):
        values[place] = codebook[indices[place]]
