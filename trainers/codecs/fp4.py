"""Half a byte a value: sign and three bits of exponent (E3M0), as Streaming DiLoCo sends (arXiv 2501.18512, section 2.3).

Each chunk of 1,024 values has a float32 scale s, its largest magnitude. A value travels as ± s·2^(e−7), e = 1 … 7, the
nearest of these (from 1.5 times one on the next), or as 0 (e = 0) below 0.75 · 2^−6 s.

Body: a scale a chunk, then two codes a byte, the first in the low half: sign bit 8, exponent bits 0–7.
"""

import numpy as np

from trainers.codecs.base import Buffers, Vector, in_rows, refuse_not_finite, scaled_look_up

CHUNK = 1 << 10
ROWS = 64  # chunks worked on at a time, so that what lies between passes stays in the cache
LEVELS = 7
SIGN = 8

_MAGNITUDES = np.array([0.0, *(2.0 ** (code - LEVELS) for code in range(1, LEVELS + 1))], dtype=np.float32)
_CODES = np.concatenate([_MAGNITUDES, -_MAGNITUDES])
_CODES[SIGN] = 0.0  # no negative zeros
_BYTES = np.arange(256)
_PAIRS = np.stack([_CODES[_BYTES & 15], _CODES[_BYTES >> 4]], axis=1)

_HALF_MANTISSA = np.uint32(1 << 22)  # carries into the exponent from 1.5 times a power of two on
_LOWEST = np.int32(127 - LEVELS)


class Fp4:
    """Eight times fewer bytes than float32."""

    magic = b"TE4"

    def body_bytes(self, count: int) -> int:
        """See `Values`."""
        return 4 * -(-count // CHUNK) + -(-count // 2)

    def encode(self, values: Vector) -> Buffers:
        """See `Values`."""
        refuse_not_finite(values)
        scales, packed = [], []
        for start in range(0, values.size, ROWS * CHUNK):
            rows = in_rows(values[start : start + ROWS * CHUNK], CHUNK)
            magnitudes = np.abs(rows)
            scale = magnitudes.max(axis=1)
            np.divide(magnitudes, np.where(scale > 0.0, scale, np.float32(1.0))[:, None], out=magnitudes)
            bits = magnitudes.view(np.uint32)
            bits += _HALF_MANTISSA
            bits >>= 23
            exponents = bits.view(np.int32)
            exponents -= _LOWEST
            codes = np.clip(exponents, 0, LEVELS, out=exponents).astype(np.uint8)
            codes |= np.signbit(rows).view(np.uint8) << 3
            packed.append((codes[:, ::2] | codes[:, 1::2] << 4).reshape(-1))
            scales.append(scale.astype("<f4"))
        packed[-1] = packed[-1][: -(-((values.size - 1) % (ROWS * CHUNK) + 1) // 2)]
        return [*scales, *packed]

    def decode(self, body: memoryview, count: int) -> Vector:
        """See `Values`."""
        return scaled_look_up(_PAIRS, CHUNK, body, count)
