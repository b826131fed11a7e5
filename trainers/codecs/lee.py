"""Lee's recursion for the orthonormal DCT-II and its inverse (IEEE Trans. ASSP 32, 1984, 1243–1245).

Halves of even lengths, a sum in ascending order for odd ones, over whole arrays of columns: `forward` and `inverse` in
numpy, level by level; `steps` says the same as a list of what happens to which rows, for the compiled loop. Single
additions and multiplications only, no matrix product, whose order of additions is the machine's: both ways, and every
machine, give the same bits.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Blocks: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = NDArray[np.uint32]

PADDING = 16  # one line of the cache


@dataclass(frozen=True, slots=True)
class Steps:
    """A transform of N rows in place. Forward: load, halve, multiply, add, store; backward: load, add, multiply, join,
    store.

    `halves`[i] are rows a, b: forward a, b = a + b, (a − b) · factor; backward a, b = a + b · factor, a − b · factor.
    `odd` [blocks, n] are the rows of blocks of odd length, each multiplied by `matrix` [n, n]. `sums`[i] are rows a, b:
    a = a + b. Row `entry`[k] is loaded from place k times `gains`[k], place k stored from row `leave`[k] times
    `norms`[k]; both [N].
    """

    backward: bool
    entry: Rows
    gains: Blocks
    halves: Rows
    factors: Blocks
    odd: Rows
    matrix: Blocks
    sums: Rows
    leave: Rows
    norms: Blocks

    def fields(self) -> tuple[Any, ...]:
        """As the compiled loop takes them."""
        return (
            self.backward, self.entry, self.gains, self.halves, self.factors, self.odd, self.matrix, self.sums,
            self.leave, self.norms,
        )  # fmt: skip


@cache
def steps(size: int, *, backward: bool) -> Steps:
    """The transform of `size` rows, and the reverse of its steps in reverse order for the way back."""
    blocks, halves, factors = [list(range(size))], list[tuple[int, int]](), list[np.float32]()
    while len(blocks[0]) % 2 == 0:
        middle = len(blocks[0]) // 2
        # The differences stay where the last rows were, which makes their order the reverse.
        pairs = [(one[:middle], one[: middle - 1 : -1]) for one in blocks]
        for first, last in pairs:
            halves += zip(first, last, strict=True)
            factors += list(secants(2 * middle)[:, 0])
        blocks = list(chain.from_iterable(pairs))
    odd, sums = np.array(blocks, dtype=np.uint32), list[tuple[int, int]]()
    while len(blocks) > 1:
        for one in blocks[1::2]:
            sums += pairwise(one)
        blocks = [list(chain(*zip(*pair, strict=True))) for pair in zip(blocks[::2], blocks[1::2], strict=True)]
    there, ones = np.arange(size, dtype=np.uint32), np.ones(size, dtype=np.float32)
    order, scales, matrix = np.array(blocks[0], dtype=np.uint32), norms(size)[:, 0].copy(), table(odd.shape[1])
    if backward:
        halves, factors, sums = halves[::-1], factors[::-1], [(b, a) for a, b in sums[::-1]]
        order, there, scales, ones, matrix = there, order, ones, scales, np.ascontiguousarray(matrix.T)
    rows = [np.array(one, dtype=np.uint32).reshape(-1, 2) for one in (halves, sums)]
    return Steps(backward, there, ones, rows[0], np.array(factors, np.float32), odd, matrix, rows[1], order, scales)


def forward(parts: Blocks) -> Blocks:
    """Orthonormal DCT-II along axis 1 of [1, N, m], which is used up: y_k = norm_k Σ_n x_n cos(π (2n + 1) k / 2N).

    All parts of a level are worked on at once, as [parts, length, m]: halved until lengths are odd, then interleaved.
    """
    while parts.shape[1] % 2 == 0:
        count, size, width = parts.shape
        halves = room(2 * count, size // 2, width).reshape(count, 2, size // 2, width)
        first, last = parts[:, : size // 2], parts[:, : size // 2 - 1 : -1]
        np.add(first, last, out=halves[:, 0])
        np.subtract(first, last, out=halves[:, 1])
        halves[:, 1] *= secants(size)
        parts = halves.reshape(2 * count, size // 2, width)
    if parts.shape[1] > 1:
        parts = _product(table(parts.shape[1]), parts)
    while len(parts) > 1:
        count, size, width = len(parts) // 2, 2 * parts.shape[1], parts.shape[2]
        halves, parts = parts.reshape(count, 2, size // 2, width), room(count, size, width)
        parts[:, ::2] = halves[:, 0]
        np.add(halves[:, 1, :-1], halves[:, 1, 1:], out=parts[:, 1:-1:2])
        parts[:, -1] = halves[:, 1, -1]
    whole: Blocks = parts[0]
    whole *= norms(len(whole))
    return whole


def inverse(parts: Blocks) -> Blocks:
    """Its inverse, the orthonormal DCT-III: x_n = Σ_k norm_k y_k cos(π (2n + 1) k / 2N)."""
    parts *= norms(parts.shape[1])
    while parts.shape[1] % 2 == 0:
        count, size, width = parts.shape
        halves = room(2 * count, size // 2, width).reshape(count, 2, size // 2, width)
        halves[:, 0] = parts[:, ::2]
        halves[:, 1, 0] = parts[:, 1]
        np.add(parts[:, 1:-1:2], parts[:, 3::2], out=halves[:, 1, 1:])
        parts = halves.reshape(2 * count, size // 2, width)
    if parts.shape[1] > 1:
        parts = _product(table(parts.shape[1]).T, parts)
    while len(parts) > 1:
        count, size, width = len(parts) // 2, 2 * parts.shape[1], parts.shape[2]
        halves, parts = parts.reshape(count, 2, size // 2, width), room(count, size, width)
        halves[:, 1] *= secants(size)
        np.add(halves[:, 0], halves[:, 1], out=parts[:, : size // 2])
        np.subtract(halves[:, 0], halves[:, 1], out=parts[:, : size // 2 - 1 : -1])
    whole: Blocks = parts[0]
    return whole


def room(count: int, size: int, width: int) -> Blocks:
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
def table(size: int) -> Blocks:
    """cos(π (2n + 1) k / 2N) as [k, n]."""
    rows = [[math.cos(math.pi * ((2 * n + 1) * k % (4 * size)) / (2 * size)) for n in range(size)] for k in range(size)]
    return np.array(rows, dtype=np.float32)


@cache
def secants(size: int) -> Blocks:
    """1 / (2 cos(π (2n + 1) / 2N)) for the first half of n, as [n, 1]."""
    return np.array([[0.5 / math.cos(math.pi * (2 * n + 1) / (2 * size))] for n in range(size // 2)], dtype=np.float32)


@cache
def norms(size: int) -> Blocks:
    """√(2/N), and √(1/N) for the first, as [k, 1]."""
    return np.array([[math.sqrt((1 if k == 0 else 2) / size)] for k in range(size)], dtype=np.float32)
