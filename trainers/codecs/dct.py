"""Orthonormal DCT-II of the blocks of each tensor, as DeMo transforms (arXiv 2411.19870), and its inverse.

A block's edge in each dimension is the largest divisor of that dimension up to the codec's EDGE. Coefficients lie
tensor after tensor, block after block, row-major in a block.

How a block is transformed is in `lee`; here is how tensors are cut into blocks, and in which pieces that stay in the
cache. With compiled loops a piece is transformed where it lies, axis by axis; numpy wants the axis first and copies.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trainers.codecs.base import Vector
from trainers.codecs.kernels import Kernels, kernels
from trainers.codecs.lee import Blocks, forward, inverse, room, steps
from trainers.layout import Layout

SPARED_NS = 8.5  # what the compiled loop spares an element (docs/BENCHMARKS.md)
PIECE = (
    1 << 18
)  # elements transformed at a time: rows that numpy works on in one go are long, all of them fit the cache


class Dct:
    """The transform of vectors of one layout."""

    def __init__(self, layout: Layout, edge: int) -> None:
        self._tensors = [_Tiling(one.offset, one.shape, edge) for one in layout if one.size]

    def forward(self, vector: Vector) -> Vector:
        """Float32 [n] -> its coefficients [n]; not finite where they overflow."""
        coefficients, compiled = np.empty(vector.size, dtype=np.float32), kernels(SPARED_NS * vector.size)
        with np.errstate(over="ignore", invalid="ignore"):
            for tiling in self._tensors:
                for elements, blocks in tiling.pieces(vector, coefficients):
                    if compiled is None:
                        np.copyto(blocks, tiling.transformed(elements, forward))
                    else:
                        np.copyto(blocks, tiling.transform(elements.copy(), compiled, backward=False))
        return coefficients

    def inverse(self, coefficients: Vector) -> Vector:
        """Float32 [n] -> the vector [n]; not finite where it overflows."""
        vector, compiled = np.empty(coefficients.size, dtype=np.float32), kernels(SPARED_NS * coefficients.size)
        with np.errstate(over="ignore", invalid="ignore"):
            for tiling in self._tensors:
                for elements, blocks in tiling.pieces(vector, coefficients):
                    if compiled is None:
                        np.copyto(elements, tiling.transformed(blocks, inverse))
                    else:
                        np.copyto(elements, blocks)
                        tiling.transform(elements, compiled, backward=True)
        return vector


class _Tiling:
    """One tensor cut into blocks. In each dimension its elements have two axes: which block, and where in the block."""

    def __init__(self, offset: int, shape: Sequence[int], edge: int) -> None:
        self._edges = tuple(largest_divisor(one, edge) for one in shape)
        self._counts = tuple(one // block for one, block in zip(shape, self._edges, strict=True))
        self._offset = offset

    def pieces(self, vector: Vector, coefficients: Vector) -> Iterator[tuple[Blocks, Blocks]]:
        """Views [count, edge, count, edge …] of the same blocks in both flat vectors, some blocks at a time; those of
        the vector are contiguous.
        """
        size, dimensions = math.prod(self._edges) * math.prod(self._counts), len(self._edges)
        inside = slice(self._offset, self._offset + size)
        woven = [one for pair in zip(self._counts, self._edges, strict=True) for one in pair]
        elements = vector[inside].reshape(woven)
        axes = [axis for one in range(dimensions) for axis in (one, dimensions + one)]
        blocks = coefficients[inside].reshape((*self._counts, *self._edges)).transpose(axes)
        if not dimensions:
            yield elements, blocks
            return
        rows = max(1, PIECE * self._counts[0] // size)
        for first in range(0, self._counts[0], rows):
            yield elements[first : first + rows], blocks[first : first + rows]

    def transform(self, values: Blocks, compiled: Kernels, *, backward: bool) -> Blocks:
        """A contiguous piece, each axis of its blocks transformed in place in ascending order."""
        flat = values.reshape(-1)
        for axis, edge in enumerate(self._edges):
            if edge > 1:
                inner = math.prod(values.shape[2 * axis + 2 :])
                compiled.transform(flat, inner, *steps(edge, backward=backward).fields())
        return values

    def transformed(self, values: Blocks, transform: Callable[[Blocks], Blocks]) -> Blocks:
        """The same of any piece, as a new one."""
        for axis, edge in zip(range(1, values.ndim, 2), self._edges, strict=True):
            if edge > 1:
                # the axis first, the others as they lie in memory
                others = sorted(set(range(values.ndim)) - {axis}, key=lambda one: -abs(values.strides[one]))
                moved = values.transpose(axis, *others)
                flat = room(1, edge, moved.size // edge)
                np.copyto(flat[0].reshape(moved.shape), moved)
                values = transform(flat).reshape(moved.shape).transpose(np.argsort([axis, *others]))
        return values


def largest_divisor(size: int, most: int) -> int:
    """The largest divisor of `size` that is at most `most`."""
    return next(divisor for divisor in range(min(size, most), 0, -1) if size % divisor == 0)
