"""A quarter of a byte a value: four bins 6σ wide together, as SparseLoCo sends (arXiv 2508.15706; Covenant, 2603.08163).

Bins meet at −1.5σ, 0 and 1.5σ, σ = ‖x‖/√(n−1), so that signs are kept; the outer ones take all beyond. Each bin decodes
to the mean of the values that fell in it. Chunks of 4,096 values have bins of their own.

Body: for each chunk four little-endian float32, the bin means; then four codes a byte, the first in the lowest bits.
"""

import numpy as np
from numpy.typing import NDArray

from trainers.codecs.base import BadPayload, Buffers, Vector, in_rows, refuse_not_finite

CHUNK = 1 << 12
ROWS = 4  # chunks worked on at a time, so that what lies between passes stays in the cache
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
            quads = codes.view("<u4")
            quads |= quads >> 6 | quads >> 12 | quads >> 18
            packed.append(quads.astype(np.uint8)[: -(-part.size // 4)])
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
        codes = np.zeros((ROWS, CHUNK // 4), dtype=np.uint32)
        places, rows = np.empty((ROWS, CHUNK), dtype=np.intp), BINS * np.arange(ROWS)[:, None]
        for start in range(0, count, ROWS * CHUNK):
            part, part_packed = values[start : start + ROWS * CHUNK], packed[start // 4 : (start + ROWS * CHUNK) // 4]
            np.take(_QUADS, part_packed, out=codes.reshape(-1)[: part_packed.size], mode="wrap")
            np.add(codes.view(np.uint8), rows, out=places)
            means = codebooks[BINS * start // CHUNK :]
            np.take(means, places.reshape(-1)[: part.size], out=part, mode="wrap")
        return values


def _quantise(values: Vector) -> tuple[Vector, NDArray[np.uint8]]:
    """Float32 [n] -> bin means [chunks, 4] and each value's bin [chunks · 4096], 0 after the last one."""
    rows = in_rows(values, CHUNK)
    exact = rows.astype(np.float64)
    sizes = np.full(len(rows), CHUNK)
    sizes[-1] = (values.size - 1) % CHUNK + 1
    edges = EDGE_SIGMAS * np.sqrt(np.square(exact).sum(axis=1) / np.maximum(1, sizes - 1))
    positive, outer = rows >= 0.0, np.abs(rows) >= edges.astype(np.float32)[:, None]
    codes = (positive == outer).view(np.uint8)
    codes += positive.view(np.uint8) << 1
    flat, bins = codes.reshape(-1), BINS * len(rows)
    flat[values.size :] = 0
    places = (codes + BINS * np.arange(len(rows))[:, None]).reshape(-1)[: values.size]
    counts = np.bincount(places, minlength=bins)
    sums = np.bincount(places, weights=exact.reshape(-1)[: values.size], minlength=bins)
    return (sums / np.maximum(counts, 1)).astype(np.float32), flat
