"""Orthonormal DCT-II of the blocks of each tensor, as DeMo transforms (arXiv 2411.19870), and its inverse.

A block's edge in each dimension is the largest divisor of that dimension up to the codec's EDGE. Coefficients lie
tensor after tensor, block after block, row-major in a block.

The transform is Lee's recursion (IEEE Trans. ASSP 32, 1984, 1243–1245): halves of even lengths, a sum in ascending order
for odd ones, over whole arrays of blocks. It uses single additions and multiplications only, no matrix product, whose
order of additions is the machine's: every receiver gets the same bits.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainers.codecs.base import Vector
from trainers.layout import Layout

Blocks: TypeAlias = NDArray[np.float32]

PADDING = 16  # one line of the cache
BATCH = 1 << 15  # elements transformed at a time, so that what lies between passes stays in the cache


class Dct:
    """The transform of vectors of one layout."""

    def __init__(self, layout: Layout, edge: int) -> None:
        self._tensors = [_Tiling(one.offset, one.shape, edge) for one in layout if one.size]

    def forward(self, vector: Vector) -> Vector:
        """Float32 [n] -> its coefficients [n]; not finite where they overflow."""
        coefficients = np.empty(vector.size, dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for tiling in self._tensors:
                for elements, blocks in tiling.batches(vector, coefficients):
                    np.copyto(blocks, tiling.transformed(elements, _forward))
        return coefficients

    def inverse(self, coefficients: Vector) -> Vector:
        """Float32 [n] -> the vector [n]; not finite where it overflows."""
        vector = np.empty(coefficients.size, dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for tiling in self._tensors:
                for elements, blocks in tiling.batches(vector, coefficients):
                    np.copyto(elements, tiling.transformed(blocks, _inverse))
        return vector


class _Tiling:
    """One tensor cut into blocks. Views of its elements and of its coefficients have the axes of a block first."""

    def __init__(self, offset: int, shape: Sequence[int], edge: int) -> None:
        self._edges = tuple(largest_divisor(one, edge) for one in shape)
        self._counts = tuple(one // block for one, block in zip(shape, self._edges, strict=True))
        self._offset = offset

    def batches(self, vector: Vector, coefficients: Vector) -> list[tuple[Blocks, Blocks]]:
        """Views [*edges, *counts] of the same blocks in both flat vectors, some blocks at a time."""
        size, dimensions = math.prod(self._edges) * math.prod(self._counts), len(self._edges)
        inside = slice(self._offset, self._offset + size)
        woven = [one for pair in zip(self._counts, self._edges, strict=True) for one in pair]
        axes = [*range(1, 2 * dimensions, 2), *range(0, 2 * dimensions, 2)]
        elements = vector[inside].reshape(woven).transpose(axes)
        axes = [*range(dimensions, 2 * dimensions), *range(dimensions)]
        blocks = coefficients[inside].reshape((*self._counts, *self._edges)).transpose(axes)
        if not dimensions:
            return [(elements, blocks)]
        rows = max(1, BATCH * self._counts[0] // size)
        parts = [
            (slice(None),) * dimensions + (slice(first, first + rows),) for first in range(0, self._counts[0], rows)
        ]
        return [(elements[part], blocks[part]) for part in parts]

    def transformed(self, values: Blocks, transform: Callable[[Blocks], Blocks]) -> Blocks:
        """Float32 [*edges, *counts], each axis of the blocks transformed in ascending order."""
        for axis, edge in enumerate(self._edges):
            if edge > 1:
                # the axis first, the others as they lie in memory
                others = sorted(set(range(values.ndim)) - {axis}, key=lambda one: -abs(values.strides[one]))
                moved = values.transpose(axis, *others)
                flat = _room(1, edge, moved.size // edge)
                np.copyto(flat[0].reshape(moved.shape), moved)
                values = transform(flat).reshape(moved.shape).transpose(np.argsort([axis, *others]))
        return values


def largest_divisor(size: int, most: int) -> int:
    """The largest divisor of `size` that is at most `most`."""
    return next(divisor for divisor in range(min(size, most), 0, -1) if size % divisor == 0)


def _forward(parts: Blocks) -> Blocks:
    """Orthonormal DCT-II along axis 1 of [1, N, m], which is used up: y_k = norm_k Σ_n x_n cos(π (2n + 1) k / 2N).

    All parts of a level are worked on at once, as [parts, length, m]: halved until lengths are odd, then interleaved.
    """
    while parts.shape[1] % 2 == 0:
        count, size, width = parts.shape
        halves = _room(2 * count, size // 2, width).reshape(count, 2, size // 2, width)
        first, last = parts[:, : size // 2], parts[:, : size // 2 - 1 : -1]
        np.add(first, last, out=halves[:, 0])
        np.subtract(first, last, out=halves[:, 1])
        halves[:, 1] *= _secants(size)
        parts = halves.reshape(2 * count, size // 2, width)
    if parts.shape[1] > 1:
        parts = _product(_table(parts.shape[1]), parts)
    while len(parts) > 1:
        count, size, width = len(parts) // 2, 2 * parts.shape[1], parts.shape[2]
        halves, parts = parts.reshape(count, 2, size // 2, width), _room(count, size, width)
        parts[:, ::2] = halves[:, 0]
        np.add(halves[:, 1, :-1], halves[:, 1, 1:], out=parts[:, 1:-1:2])
        parts[:, -1] = halves[:, 1, -1]
    whole: Blocks = parts[0]
    whole *= _norms(len(whole))
    return whole


def _inverse(parts: Blocks) -> Blocks:
    """Its inverse, the orthonormal DCT-III: x_n = Σ_k norm_k y_k cos(π (2n + 1) k / 2N)."""
    parts *= _norms(parts.shape[1])
    while parts.shape[1] % 2 == 0:
        count, size, width = parts.shape
        halves = _room(2 * count, size // 2, width).reshape(count, 2, size // 2, width)
        halves[:, 0] = parts[:, ::2]
        halves[:, 1, 0] = parts[:, 1]
        np.add(parts[:, 1:-1:2], parts[:, 3::2], out=halves[:, 1, 1:])
        parts = halves.reshape(2 * count, size // 2, width)
    if parts.shape[1] > 1:
        parts = _product(_table(parts.shape[1]).T, parts)
    while len(parts) > 1:
        count, size, width = len(parts) // 2, 2 * parts.shape[1], parts.shape[2]
        halves, parts = parts.reshape(count, 2, size // 2, width), _room(count, size, width)
        halves[:, 1] *= _secants(size)
        np.add(halves[:, 0], halves[:, 1], out=parts[:, : size // 2])
        np.subtract(halves[:, 0], halves[:, 1], out=parts[:, : size // 2 - 1 : -1])
    whole: Blocks = parts[0]
    return whole


def _room(count: int, size: int, width: int) -> Blocks:
    """Unset float32 [count, size, width], rows apart by no power of two: those would share few lines of the cache."""
    return np.empty((count, size, width + PADDING), dtype=np.float32)[:, :, :width]


def _product(matrix: Blocks, parts: Blocks) -> Blocks:
    """Matrix [k, n] times each of [parts, n, m], added up in ascending order of n."""
    columns = matrix.T[:, None, :, None]
    total: Blocks = columns[0] * parts[:, :1]
    for place in range(1, len(columns)):
        total += columns[place] * parts[:, place : place + 1]
    return total


@cache
def _table(size: int) -> Blocks:
    """cos(π (2n + 1) k / 2N) as [k, n]."""
    rows = [[math.cos(math.pi * ((2 * n + 1) * k % (4 * size)) / (2 * size)) for n in range(size)] for k in range(size)]
    return np.array(rows, dtype=np.float32)


@cache
def _secants(size: int) -> Blocks:
    """1 / (2 cos(π (2n + 1) / 2N)) for the first half of n, as [n, 1]."""
    return np.array([[0.5 / math.cos(math.pi * (2 * n + 1) / (2 * size))] for n in range(size // 2)], dtype=np.float32)


@cache
def _norms(size: int) -> Blocks:
    """√(2/N), and √(1/N) for the first, as [k, 1]."""
    return np.array([[math.sqrt((1 if k == 0 else 2) / size)] for k in range(size)], dtype=np.float32)
