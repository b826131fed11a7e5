"""Several blobs in one body: each is its SHA-256 (32 bytes), its length (8 bytes, big-endian), and its bytes. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

MAX_BYTES: Final = 1 << 24
"""Of one blob: as long as the longest block of what a command saves."""
MAX_BLOBS: Final = 4_096
PIECE_BYTES: Final = 1 << 18
_HEAD: Final = struct.Struct(">32sQ")


class FramesWrong(ValueError):
    """A body is no sequence of such blobs; the text says where."""


@dataclass(frozen=True, slots=True)
class Framed:
    """A blob as it came: what it is said to be called, and its bytes in pieces."""

    digest: str
    pieces: tuple[memoryview, ...]

    @property
    def bytes(self) -> int:
        """Its length."""
        return sum(map(len, self.pieces))


class Frames:
    """Takes a body apart as it comes; holds no more of it than the blob that is not whole yet."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._digest, self._left, self._begun = "", 0, 0
        self._pieces: list[memoryview] = []

    def feed(self, part: bytes) -> Iterator[Framed]:
        """Blobs that are whole with this part. Raises FramesWrong for one that is too long, or one too many."""
        view = memoryview(part)
        while view:
            if len(self._head) < _HEAD.size:
                more = view[: _HEAD.size - len(self._head)]
                self._head += more
                view = view[len(more) :]
                if len(self._head) < _HEAD.size:
                    return
                self._begin()
            piece, view = view[: self._left], view[self._left :]
            self._left -= len(piece)
            if len(piece):
                self._pieces.append(piece)
            if not self._left:
                yield Framed(self._digest, tuple(self._pieces))
                self._head.clear()
                self._pieces.clear()

    def close(self) -> None:
        """The body is over. Raises FramesWrong within a blob."""
        if self._head:
            raise FramesWrong(f"the body ends within blob {max(1, self._begun)}")

    def _begin(self) -> None:
        raw, self._left = _HEAD.unpack(self._head)
        self._digest, self._begun = raw.hex(), self._begun + 1
        if self._begun > MAX_BLOBS:
            raise FramesWrong(f"the body holds more than {MAX_BLOBS} blobs")
        if self._left > MAX_BYTES:
            raise FramesWrong(f"blob {self._begun} of the body has {self._left} bytes; {MAX_BYTES} may come this way")


def framed(blobs: Iterable[tuple[str, bytes | memoryview]]) -> Sequence[bytes | memoryview]:
    """A body of (digest, bytes), in pieces of at most PIECE_BYTES, of which none is a copy."""
    body: list[bytes | memoryview] = []
    for digest, content in blobs:
        view = memoryview(content)
        body.append(_HEAD.pack(bytes.fromhex(digest), len(view)))
        body += [view[at : at + PIECE_BYTES] for at in range(0, len(view), PIECE_BYTES)]
    return body
