"""Four bytes an element, nothing lost."""

import numpy as np

from trainers.codecs.base import HEADER, Encoded, Vector, checked_body, header, refuse_not_finite

MAGIC = b"TF4\x01"


class Identity:
    """Little-endian float32."""

    name = "identity"

    def promised_bytes(self, elements: int) -> int:
        """Header and four bytes an element."""
        return HEADER.size + 4 * elements

    def encode(self, tensor: Vector, residual: Vector | None) -> tuple[Encoded, Vector | None]:
        """See `Codec.encode`."""
        refuse_not_finite(tensor)
        return header(MAGIC, tensor.size) + tensor.astype("<f4", copy=False).tobytes(), residual

    def decode(self, payload: Encoded, elements: int) -> Vector:
        """See `Codec.decode`."""
        body = checked_body(payload, MAGIC, elements, self.promised_bytes(elements))
        tensor = np.frombuffer(body, dtype="<f4").astype(np.float32)
        refuse_not_finite(tensor)
        return tensor
