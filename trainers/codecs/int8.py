"""One byte a value: the quantiser of PRIME (INTELLECT-1, arXiv 2412.01152).

Bins are 6σ/256 wide around zero point 128, σ = ‖x‖/√(n−1); values beyond fall in the outer bins. Each bin decodes to
the mean of the values that fell in it. We quantise chunks of 65,536 values, so that layers of different scale do not
share bins; a chunk's 256 means cost 1.6 %.

Sums and counts of the bins are made together: a power of two above twice |Σx| of any bin (at most √n ‖x‖,
Cauchy–Schwarz) is added to every value, so that how often it is in a bin's sum is that bin's count. It costs the sums
at most 2⁻¹⁹ σ of their precision, and saves numpy a second `bincount`, the dearest of its passes.

Zero decodes to zero: what did not change (a frozen tensor that shares a chunk with a trained one) does not change at the
receiver either. So where a chunk has zeros, the others of their bin move to one that is empty, if there is any.

Body: for each chunk 256 little-endian float32 and one byte a value.
"""

import math
import threading

import numpy as np
from numpy.typing import NDArray

from trainers.codecs.base import LARGEST, Buffers, Vector, refuse_not_finite, sum_of_squares
from trainers.codecs.kernels import Kernels, kernels

CHUNK = 1 << 16
BINS = 256
ZERO_POINT = 128
CODEBOOK_BYTES = 4 * BINS
ENCODE_SPARED_NS, DECODE_SPARED_NS = 1.7, 0.6  # what compiled loops spare an element (docs/BENCHMARKS.md)

# Adding 1.5 · 2^23 to a float32 rounds it to a whole number, ties to even, and leaves that number in its low bits.
ROUNDING = np.float32(1.5 * 2**23 + ZERO_POINT)
NARROWEST = 2.0**-120  # bins narrower than this have no reciprocal in float32
TRUSTED = (1e-18, 1e36)  # sums of squares that float32 gives right: beyond, squares under- or overflow
SURELY_SMALL = float(LARGEST) ** 2  # a sum of squares up to it has no value beyond LARGEST


class Int8:
    """Four times fewer bytes than float32."""

    magic = b"TQ8"

    def body_bytes(self, count: int) -> int:
        """See `Values`."""
        return -(-count // CHUNK) * CODEBOOK_BYTES + count

    def encode(self, values: Vector) -> Buffers:
        """See `Values`."""
        body, offset = np.empty(self.body_bytes(values.size), dtype=np.uint8), 0
        quantiser, compiled = _quantiser(), kernels(ENCODE_SPARED_NS * values.size)
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, values.size, CHUNK):
                chunk = values[start : start + CHUNK]
                indices = body[offset + CODEBOOK_BYTES : offset + CODEBOOK_BYTES + chunk.size]
                codebook = quantiser.quantise(chunk, indices, compiled)
                body[offset : offset + CODEBOOK_BYTES] = codebook.astype("<f4").view(np.uint8)
                offset += CODEBOOK_BYTES + chunk.size
        return [body]

    def decode(self, body: memoryview, count: int) -> Vector:
        """See `Values`."""
        values, offset = np.empty(count, dtype=np.float32), 0
        quantiser, compiled = _quantiser(), kernels(DECODE_SPARED_NS * count)
        for start in range(0, count, CHUNK):
            part = values[start : start + CHUNK]
            codebook = np.frombuffer(body, "<f4", BINS, offset).astype(np.float32)
            refuse_not_finite(codebook)
            indices = np.frombuffer(body, np.uint8, part.size, offset + CODEBOOK_BYTES)
            if compiled is not None:
                compiled.look_up(codebook, indices, part)
            else:
                quantiser.look_up(codebook, indices, part)
            offset += CODEBOOK_BYTES + part.size
        return values


def _spare_zeros(chunk: Vector, indices: NDArray[np.uint8], means: Vector, counts: NDArray[np.float64]) -> None:
    """Leave the zeros of a chunk alone in their bin, which means zero; or its others with them, where no bin is empty."""
    others, empty = np.flatnonzero((indices == ZERO_POINT) & (chunk != 0.0)), np.flatnonzero(counts == 0.0)
    if others.size and empty.size:
        indices[others] = empty[0]
        means[empty[0]] = chunk[others].mean(dtype=np.float64)
    if others.size < counts[ZERO_POINT]:
        means[ZERO_POINT] = 0.0


_kept = threading.local()


def _quantiser() -> "_Quantiser":
    if not hasattr(_kept, "quantiser"):
        _kept.quantiser = _Quantiser()
    quantiser: _Quantiser = _kept.quantiser
    return quantiser


class _Quantiser:
    """Room for the intermediate values of a chunk, used for one after the other and kept for the thread's next vector:
    they stay in the cache and cost no page faults.
    """

    def __init__(self) -> None:
        self._singles, self._doubles = np.empty(CHUNK, dtype=np.float32), np.empty(CHUNK, dtype=np.float64)
        self._bins, self._places = np.empty(CHUNK, dtype=np.int16), np.empty(CHUNK, dtype=np.intp)

    def quantise(self, chunk: Vector, indices: NDArray[np.uint8], compiled: Kernels | None) -> Vector:
        """Float32 [n] -> bin means [256]; each value's bin is written to `indices` [n]. Raises BadPayload."""
        squares = self._sum_of_squares(chunk)
        zeros = not self._singles[: chunk.size].min() > 0.0  # or what is as good as zero
        width = 6.0 * math.sqrt(squares / max(1, chunk.size - 1)) / BINS
        if width == 0.0:
            indices.fill(ZERO_POINT)
            return np.zeros(BINS, dtype=np.float32)
        step = 2.0 ** (math.frexp(math.sqrt(squares * chunk.size))[1] + 2)
        if compiled is not None and width > NARROWEST:
            sums = np.zeros(BINS)
            compiled.quantise(chunk, np.float32(1.0 / width), step, indices, sums)
        else:
            sums = self._sums(chunk, width, step, indices)
        counts = np.rint(sums / step)
        means = ((sums - counts * step) / np.maximum(counts, 1.0)).astype(np.float32)
        if zeros:
            _spare_zeros(chunk, indices, means, counts)
        return means

    def _sums(self, chunk: Vector, width: float, step: float, indices: NDArray[np.uint8]) -> NDArray[np.float64]:
        """For each bin the sum of its values plus `step` each [256]; each value's bin is written to `indices` [n]."""
        size = chunk.size
        scaled, bins, places, shifted = (
            self._singles[:size], self._bins[:size], self._places[:size], self._doubles[:size],
        )  # fmt: skip
        if width > NARROWEST:
            np.multiply(chunk, np.float32(1.0 / width), out=scaled)
        else:
            np.multiply(chunk, np.float64(1.0 / width), out=scaled, casting="same_kind")
        scaled += ROUNDING
        # |x| / width <= 256 / 6 √n, so that the low 16 bits hold every bin of a chunk, also before it is clipped
        np.copyto(bins, scaled.view(np.int32), casting="unsafe")
        np.clip(bins, 0, BINS - 1, out=bins)
        np.copyto(indices, bins, casting="unsafe")
        np.copyto(places, bins)
        np.copyto(shifted, chunk)  # a cast while adding goes through buffers, and takes half as long again
        shifted += step
        return np.asarray(np.bincount(places, weights=shifted, minlength=BINS), dtype=np.float64)

    def look_up(self, codebook: Vector, indices: NDArray[np.uint8], values: Vector) -> None:
        """Codebook float32 [256], bins [n] -> `values` [n]."""
        places = self._places[: indices.size]
        np.copyto(places, indices)
        np.take(codebook, places, out=values, mode="wrap")

    def _sum_of_squares(self, chunk: Vector) -> float:
        """Σx²: in float32 where that can neither overflow nor lose small values, else in float64. Raises BadPayload."""
        squares = float(np.square(chunk, out=self._singles[: chunk.size]).sum())
        if not TRUSTED[0] < squares < TRUSTED[1]:
            squares = sum_of_squares(chunk)
        if not squares <= SURELY_SMALL:
            refuse_not_finite(chunk)
        return squares
