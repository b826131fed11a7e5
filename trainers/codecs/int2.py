"""A quarter of a byte a value: four bins 6σ wide together, as SparseLoCo sends (arXiv 2508.15706; Covenant, 2603.08163).

Bins meet at −1.5σ, 0 and 1.5σ, σ = ‖x‖/√(n−1), so that signs are kept; the outer ones take all beyond. Each bin decodes
to the mean of the values that fell in it. Chunks of 4,096 values have bins of their own.

Body: for each chunk four little-endian float32, the bin means; then four codes a byte, the first in the lowest bits.
"""

import numpy as np
from numpy.typing import NDArray

from trainers.codecs.base import BadPayload, Buffers, Vector, in_rows, refuse_not_finite

CHUNK = 1 << 12
ROWS = 16  # chunks worked on at a time, so that what lies between passes stays in the cache
BINS = 4
EDGE_SIGMAS = 1.5

_BYTES = np.arange(256)
_QUADS = np.stack([_BYTES >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).astype(np.uint8).reshape(-1).view(np.uint32)


class Int2:
    """Sixteen times fewer bytes than float32."""

    magic = b"TQ2"

    def body_bytes(self, count: int) -> int:
        """See `Values`."""
        return 4 * BINS * -(-count // CHUNK) + -(-count // 4)

    def encode(self, values: Vector) -> Buffers:
        """See `Values`."""
        refuse_not_finite(values)
        codebooks, packed = [], []
        for start in range(0, values.size, ROWS * CHUNK):
            part = values[start : start + ROWS * CHUNK]
            codebook, codes = _quantise(part)
            codebooks.append(codebook.astype("<f4"))
            quads = in_rows(codes.reshape(-1)[: part.size], 4)
            packed.append(quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6)
        return [*codebooks, *packed]

    def decode(self, body: memoryview, count: int) -> Vector:
        """See `Values`."""
        chunks = -(-count // CHUNK)
        codebooks = np.frombuffer(body, "<f4", BINS * chunks).astype(np.float32)
        refuse_not_finite(codebooks)
        packed = np.frombuffer(body, np.uint8, -1, 4 * BINS * chunks)
        if count % 4 and packed[-1] >> 2 * (count % 4):
            raise BadPayload("codes after the last value")
        values = np.empty(count, dtype=np.float32)
        for start in range(0, count, ROWS * CHUNK):
            size = min(ROWS * CHUNK, count - start)
            quads = np.take(_QUADS, packed[start // 4 : (start + size + 3) // 4], mode="wrap")
            places = quads.view(np.uint8)[:size].astype(np.intp)
            places += np.arange(start // CHUNK, (start + size - 1) // CHUNK + 1).repeat(CHUNK)[:size] * BINS
            np.take(codebooks, places, out=values[start : start + size], mode="wrap")
        return values


def _quantise(values: Vector) -> tuple[Vector, NDArray[np.uint8]]:
    """Float32 [n] -> bin means [chunks, 4] and each value's bin [chunks, 4096]."""
    exact = in_rows(values.astype(np.float64), CHUNK)
    sizes = np.full(len(exact), CHUNK)
    sizes[-1] = (values.size - 1) % CHUNK + 1
    edges = EDGE_SIGMAS * np.sqrt(np.square(exact).sum(axis=1) / np.maximum(1, sizes - 1))[:, None]
    codes = 1 + (exact >= 0.0).view(np.uint8) + (exact >= edges) - (exact < -edges)
    places = (codes + np.arange(len(exact))[:, None] * BINS).reshape(-1)[: values.size]
    counts = np.bincount(places, minlength=BINS * len(exact))
    sums = np.bincount(places, weights=exact.reshape(-1)[: values.size], minlength=BINS * len(exact))
    return (sums / np.maximum(counts, 1)).astype(np.float32), codes.astype(np.uint8)
