"""Values as shorter floats: float32 itself, IEEE half precision, bfloat16. Little-endian, one after the other.

Rounding is to the nearest, ties to even; what is beyond the largest half becomes that.
"""

import numpy as np
from numpy.typing import NDArray

from trainers.codecs.base import Buffers, Vector, refuse_not_finite

LARGEST_FP16 = np.float32(65504.0)
LEAST_NORMAL_FP16 = np.float32(2.0**-14)
BLOCK = 1 << 16  # values worked on at a time, so that what lies between passes stays in the cache


class Identity:
    """Four bytes a value, nothing lost."""

    magic = b"TF4"

    def body_bytes(self, count: int) -> int:
        """See `Values`."""
        return 4 * count

    def encode(self, values: Vector) -> Buffers:
        """See `Values`."""
        refuse_not_finite(values)
        return [values.astype("<f4", copy=False)]

    def decode(self, body: memoryview, count: int) -> Vector:
        """See `Values`."""
        values = np.frombuffer(body, dtype="<f4")
        if not (values.flags.aligned and values.dtype == np.float32):
            values = values.astype(np.float32)
        refuse_not_finite(values)
        return values


class Fp16:
    """Two bytes a value: 11 significant bits, steps of 6e-8 below 6e-5."""

    magic = b"TF2"

    def body_bytes(self, count: int) -> int:
        """See `Values`."""
        return 2 * count

    def encode(self, values: Vector) -> Buffers:
        """See `Values`."""
        refuse_not_finite(values)
        halves, size = np.empty(values.size, dtype="<u2"), min(BLOCK, values.size)
        magnitudes, room = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.uint32)
        for start in range(0, values.size, BLOCK):
            part = values[start : start + BLOCK]
            halves[start : start + BLOCK] = _halves(part, magnitudes[: part.size], room[: part.size])
        return [halves]

    def decode(self, body: memoryview, count: int) -> Vector:
        """See `Values`."""
        values = np.frombuffer(body, dtype="<f2").astype(np.float32)
        refuse_not_finite(values)
        return values


class Bf16:
    """Two bytes a value: float32's exponent, 8 significant bits."""

    magic = b"TB2"

    def body_bytes(self, count: int) -> int:
        """See `Values`."""
        return 2 * count

    def encode(self, values: Vector) -> Buffers:
        """See `Values`."""
        refuse_not_finite(values)
        shorts, size = np.empty(values.size, dtype="<u2"), min(BLOCK, values.size)
        room, odd = (np.empty(size, dtype=np.uint32) for _ in range(2))
        for start in range(0, values.size, BLOCK):
            part = values[start : start + BLOCK]
            bits = room[: part.size]
            np.copyto(bits, part.view(np.uint32))
            ties = np.right_shift(bits, 16, out=odd[: part.size])
            ties &= 1
            bits += ties
            bits += 0x7FFF
            bits >>= 16
            shorts[start : start + BLOCK] = bits
        return [shorts]

    def decode(self, body: memoryview, count: int) -> Vector:
        """See `Values`."""
        bits = np.frombuffer(body, dtype="<u2").astype(np.uint32)
        bits <<= 16
        values = bits.view(np.float32)
        refuse_not_finite(values)
        return values


def _halves(part: Vector, magnitudes: Vector, room: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The bits of each value as half, in `magnitudes`' own memory: `astype` takes ten times as long."""
    np.minimum(np.abs(part, out=magnitudes), LARGEST_FP16, out=magnitudes)
    small = magnitudes < LEAST_NORMAL_FP16
    # Adding 1/2 rounds a small value to steps of 2^-24, the half's own below its least normal one.
    fine = magnitudes[small] + np.float32(0.5)
    bits = magnitudes.view(np.uint32)
    odd = np.right_shift(bits, 13, out=room)
    odd &= 1
    bits += odd
    bits += 0xFFF
    bits >>= 13
    bits -= 112 << 10  # the exponent's bias: 127 there, 15 here
    bits[small] = fine.view(np.uint32) - 0x3F000000
    signs = np.right_shift(part.view(np.uint32), 16, out=room)
    signs &= 0x8000
    bits |= signs
    return bits
