"""One byte a value: the quantiser of PRIME (INTELLECT-1, arXiv 2412.01152).

Bins are 6σ/256 wide around zero point 128, σ = ‖x‖/√(n−1); values beyond fall in the outer bins. Each bin decodes to
the mean of the values that fell in it. We quantise chunks of 65,536 values, so that layers of different scale do not
share bins; a chunk's 256 means cost 1.6 %.

Body: for each chunk 256 little-endian float32 and one byte a value.
"""

import math

import numpy as np
from numpy.typing import NDArray

from trainers.codecs.base import BadPayload, Buffers, Vector, refuse_not_finite

CHUNK = 1 << 16
BINS = 256
ZERO_POINT = 128
CODEBOOK_BYTES = 4 * BINS

# Adding 1.5 · 2^23 to a float32 rounds it to a whole number, ties to even, and leaves that number in its low bits.
ROUNDING = np.float32(1.5 * 2**23 + ZERO_POINT)
NARROWEST = 2.0**-120  # bins narrower than this have no reciprocal in float32


class Int8:
    """Four times fewer bytes than float32."""

    magic = b"TQ8"

    def body_bytes(self, count: int) -> int:
        """See `Values`."""
        return -(-count // CHUNK) * CODEBOOK_BYTES + count

    def encode(self, values: Vector) -> Buffers:
        """See `Values`."""
        body, offset = np.empty(self.body_bytes(values.size), dtype=np.uint8), 0
        quantiser = _Quantiser(min(CHUNK, values.size))
        for start in range(0, values.size, CHUNK):
            chunk = values[start : start + CHUNK]
            indices = body[offset + CODEBOOK_BYTES : offset + CODEBOOK_BYTES + chunk.size]
            codebook = quantiser.quantise(chunk, indices)
            body[offset : offset + CODEBOOK_BYTES] = codebook.astype("<f4").view(np.uint8)
            offset += CODEBOOK_BYTES + chunk.size
        return [body]

    def decode(self, body: memoryview, count: int) -> Vector:
        """See `Values`."""
        values, places, offset = np.empty(count, dtype=np.float32), np.empty(min(CHUNK, count), dtype=np.intp), 0
        for start in range(0, count, CHUNK):
            size = min(CHUNK, count - start)
            codebook = np.frombuffer(body, "<f4", BINS, offset).astype(np.float32)
            refuse_not_finite(codebook)
            np.copyto(places[:size], np.frombuffer(body, np.uint8, size, offset + CODEBOOK_BYTES))
            np.take(codebook, places[:size], out=values[start : start + size], mode="wrap")
            offset += CODEBOOK_BYTES + size
        return values


class _Quantiser:
    """Room for the intermediate values of a chunk, used for one after the other: they stay in the cache, and a round
    costs no page faults.
    """

    def __init__(self, size: int) -> None:
        self._exact, self._scaled = np.empty(size, dtype=np.float64), np.empty(size, dtype=np.float32)
        self._places = np.empty(size, dtype=np.intp)

    def quantise(self, chunk: Vector, indices: NDArray[np.uint8]) -> Vector:
        """Float32 [n] -> bin means [256]; each value's bin is written to `indices` [n]. Raises BadPayload."""
        size = chunk.size
        exact, scaled, places = self._exact[:size], self._scaled[:size], self._places[:size]
        np.copyto(exact, chunk)
        squares = float(np.square(exact, out=places.view(np.float64)).sum())  # no BLAS: see `sum_of_squares`
        if not math.isfinite(squares):
            raise BadPayload("not all elements are finite")
        width = 6.0 * math.sqrt(squares / max(1, size - 1)) / BINS
        if width > NARROWEST:
            np.multiply(chunk, np.float32(1.0 / width), out=scaled)
        else:
            np.multiply(exact, 1.0 / width if width > 0.0 else 0.0, out=scaled, casting="same_kind")
        np.clip(scaled, np.float32(-ZERO_POINT), np.float32(BINS - 1 - ZERO_POINT), out=scaled)
        scaled += ROUNDING
        np.copyto(indices, scaled.view(np.int32), casting="unsafe")
        np.copyto(places, indices)
        return _means(places, exact, squares)


def _means(places: NDArray[np.intp], exact: NDArray[np.float64], squares: float) -> Vector:
    """The mean of each bin's values, 0 for an empty bin; `exact` is used up.

    One `bincount` gives sums and counts together, half the price of two: a power of two above twice |Σx| of any bin
    (at most √n ‖x‖, Cauchy–Schwarz) is added to every value, so that how often it is in a bin's sum is that bin's
    count. It costs the sums at most 2⁻¹⁹ σ of their precision.
    """
    bound = math.sqrt(squares * exact.size)
    if bound == 0.0:
        return np.zeros(BINS, dtype=np.float32)
    step = 2.0 ** (math.frexp(bound)[1] + 2)
    exact += step
    sums = np.bincount(places, weights=exact, minlength=BINS)
    counts = np.rint(sums / step)
    return ((sums - counts * step) / np.maximum(counts, 1.0)).astype(np.float32)
