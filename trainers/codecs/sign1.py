"""One bit a value: its sign, with the mean magnitude of each chunk of 4,096 values, which is the scale of least error.

As in signSGD with scales (arXiv 1901.09847); DisTrO sends signs alone and takes the sign of the sum, which a positive
scale does not change.

Body: a little-endian float32 scale a chunk, then eight signs a byte, the first in the lowest bit, 1 for negative.
"""

import numpy as np

from trainers.codecs.base import Buffers, Vector, in_rows, refuse_not_finite, scaled_look_up

CHUNK = 1 << 12
ROWS = 16  # chunks worked on at a time, so that what lies between passes stays in the cache

_BYTES = np.arange(256, dtype=np.uint8)
_SIGNS = np.where(np.unpackbits(_BYTES, bitorder="little"), np.float32(-1.0), np.float32(1.0)).reshape(256, 8)


class Sign1:
    """Thirty-two times fewer bytes than float32. A zero travels as positive."""

    magic = b"TS1"

    def body_bytes(self, count: int) -> int:
        """See `Values`."""
        return 4 * -(-count // CHUNK) + -(-count // 8)

    def encode(self, values: Vector) -> Buffers:
        """See `Values`."""
        refuse_not_finite(values)
        scales = []
        for start in range(0, values.size, ROWS * CHUNK):
            part = values[start : start + ROWS * CHUNK]
            sums = in_rows(np.abs(part), CHUNK).sum(axis=1, dtype=np.float64)
            sums /= np.minimum(CHUNK, part.size - CHUNK * np.arange(sums.size))
            scales.append(sums.astype("<f4"))
        return [*scales, np.packbits(values < 0.0, bitorder="little")]

    def decode(self, body: memoryview, count: int) -> Vector:
        """See `Values`."""
        return scaled_look_up(_SIGNS, CHUNK, body, count)
