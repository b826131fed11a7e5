"""Frames of a session: a type, a length, bytes. Both ends and the market between them read the same; see docs/FORMATS.md.

Pure. A stream is a row of frames: one byte of type, four of length (big-endian), so many bytes, at most MAX_PAYLOAD_BYTES.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

STDIN, STDIN_END, SIGNAL, SIZE = 0x01, 0x02, 0x03, 0x04
STDOUT, STDERR, CREDIT, EXIT = 0x11, 0x12, 0x13, 0x1F
PING, OVER = 0x20, 0x2F

FROM_CUSTOMER: Final = frozenset({STDIN, STDIN_END, SIGNAL, SIZE})
FROM_MACHINE: Final = frozenset({STDOUT, STDERR, CREDIT, EXIT})
FROM_MARKET: Final = frozenset({PING, OVER})

HEAD: Final = struct.Struct(">BI")
MAX_PAYLOAD_BYTES: Final = 64 << 10
WINDOW_BYTES: Final = 1 << 20
"""Of input that a customer may have sent before the machine says that it was taken (CREDIT)."""
_SIZES: Final = {STDIN_END: 0, SIGNAL: 1, SIZE: 4, CREDIT: 4, PING: 0}

Frame = tuple[int, bytes]


class BadFrame(ValueError):
    """Bytes that are no frames, or frames that this side may not send."""


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    assert len(payload) <= MAX_PAYLOAD_BYTES, len(payload)
    return HEAD.pack(kind, len(payload)) + payload


def frames(kind: int, data: bytes) -> bytes:
    """Data of any length, as frames of one type."""
    return b"".join(
        frame(kind, data[at : at + MAX_PAYLOAD_BYTES]) for at in range(0, len(data), MAX_PAYLOAD_BYTES)
    )


class Reader:
    """Frames out of bytes that come in any pieces. `allowed`: the types that the other side may send."""

    def __init__(self, allowed: frozenset[int]) -> None:
        self._allowed = allowed
        self._rest = bytearray()

    @property
    def whole(self) -> bool:
        """Whether nothing of a frame is left over."""
        return not self._rest

    def read(self, data: bytes) -> Iterator[Frame]:
        """The frames that end with these bytes. Raises BadFrame; the stream is of no use then."""
        self._rest += data
        while len(self._rest) >= HEAD.size:
            kind, length = HEAD.unpack_from(self._rest)
            if kind not in self._allowed:
                raise BadFrame(f"type {kind:#04x} may not be sent here")
            if length > MAX_PAYLOAD_BYTES or length != _SIZES.get(kind, length):
                raise BadFrame(f"a frame of type {kind:#04x} with {length} bytes")
            if len(self._rest) < HEAD.size + length:
                return
            payload = bytes(self._rest[HEAD.size : HEAD.size + length])
            del self._rest[: HEAD.size + length]
            yield kind, payload


def whole_frames(data: bytes, allowed: frozenset[int]) -> list[Frame]:
    """All frames of bytes that must end with one. Raises BadFrame."""
    reader = Reader(allowed)
    found = list(reader.read(data))
    if not reader.whole:
        raise BadFrame("the last frame is cut off")
    return found
