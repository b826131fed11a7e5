"""The loops of `int8` and of the DCT that numpy takes many passes for, compiled by numba where it is installed.

numba is optional (`torg[engine]`). The compiled loops give the bits that numpy's passes give (tests/trainers/
test_codecs.py holds them together), so members with and without it agree. They are compiled once per machine: numba
keeps the code beside this file, or in the user's cache folder where that cannot be written, and makes it anew when this
file, numba or the processor changes. Without any such folder it is compiled in each process. They hold no lock of the
interpreter while they run.

Nothing here is loaded until somebody calls `warm_up`, where a wait is harmless: it takes 2.5 CPU-seconds and 140 MB.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

ZERO_POINT = 128
STRIP = 64  # columns transformed at a time: 64 rows of them fill half of a first-level cache
LOADING_NS = 2.5e9  # CPU time of a load from the cache, nearly all of it numba's import


@dataclass(frozen=True, slots=True)
class Kernels:
    """Compiled loops; arrays are contiguous.

    quantise(chunk float32 [n], inverse width float32, step float64, indices uint8 [n], sums float64 [256]): each
    value's bin, and for each bin the sum of its values plus `step` each, in order.
    look_up(codebook float32 [256], indices uint8 [n], values float32 [n]): values[i] = codebook[indices[i]].
    transform(values float32 [outer · N · inner], inner, the fields of `lee.Steps`): the middle axis transformed in
    place.
    """

    quantise: Callable[[Any, Any, float, Any, Any], None]
    look_up: Callable[[Any, Any, Any], None]
    transform: Callable[..., None]


_ready: list[Kernels] = []
_forgone_ns = [0.0]


def kernels(spared_ns: float) -> Kernels | None:
    """The loops, if this process has warmed up; else counts that they would have spared it that much."""
    if _ready:
        return _ready[0]
    _forgone_ns[0] += spared_ns
    return None


def worth_loading() -> bool:
    """Whether this process has lost, by not having the loops, what loading them costs.

    Whoever waits just so long before buying never pays more than twice what would have been best, however long the job
    turns out to be; it needs no guess of rounds, members or codecs, and small models never come to it.
    """
    return not _ready and _forgone_ns[0] >= LOADING_NS


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
            loop: Callable[..., None] = numba.njit(signature, cache=True, nogil=True)(function)
        except RuntimeError:  # no folder for the cache
            loop = numba.njit(signature, nogil=True)(function)
        return loop

    reals, matrix = numba.float32[::1], numba.float32[:, ::1]
    whole, wholes = numba.uint32[::1], numba.uint32[:, ::1]
    boolean, integer = numba.boolean, numba.int64

    return Kernels(
        compiled(_quantise, singles, numba.float32, numba.float64, numba.uint8[::1], numba.float64[::1]),
        compiled(_look_up, singles, octets, reals),
        compiled(
            _transform, reals, integer, boolean, whole, reals, wholes, reals, wholes, matrix, wholes, whole, reals
        ),
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


def _transform(
    values: Any, inner: int, backward: bool, entry: Any, gains: Any, halves: Any, factors: Any, odd: Any, matrix: Any,
    sums: Any, leave: Any, norms: Any,
) -> None:  # fmt: skip
    edge, length = entry.size, odd.shape[1]
    columns = values.size // edge
    starts = np.empty(STRIP, dtype=np.int64)
    rows, spare = np.zeros((edge, STRIP), dtype=np.float32), np.empty((length, STRIP), dtype=np.float32)
    for first in range(0, columns, STRIP):
        aligned, width = inner % STRIP == 0, min(STRIP, columns - first)
        start = first // inner * edge * inner + first % inner
        for place in range(edge if aligned else 0):
            part, row = values[start + place * inner : start + place * inner + STRIP], rows[entry[place]]
            for column in range(STRIP):
                row[column] = part[column] * gains[place]
        for column in range(0 if aligned else width):
            starts[column] = (first + column) // inner * edge * inner + (first + column) % inner
        for place in range(0 if aligned else edge):
            row, gain = rows[entry[place]], gains[place]
            for column in range(width):
                row[column] = values[starts[column] + place * inner] * gain
        for step in range(len(sums) if backward else 0):
            one, two = rows[sums[step, 0]], rows[sums[step, 1]]
            for column in range(STRIP):
                one[column] += two[column]
        for step in range(0 if backward else len(halves)):
            one, two, factor = rows[halves[step, 0]], rows[halves[step, 1]], factors[step]
            for column in range(STRIP):
                a, b = one[column], two[column]
                one[column], two[column] = a + b, (a - b) * factor
        for block in range(len(odd) if length > 1 else 0):
            for to in range(length):
                one, two, factor = spare[to], rows[odd[block, 0]], matrix[to, 0]
                for column in range(STRIP):
                    one[column] = two[column] * factor
                for place in range(1, length):
                    two, factor = rows[odd[block, place]], matrix[to, place]
                    for column in range(STRIP):
                        one[column] += two[column] * factor
            for to in range(length):
                rows[odd[block, to]] = spare[to]
        for step in range(0 if backward else len(sums)):
            one, two = rows[sums[step, 0]], rows[sums[step, 1]]
            for column in range(STRIP):
                one[column] += two[column]
        for step in range(len(halves) if backward else 0):
            one, two, factor = rows[halves[step, 0]], rows[halves[step, 1]], factors[step]
            for column in range(STRIP):
                a, b = one[column], two[column] * factor
                one[column], two[column] = a + b, a - b
        start = first // inner * edge * inner + first % inner
        for place in range(edge if aligned else 0):
            part, row = values[start + place * inner : start + place * inner + STRIP], rows[leave[place]]
            for column in range(STRIP):
                part[column] = row[column] * norms[place]
        for place in range(0 if aligned else edge):
            row, gain = rows[leave[place]], norms[place]
            for column in range(width):
                values[starts[column] + place * inner] = row[column] * gain
