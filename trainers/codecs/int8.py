"""One byte an element: the quantiser of PRIME (INTELLECT-1, arXiv 2412.01152).

Bins are 6σ/256 wide around zero point 128, σ = ‖x‖/√(n−1); values beyond fall in the outer bins. Each bin decodes to
the mean of the values that fell in it. We quantise chunks of 65,536 elements, so that layers of different scale do not
share bins; a chunk's 256 means cost 1.6 %. No error feedback, as published.

Payload: header, then for each chunk 256 little-endian float32 and one byte an element.
"""

import math

import numpy as np
from numpy.typing import NDArray

from trainers.codecs.base import HEADER, BadPayload, Encoded, Vector, checked_body, header, refuse_not_finite

MAGIC = b"TQ8\x01"
CHUNK = 1 << 16
BINS = 256
ZERO_POINT = 128
CODEBOOK_BYTES = 4 * BINS


class Int8:
    """Four times fewer bytes than float32."""

    name = "int8"

    def promised_bytes(self, elements: int) -> int:
        """Header, a codebook a chunk, one byte an element."""
        return HEADER.size + -(-elements // CHUNK) * CODEBOOK_BYTES + elements

    def encode(self, tensor: Vector, residual: Vector | None) -> tuple[Encoded, Vector | None]:
        """See `Codec.encode`."""
        parts, quantiser = [header(MAGIC, tensor.size)], _Quantiser(min(CHUNK, tensor.size))
        for start in range(0, tensor.size, CHUNK):
            codebook, indices = quantiser.quantise(tensor[start : start + CHUNK])
            parts += [codebook.astype("<f4").tobytes(), indices.tobytes()]
        return b"".join(parts), residual

    def decode(self, payload: Encoded, elements: int) -> Vector:
        """See `Codec.decode`."""
        body = checked_body(payload, MAGIC, elements, self.promised_bytes(elements))
        tensor, offset = np.empty(elements, dtype=np.float32), 0
        for start in range(0, elements, CHUNK):
            size = min(CHUNK, elements - start)
            codebook = np.frombuffer(body, "<f4", BINS, offset).astype(np.float32)
            refuse_not_finite(codebook)
            indices = np.frombuffer(body, np.uint8, size, offset + CODEBOOK_BYTES)
            np.take(codebook, indices, out=tensor[start : start + size], mode="clip")
            offset += CODEBOOK_BYTES + size
        return tensor


class _Quantiser:
    """Room for the intermediate values of a chunk, used for one after the other: they stay in the cache, and a round
    costs no page faults.
    """

    def __init__(self, size: int) -> None:
        self._exact, self._scaled = np.empty(size, dtype=np.float64), np.empty(size, dtype=np.float64)
        self._bins, self._places = np.empty(size, dtype=np.int16), np.empty(size, dtype=np.intp)

    def quantise(self, chunk: Vector) -> tuple[Vector, NDArray[np.uint8]]:
        """Float32 [n] -> bin means [256] and each element's bin, uint8 [n]. Raises BadPayload when not all is finite."""
        size = chunk.size
        exact, scaled, bins, places = (room[:size] for room in (self._exact, self._scaled, self._bins, self._places))
        np.copyto(exact, chunk)
        squares = float(np.square(exact, out=scaled).sum())  # no BLAS: see `sum_of_squares`
        if not math.isfinite(squares):
            raise BadPayload("not all elements are finite")
        width = 6.0 * math.sqrt(squares / max(1, size - 1)) / BINS
        np.divide(exact, width if width > 0.0 else 1.0, out=scaled)
        np.rint(scaled, out=scaled)
        np.copyto(bins, scaled, casting="unsafe")  # |x| / width < 256 / 6 √n, so 16 bits hold every bin of a chunk
        np.clip(bins, -ZERO_POINT, BINS - 1 - ZERO_POINT, out=bins)
        bins += ZERO_POINT
        np.copyto(places, bins)
        counts = np.bincount(places, minlength=BINS)
        sums = np.bincount(places, weights=exact, minlength=BINS)
        return (sums / np.maximum(counts, 1)).astype(np.float32), bins.astype(np.uint8)
