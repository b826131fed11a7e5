"""One byte an element: the quantiser of PRIME (INTELLECT-1, arXiv 2412.01152).

Bins are 6σ/256 wide around zero point 128, σ = ‖x‖/√(n−1); values beyond fall in the outer bins. Each bin decodes to
the mean of the values that fell in it. We quantise chunks of 65,536 elements, so that layers of different scale do not
share bins; a chunk's 256 means cost 1.6 %. No error feedback, as published.

Payload: header, then for each chunk 256 little-endian float32 and one byte an element.
"""

import numpy as np
from numpy.typing import NDArray

from trainers.codecs.base import HEADER, Encoded, Vector, checked_body, header, refuse_not_finite

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
        refuse_not_finite(tensor)
        parts = [header(MAGIC, tensor.size)]
        for start in range(0, tensor.size, CHUNK):
            codebook, indices = quantise(tensor[start : start + CHUNK])
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


def quantise(chunk: Vector) -> tuple[Vector, NDArray[np.uint8]]:
    """Float32 [n] -> bin means [256] and each element's bin, uint8 [n]."""
    exact = chunk.astype(np.float64)
    width = 6.0 * float(np.sqrt(np.dot(exact, exact) / max(1, exact.size - 1))) / BINS
    scaled = exact / width if width > 0.0 else exact
    indices = np.clip(np.rint(scaled) + ZERO_POINT, 0, BINS - 1).astype(np.uint8)
    counts = np.bincount(indices, minlength=BINS)
    sums = np.bincount(indices, weights=exact, minlength=BINS)
    return (sums / np.maximum(counts, 1)).astype(np.float32), indices
